"""Augmentation in training: the same draws in any number of processes, mixed targets, refusals.

Training in two processes is in ``test_finetune.py``, which starts them once for all.
"""

import json
import math

import numpy as np
import pytest
import timm
import torch
from conftest import make_config, tiny_backbone, write_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from test_finetune import make_world, places_of, train
from timm.models import Eva

import ppvit.training.checkpoint
from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Augment, checked
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.batches import epoch_batches, shared_out
from ppvit.evasion.pgd import PgdAttack
from ppvit.models import load_model, save_model
from ppvit.pipeline import STAGES
from ppvit.training.augmentation import AUGMENTATIONS, make_augmenter
from ppvit.tuners import load_finetuned, read_finetuned_record
from ppvit.verbs import encrypt, finetune

FACTS = dict.fromkeys(("linear", "permutes", "keeps_blocks", "one_key"), True)
MANIFEST = {"cipher": {"name": "none", "block_size": 4}, "image_size": 16, "num_classes": 3, "facts": FACTS}
ON_IMAGES = [name for name in AUGMENTATIONS if name != "drop_tokens"]
EVERYTHING = ["mixup", "cutmix_blocks", "erase_blocks", "drop_tokens"]


def augmenter(names, seed=0, manifest=MANIFEST, **values):
    return make_augmenter(checked(Augment, names=list(names), **values), manifest, seed)


def batch_of(images, classes=3):
    random = torch.Generator().manual_seed(1)
    inputs = 2 * torch.rand(images, 3, 16, 16, generator=random, dtype=torch.float64) - 1
    return inputs, torch.randint(classes, (images,), generator=random)


def with_augmentation(config, *names, **values):
    return config.model_copy(update={"augment": checked(Augment, names=list(names), **values)})


# the same in any number of processes, divided in any way, after a resume


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5))
def test_neighbours_come_to_the_same_process(samples, batch_size, world):
    whole = epoch_batches(samples, batch_size, 3, 0)
    parts = [epoch_batches(samples, batch_size, 3, 0, rank, world, together=2) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert sorted(np.concatenate([part[step] for part in parts])) == sorted(batch)
        for rank, part in enumerate(parts):
            places = shared_out(len(batch), rank, world, together=2)
            assert (part[step] == batch[places]).all()
            assert set(places ^ 1) - {len(batch)} <= set(places)  # but for one left over, whoever is there has his own


@given(st.integers(1, 20), st.integers(2, 4), st.integers(0, 9), st.sampled_from([ON_IMAGES, ["mixup"], ["contrast"]]))
@settings(max_examples=25)
def test_processes_together_give_what_one_gives(images, world, seed, names):
    inputs, labels = batch_of(images)
    one, many = augmenter(names, seed), [augmenter(names, seed) for _ in range(world)]
    for each in (one, *many):
        each.begin_step(2, 5, 20)
    expected = one(inputs, labels, np.arange(images))
    for rank, each in enumerate(many):
        places = shared_out(images, rank, world, each.together)
        found = each(inputs[places], labels[places], places)
        assert all(torch.equal(part, whole[places]) for part, whole in zip(found, expected, strict=True))


def test_an_even_batch_may_be_divided_by_accumulation():
    inputs, labels = batch_of(22)
    one = augmenter(ON_IMAGES)
    one.begin_step(0, 0, 24)
    whole = one(inputs, labels, np.arange(22))
    parts = [
        one(inputs[start : start + 6], labels[start : start + 6], np.arange(22)[start : start + 6])
        for start in range(0, 22, 6)
    ]
    for number, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts]), expected)


def test_draws_are_of_seed_epoch_and_step_and_of_no_other_augmentation():
    inputs, labels = batch_of(8)

    def contrasted(names, seed=0, epoch=0, step=0):
        made = augmenter(names, seed, brightness=1e-9, erase_probability=1e-9)
        made.begin_step(epoch, step, 8)
        return made(inputs, labels, np.arange(8))[0]

    first = contrasted(["contrast"])
    assert torch.equal(first, contrasted(["contrast"]))
    torch.testing.assert_close(contrasted(["erase_blocks", "contrast"]), first)  # which erases nothing here
    for other in ({"seed": 1}, {"epoch": 1}, {"step": 1}):
        assert not torch.allclose(contrasted(["contrast"], **other), first)


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    config = with_augmentation(make_world(tmp_path), *EVERYTHING)
    train(tmp_path, config, "whole")
    monkeypatch.setattr(ppvit.training.checkpoint, "SAVE_SECONDS", 0.0)  # after every step
    steps, step = [], ppvit.training.loop.Training._optimizer_step

    def stops(self, number):
        step(self, number)
        steps.append(number)
        if len(steps) == 10:  # in the middle of the second epoch of 7 steps
            raise KeyboardInterrupt

    monkeypatch.setattr(ppvit.training.loop.Training, "_optimizer_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, config, "stopped")
    train(tmp_path, config, "stopped")
    assert steps == [*range(10), *range(9, 21)]  # the tenth was not saved any more
    first, second = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert first == second


# what is drawn


def drawn(name, images=4000, **values):
    made = AUGMENTATIONS[name](checked(Augment, names=[name], **values), 16)
    return made.draw(np.random.default_rng(0), images)


def test_amounts_are_those_of_the_parameters():
    shares = drawn("mixup", mixup_alpha=0.2)
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)  # of Beta(a, a)
    exchanged = drawn("cutmix_blocks", cutmix_alpha=1.0).sum(1)
    assert exchanged.mean() == pytest.approx(8, abs=0.3)
    assert set(exchanged) == set(range(17))
    erased = drawn("erase_blocks", erase_fraction=0.25, erase_probability=0.5).sum(1)
    assert (erased > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert set(erased) == {0, 1, 2, 3, 4}
    factors = drawn("contrast", contrast=0.4)
    assert (factors.min(), factors.max()) == pytest.approx((0.6, 1.4), abs=0.01)
    shifts = drawn("brightness", brightness=0.1)
    assert (shifts.min(), shifts.max()) == pytest.approx((-0.2, 0.2), abs=0.01)  # u is 2 wide
    assert set(drawn("drop_tokens", drop_fraction=0.25).sum(1)) == {12}


@pytest.mark.parametrize("name", ["cutmix_blocks", "erase_blocks", "drop_tokens"])
def test_all_sets_of_blocks_are_alike(name):
    """Which is why a trainer may draw them on ciphertext: a key moves one uniform set to another."""
    sets = drawn(name, 20_000)
    for block in (0, 7, 15):
        assert sets[:, block].mean() == pytest.approx(sets.mean(), abs=0.015)
    together = (sets[:, 0] & sets[:, 1]).mean(), (sets[:, 3] & sets[:, 12]).mean()
    assert together[0] == pytest.approx(together[1], abs=0.015)


def test_of_several_that_mix_a_pair_takes_one():
    inputs, labels = batch_of(400)
    made = augmenter(["mixup", "cutmix_blocks"], cutmix_alpha=50.0, mixup_alpha=50.0)
    made.begin_step(0, 0, 400)
    changed, targets = made(inputs, labels, np.arange(400))
    partner = inputs[torch.arange(400) ^ 1]
    exchanged = ((changed == inputs) | (changed == partner)).flatten(1).all(1)
    assert exchanged[::2].equal(exchanged[1::2])
    assert exchanged.double().mean().item() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(targets.sum(1), torch.ones(400, dtype=torch.float64))


def test_mixed_images_and_targets_by_hand():
    inputs, labels = torch.zeros(3, 3, 16, 16), torch.tensor([0, 2, 1])
    inputs[1], inputs[2] = 1.0, -1.0
    made = augmenter(["mixup"])
    made.begin_step(0, 0, 4)
    share = made._drawn["mixup"][0]
    changed, targets = made(inputs, labels, np.arange(3))
    assert changed[:, 0, 0, 0].tolist() == pytest.approx([1 - share, share, -1.0])  # the third is alone
    expected = [[share, 0, 1 - share], [1 - share, 0, share], [0, 1, 0]]
    torch.testing.assert_close(targets, torch.tensor(expected, dtype=torch.float32))


def test_label_sets_are_mixed_as_they_are():
    inputs, _ = batch_of(2)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    made = augmenter(["cutmix_blocks"])
    made.begin_step(0, 0, 2)
    changed, targets = made(inputs, labels, np.arange(2))
    kept = (changed[0] == inputs[0]).double().mean().item()
    torch.testing.assert_close(targets, torch.tensor([[kept, 0.0, 1.0], [1 - kept, 0.0, 1.0]]))


# what training does with it


def test_training_on_adapted_ciphertext_equals_training_on_plain(tmp_path):
    """Under a cipher that moves no block the sets are the same too, so that losses are those of plain images."""
    losses = {}
    for cipher in ("none", "np"):
        config = make_world(tmp_path, cipher, method="full", dropout=0.0, learning_rate=1e-3, epochs=2)
        config = with_augmentation(config, *EVERYTHING, "contrast")
        losses[cipher] = train(tmp_path, config)["train_loss"]
    assert losses["np"] == pytest.approx(losses["none"], rel=1e-3)


def test_it_changes_the_result_and_is_kept_with_the_model(tmp_path):
    config = make_world(tmp_path, epochs=1)
    plain = train(tmp_path, config, "plain")["train_loss"]
    for name in AUGMENTATIONS:
        augmented = with_augmentation(config, name)
        assert train(tmp_path, augmented, name)["train_loss"] != plain, name
        assert read_finetuned_record(tmp_path / name)["augment"]["names"] == [name]
    assert "augment" not in read_finetuned_record(tmp_path / "plain")


@pytest.mark.parametrize("loss", ["at", "trades"])
def test_against_an_attack_the_augmented_images_are_attacked(tmp_path, loss, monkeypatch):
    config = with_augmentation(make_world(tmp_path, epochs=1, adversarial=loss), *EVERYTHING)
    config = config.model_copy(
        update={"adversarial": config.adversarial.model_copy(update={"steps": 2, "step_size": 4.0})}
    )
    seen, perturb = [], PgdAttack.perturb

    def recorded(self, model, images, labels, generator=None):
        moved = perturb(self, model, images, labels, generator)
        if labels.is_floating_point():
            assert (moved - images).abs().max() <= 8 / 127.5 + 1e-6
            seen.append((labels.sum(1), (images == 0).all(1).any()))
        return moved

    monkeypatch.setattr(PgdAttack, "perturb", recorded)
    values = train(tmp_path, config)
    assert math.isfinite(values["train_loss"])
    assert len(seen) >= 6
    torch.testing.assert_close(torch.cat([sums for sums, _ in seen]), torch.ones(sum(len(sums) for sums, _ in seen)))
    assert any(erased for _, erased in seen)
    with pytest.raises(UsageError, match="'contrast' moves pixels beyond black and white, .*; leave it out, or set"):
        train(tmp_path, with_augmentation(config, "contrast"))


def test_tokens_are_there_again_when_training_is_over(tmp_path):
    """The model that is written, loads and computes as any other."""
    config = with_augmentation(make_world(tmp_path, epochs=1, method="full"), "drop_tokens")
    train(tmp_path, config)
    assert isinstance(load_model(tmp_path / "finetuned", "finetune").patch_drop, torch.nn.Identity)
    configuration = json.loads((tmp_path / "finetuned" / "config.json").read_text())
    assert "patch_drop_rate" not in configuration["model_args"]
    loaded = load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 3)
    assert loaded(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


# leaving patches out


def eva():
    torch.manual_seed(0)
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}
    return Eva(**arguments, use_rot_pos_emb=True)


MODELS = {
    "ViT": lambda: tiny_backbone().model,
    "without class token": lambda: tiny_backbone(class_token=False, global_pool="avg").model,
    "with registers": lambda: tiny_backbone(reg_tokens=2).model,
    "EVA": eva,
}


@pytest.mark.parametrize("kind", MODELS)
def test_patches_that_are_left_out_have_no_influence_and_the_others_have(kind):
    model = MODELS[kind]()
    for module in model.modules():  # of EVA, which has some by default
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    made = AUGMENTATIONS["drop_tokens"](Augment(names=["drop_tokens"]), 16)
    before, shown = model.eval()(torch.ones(4, 3, 16, 16)), repr(model)
    made.attach(model)
    kept = torch.from_numpy(made.draw(np.random.default_rng(0), 4))
    inputs = batch_of(4)[0].float()
    made.apply(inputs, torch.zeros(4), kept)
    noise = 100 * torch.randn(4, 3, 16, 16)
    blocks = kept.view(4, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        first = model.train()(inputs)
        torch.testing.assert_close(model(inputs + noise * ~blocks), first)
        assert not torch.allclose(model(inputs + noise * blocks), first)
        torch.testing.assert_close(model(torch.cat([inputs, inputs])), torch.cat([first, first]))  # clean and attacked
        assert torch.equal(model.eval()(torch.ones(4, 3, 16, 16)), before)
    made.detach()
    assert repr(model) == shown


@pytest.mark.parametrize("method", ["vpt_deep", "lora", "aoft_adapter", "melo"])
def test_methods_train_on_fewer_patches(tmp_path, method):
    config = make_world(tmp_path, epochs=1, method=method, target_modules=[], dropout=0.0)
    assert math.isfinite(train(tmp_path, with_augmentation(config, "drop_tokens"))["train_loss"])


def test_tokens_in_random_order_may_be_left_out(tmp_path):
    """Of neuracrypt, which commutes with nothing else."""
    config = make_config(
        dataset={"image_size": 16},
        cipher={"name": "neuracrypt", "token_width": 16},
        finetune={"method": "full", "epochs": 1, "batch_size": 8},
        augment={"names": ["drop_tokens"]},
    )
    places, used, backbone = places_of(tmp_path), load_cipher(config), tiny_backbone()
    write_raw(places.raw, {"train": 24, "test": 3})
    encrypt.run(config, places)
    adapt_model(backbone, used, enabled=False)
    save_model(places.adapted, backbone, used.record)
    assert math.isfinite(train(tmp_path, config)["train_loss"])


@pytest.mark.parametrize("name", ["resnet10_micro_cifar", "convmixer_micro_patch4", "swin_tiny_patch4_window7_224"])
def test_networks_without_such_tokens_are_refused(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    made = augmenter(["mixup", "drop_tokens"])
    with pytest.raises(UsageError, match=rf"^augment\.names: 'drop_tokens' .* {type(model).__name__} .*take it out"):
        made.attach(model)


# what is refused


@pytest.mark.parametrize(
    ("name", "fact", "reason"),
    [
        ("mixup", "linear", "it is not linear in pixel values; leave it out (with this cipher there are drop_tokens)"),
        ("mixup", "one_key", "every image has a key of its own"),
        ("cutmix_blocks", "keeps_blocks", "what becomes of a block depends on more than that block"),
        ("brightness", "permutes", "it does more than move values to other places"),
    ],
)
def test_what_does_not_commute_is_refused_by_name(name, fact, reason):
    facts = dict.fromkeys(FACTS, False) if "with this" in reason else {**FACTS, fact: False}
    with pytest.raises(UsageError) as refused:
        augmenter(["drop_tokens", name], manifest={**MANIFEST, "facts": facts})
    assert f"augment.names: '{name}' does not commute with cipher 'none', because {reason}" in str(refused.value)


def test_the_stage_refuses_before_it_starts(tmp_path):
    config = with_augmentation(make_world(tmp_path, "le"), "mixup")
    with pytest.raises(UsageError, match="'mixup' does not commute with cipher 'le', because it is not linear"):
        finetune.run(config, places_of(tmp_path))
    assert not (tmp_path / "finetuned").exists()


@pytest.mark.parametrize("block", [None, 0, -4, 5, 4.0, True, "4"])
def test_blocks_are_not_believed(block):
    cipher = {"name": "none", **({} if block is None else {"block_size": block})}
    with pytest.raises(PpvitError, match=r"says cipher\.block_size .* make it again: dvc repro --force encrypt$"):
        augmenter(["mixup"], manifest={**MANIFEST, "cipher": cipher})


def test_names_are_checked():
    with pytest.raises(UsageError, match=r"unknown augment\.names 'mixip'; did you mean 'mixup'"):
        augmenter(["mixip"])
    with pytest.raises(UsageError, match=r"augment\.names has 'mixup' twice"):
        augmenter(["mixup", "mixup"])


def test_only_what_is_read_reruns_anything():
    def read(**augment):
        narrowed = STAGES["finetune"].narrowed(make_config(augment=augment))
        return narrowed.model_dump(exclude_unset=True)["augment"]

    assert read(mixup_alpha=1.0) == {"names": []}
    assert read(names=["mixup"], mixup_alpha=1.0, contrast=0.1) == {"names": ["mixup"], "mixup_alpha": 1.0}
