"""Pre-training without labels: views, losses, LARS, curves; on plain and encrypted images, resumed, and its ends."""

import copy
import math
import re

import numpy as np
import pytest
import timm
import torch
from conftest import make_config, make_places, read_result, tiny_backbone, write_raw
from safetensors.torch import load_file
from torch.nn import functional

import ppvit.models
from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config, Pretrain
from ppvit.core.errors import PpvitError
from ppvit.core.reading import sha256_of
from ppvit.data.batches import EncryptedImages
from ppvit.data.contrast import CONTRASTS
from ppvit.models import Backbone, load_backbone, load_model, save_model
from ppvit.models.resnet import SOLO_LEARN_PADDING
from ppvit.training import checkpoint
from ppvit.training.contrastive import curves
from ppvit.training.contrastive.lars import ETA, Lars, make_optimizer
from ppvit.training.contrastive.networks import make_encoder, views_of
from ppvit.training.contrastive.pairs import Pairs, progress_of
from ppvit.verbs import encrypt, finetune, pretrain

pytest.importorskip("lightly", reason="pre-training without labels needs lightly: pip install 'ppvit[ssl]'")
from ppvit.training.contrastive.objectives import Byol, SimClr

QUICK = {"method": "byol", "epochs": 2, "batch_size": 16, "hidden": 16, "projection": 8, "probe_epochs": 1}


def places_of(folder):
    return make_places(folder, **{name: folder / name for name in ("raw", "encrypted", "adapted", "pretrained")})


def make_world(folder, cipher="none", views=1, model=None, **settings) -> Config:
    """Shards and adapted model in ``folder``; the configuration that made them."""
    encrypting = {"views": views, "view_recipe": "contrastive"} if views > 1 else {}
    config = make_config(
        dataset={"image_size": 16, "val_fraction": 0.2},
        cipher={"name": cipher},
        encrypt=encrypting,
        pretrain={**QUICK, **settings},
        adversarial={"steps": 2, "step_size": 4.0},
        finetune={"method": "linear", "epochs": 1},
    )
    places = places_of(folder)
    if not places.raw.exists():
        write_raw(places.raw, {"train": 50, "test": 12})
    encrypt.run(config, places)
    backbone, used = model or tiny_backbone(), load_cipher(config)
    adapt_model(backbone, used)
    save_model(places.adapted, backbone, used.record)
    return config


def run(folder, config):
    pretrain.run(config, places_of(folder))
    return read_result(places_of(folder), "pretrain")


def tiny_resnet(padding=1) -> Backbone:
    arguments = {"num_classes": 3, "stem_padding": padding}
    torch.manual_seed(0)
    model = timm.create_model("resnet10_micro_cifar", **arguments)
    return Backbone(model.eval(), "resnet10_micro_cifar", arguments, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("method", ["byol", "simclr"])
def test_a_plain_run_measures_features_and_its_result_can_be_fine_tuned(tmp_path, method):
    config = make_world(tmp_path, method=method)
    places = places_of(tmp_path)
    result = run(tmp_path, config)
    assert result["method"] == method
    assert 0 < result["train_loss"] < 8
    assert (result["train_images"], result["val_images"]) == (40, 10)
    lines = (places.results / "pretrain" / "curves.csv").read_text().splitlines()
    assert lines[0].split(",")[0] == "epoch"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2"]
    before, after = (load_file(folder / "model.safetensors") for folder in (places.adapted, places.pretrained))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("head.")} == set(before) - changed  # which it never sees
    finetune.run(config, make_places(tmp_path, encrypted=places.encrypted, adapted=places.pretrained))
    again = load_backbone("vit_tiny_patch16_224", places.pretrained, 16)  # as model.checkpoint, for other images
    assert again.mean == (0.5, 0.5, 0.5)
    assert torch.equal(again.model.blocks[0].attn.qkv.weight, after["blocks.0.attn.qkv.weight"])


def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path, monkeypatch):
    """Killed in the middle of an epoch, with a slow network that follows."""
    config = make_world(tmp_path, momentum=0.5, epochs=3)
    run(tmp_path, config)
    whole = sha256_of(tmp_path / "pretrained" / "model.safetensors")
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    save, steps = checkpoint.Checkpoint.save, []

    def save_and_die(self, *arguments):
        save(self, *arguments)
        steps.append(arguments[-1]["step"])
        if len(steps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config)
    assert steps[-1] == 1
    run(tmp_path, config)
    assert sha256_of(tmp_path / "pretrained" / "model.safetensors") == whole


def test_pretraining_on_adapted_ciphertext_equals_pretraining_on_plain_images(tmp_path):
    """From the same views, drawn by the same key: what the owner encrypts is all that differs."""
    losses = {}
    for cipher in ("none", "block"):
        config = make_world(tmp_path, cipher, views=4, method="simclr")
        result = run(tmp_path, config)
        losses[cipher] = [
            result["train_loss"],
            result["val_knn_accuracy_percent"],
            result["val_linear_accuracy_percent"],
        ]
        assert result["views"] == 4
    assert losses["block"] == pytest.approx(losses["none"], rel=1e-4)


def test_spread_is_that_of_directions():
    """Closed forms: none preferred, one alone, two at a right angle."""
    both = np.concatenate([np.eye(6), -np.eye(6)]).astype(np.float32)
    assert curves.spread(7 * both) == pytest.approx(1)
    assert curves.spread(np.outer(np.arange(1, 5), np.ones(6)).astype(np.float32)) == pytest.approx(0, abs=1e-7)
    assert curves.spread(np.eye(2, 6, dtype=np.float32)) == pytest.approx(0.5**0.5)
    assert curves.spread(np.zeros((3, 6), np.float32)) == 0


def test_features_that_collapse_are_said(tmp_path, capsys):
    config = make_world(tmp_path, method="byol")
    run(tmp_path, config)
    told = capsys.readouterr()
    assert re.search(r"of 10 validation images \d+\.0 % right by neighbours and .*, spread \d+ %, see ", told.out)
    assert "collapsed" not in told.err
    flat = make_world(
        tmp_path / "flat", method="byol", optimizer="sgd", learning_rate=0.01, weight_decay=90.0, epochs=9
    )
    result = run(tmp_path / "flat", flat)  # weights that decay to nothing leave the same features of all images
    assert result["val_spread_percent"] < curves.COLLAPSED
    assert "warning: features have collapsed" in capsys.readouterr().err


def test_encrypted_images_need_views_of_the_owner(tmp_path):
    for views in (1, 2):
        config = make_world(tmp_path, "block", views=views)
        with pytest.raises(PpvitError, match=r"encrypt\.views=3 or more, encrypt\.view_recipe=contrastive"):
            run(tmp_path, config)
    assert not (tmp_path / "pretrained").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 41}, r"40 images, fewer than pretrain\.batch_size 41"),
        ({"learning_rate": 1000.0}, "not a number"),
    ],
)
def test_bad_ends_are_one_line_and_write_nothing(tmp_path, settings, message, monkeypatch):
    config = make_world(tmp_path, **{"optimizer": "sgd", "epochs": 8, "method": "simclr", **settings})
    with pytest.raises(PpvitError, match=message):
        run(tmp_path, config)
    assert not (tmp_path / "pretrained").exists()


def test_features_that_are_no_numbers_end_it_though_the_loss_is_one(tmp_path, monkeypatch):
    """As where the last step of an epoch overflows: of the loss that is seen in the next one."""
    config, real = make_world(tmp_path), curves.features_of
    monkeypatch.setattr(curves, "features_of", lambda *both: real(*both) * math.nan)
    with pytest.raises(PpvitError, match=r"a feature is not a number; lower pretrain\.learning_rate"):
        run(tmp_path, config)
    assert not (tmp_path / "pretrained").exists()


def test_pairs_are_two_of_the_owners_views_and_never_the_image_itself(tmp_path):
    make_world(tmp_path, views=4)
    images = EncryptedImages(tmp_path / "encrypted", "train")
    pairs = Pairs(images, "simclr", 16, epochs=50, seed=0)
    assert len(pairs) == 32
    stored = torch.stack([images[view * len(images) + 7][0] for view in range(4)])
    seen = set()
    for epoch in range(40):
        found = [(stored == view).flatten(1).all(1).nonzero().item() for view in pairs[epoch * len(images) + 7][0]]
        assert found[0] != found[1]
        seen.add(tuple(found))
    assert seen == {(one, other) for one in (1, 2, 3) for other in (1, 2, 3) if one != other}
    orders = [pairs.in_turn(np.arange(32), epoch) - epoch * len(images) for epoch in (0, 1)]
    assert all(len(set(order)) == 32 for order in orders)
    assert set(orders[0]) != set(orders[1])  # others are left out


def test_views_of_plain_images_depend_on_seed_epoch_and_image_alone(tmp_path):
    make_world(tmp_path)
    images = EncryptedImages(tmp_path / "encrypted", "train")
    before = torch.get_rng_state()
    first, again = (Pairs(images, "byol", 8, 5, seed=3)[45][0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (2, 3, 16, 16)
    assert torch.equal(first, again)
    others = [Pairs(images, "byol", 8, 5, seed=4)[45][0], Pairs(images, "byol", 8, 5, seed=3)[5][0]]
    assert not any(torch.equal(first, other) for other in others)
    assert Pairs(images, "advcl", 8, 5, seed=3)[45][0].shape == (3, 3, 16, 16)


def test_dynacl_weakens_views_to_mirrors_alone(tmp_path):
    make_world(tmp_path)
    images = EncryptedImages(tmp_path / "encrypted", "train")
    assert [progress_of(epoch, 1000) for epoch in (0, 49, 50, 999)] == [0, 0, 0.05, 0.95]
    assert CONTRASTS["acl"].at(0.5).colour == (0.2, 0.2, 0.2, 0.05)
    assert CONTRASTS["acl"].at(0.5).smallest == pytest.approx(0.55)
    weakest = CONTRASTS["acl"].at(0.0)
    picture = ppvit.data.contrast.Image.fromarray(images[0][0].permute(1, 2, 0).numpy())
    whole = np.asarray(picture)
    for _ in range(8):
        drawn = np.asarray(weakest.draw(picture))
        assert (drawn == whole).all() or (drawn == whole[:, ::-1]).all()


def encoder_of(method="byol", **settings):
    torch.manual_seed(0)
    section = Pretrain(**{**QUICK, "method": method, **settings})
    return make_encoder(tiny_backbone().model, section, torch.zeros(1, 3, 16, 16)), section


def pictures(views=2):
    return torch.randint(0, 256, (6, views, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_byol_is_the_papers_distance_of_unit_vectors():
    encoder, settings = encoder_of()
    objective = Byol(encoder, settings, steps_per_epoch=4)
    images = pictures()
    loss, measured = objective.loss(encoder.eval(), images, torch.zeros(6))
    objective.slow.eval()
    one, other = (images[:, view].float() / 127.5 - 1 for view in (0, 1))
    expected = 0.0
    objective.slow.train()  # as it was when it was asked, with statistics of the batch
    for online, aim in ((one, other), (other, one)):
        predicted = functional.normalize(encoder(online), dim=1)
        target = functional.normalize(objective.slow(aim), dim=1)
        expected += (predicted - target).square().sum(1).mean().item()  # Eq. 2
    assert loss.item() / 6 == pytest.approx(expected, rel=1e-4)
    assert measured.tolist() == pytest.approx([loss.item()])


def test_byols_slow_network_follows_once_a_step_towards_momentum_one():
    encoder, settings = encoder_of(momentum=0.9, epochs=2)
    objective = Byol(encoder, settings, steps_per_epoch=2)
    assert [objective.momentum(step) for step in (0, 2, 3)] == pytest.approx(
        [0.9, 0.95, 1 - 0.1 * (math.cos(math.pi * 3 / 4) + 1) / 2]
    )
    expected = copy.deepcopy(encoder.projector.layers[0].weight.detach())
    step = 0
    for epoch in range(2):
        for place in range(2):
            objective.begin_step(epoch, place)
            with torch.no_grad():
                encoder.projector.layers[0].weight.add_(1.0)
            m = 1 - 0.1 * (math.cos(math.pi * step / 4) + 1) / 2
            expected = m * expected + (1 - m) * encoder.projector.layers[0].weight.detach()
            step += 1
        objective.end_epoch({})
    torch.testing.assert_close(objective.slow.projector.layers[0].weight, expected)
    assert not any(weight.requires_grad for weight in objective.slow.parameters())


def test_simclr_is_the_papers_cross_entropy_over_all_other_views():
    encoder, settings = encoder_of("simclr", temperature=0.2)
    images = pictures()
    loss, _ = SimClr(encoder, settings, 1).loss(encoder, images, torch.zeros(6))
    rows = functional.normalize(torch.cat([encoder(view) for view in views_of(images)]), dim=1)
    likeness = (rows @ rows.T / 0.2).double().fill_diagonal_(-math.inf)
    aims = torch.cat([torch.arange(6, 12), torch.arange(6)])  # Eq. 1: the other view of the same image
    assert loss.item() / 6 == pytest.approx(functional.cross_entropy(likeness, aims).item(), rel=1e-5)


def test_lars_makes_the_clipped_step_of_its_formula():
    first, small, bias = torch.full((2, 2), 3.0), torch.full((2, 2), 1e-3), torch.ones(2)
    weights = [torch.nn.Parameter(each.clone()) for each in (first, small, bias)]
    holder = torch.nn.ParameterList(weights)
    optimizer = make_optimizer(holder, "lars", learning_rate=0.5, weight_decay=0.1)
    assert isinstance(optimizer, Lars)
    for weight, slope in zip(weights, (2.0, 1e-6, 1.0), strict=True):
        weight.grad = torch.full_like(weight, slope)
    optimizer.step()
    # norms of 2 x 2 equal entries are twice the entry: 0.02 * 6 / (4 + 0.1 * 6) / 0.5 is below 1
    ratio = ETA * 6 / (4 + 0.1 * 6) / 0.5
    torch.testing.assert_close(weights[0].detach(), first - 0.5 * ratio * (2 + 0.1 * 3))
    # 0.02 * 2e-3 / (2e-6 + 2e-4) / 0.5 = 0.396: below 1 too
    ratio = ETA * 2e-3 / (2e-6 + 0.1 * 2e-3 + 1e-8) / 0.5
    torch.testing.assert_close(weights[1].detach(), small - 0.5 * ratio * (1e-6 + 1e-4))
    torch.testing.assert_close(weights[2].detach(), bias - 0.5)  # neither scaled nor decayed


def test_lars_clips_and_leaves_weights_of_zero_to_sgd():
    weights = [torch.nn.Parameter(torch.full((2, 2), 100.0)), torch.nn.Parameter(torch.zeros(2, 2))]
    optimizer = make_optimizer(torch.nn.ParameterList(weights), "lars", learning_rate=0.1, weight_decay=0.0)
    for weight in weights:
        weight.grad = torch.full_like(weight, 0.5)  # 0.02 * 200 / 1 / 0.1 = 40, clipped to 1
    optimizer.step()
    torch.testing.assert_close(weights[0].detach(), torch.full((2, 2), 100 - 0.05))
    torch.testing.assert_close(weights[1].detach(), torch.full((2, 2), -0.05))


def test_neighbours_vote_by_similarity_like_lightlys_own():
    """Against the formula of Wu et al. 2018, Sec. 3.4, and against lightly, where it can be imported."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    bank = random.normal(size=(90, 8)).astype(np.float32) + np.eye(8, dtype=np.float32)[labels] * 1.5
    queries = random.normal(size=(40, 8)).astype(np.float32)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, bank)]
    likeness = unit[0] @ unit[1].T
    expected = []
    for row in likeness:
        near = np.argsort(-row)[: curves.NEIGHBOURS]
        votes = [np.exp(row[near][labels[near] == label] / curves.SHARPNESS).sum() for label in range(3)]
        expected.append(int(np.argmax(votes)))
    assert curves.neighbours(bank, labels, queries).tolist() == expected


def test_linear_classifier_separates_what_is_linear():
    random = np.random.default_rng(0)
    bank, queries = (random.normal(size=(count, 4)).astype(np.float32) for count in (200, 50))
    bank[:, 0] += np.sign(bank[:, 0])  # a gap
    assert (curves.linear(bank, (bank[:, 0] > 0).astype(int), queries) == (queries[:, 0] > 0)).mean() > 0.9
    assert curves.linear(bank, np.zeros(200, int), queries).tolist() == [0] * 50


def test_solo_learns_resnet_is_padded_by_two():
    """Weights of either padding load into the other and give other features: 34 x 34 maps against 32 x 32."""
    model = timm.create_model("resnet18_cifar", num_classes=0, stem_padding=SOLO_LEARN_PADDING)
    assert sum(weight.numel() for weight in model.parameters()) == 11_168_832
    assert model.conv1(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 34, 34)
    one, two = tiny_resnet(1).model, tiny_resnet(2).model
    two.load_state_dict(one.state_dict())
    image = torch.rand(1, 3, 32, 32)
    assert not torch.allclose(one.forward_features(image).mean((2, 3)), two.forward_features(image).mean((2, 3)))


def test_heads_have_the_published_sizes():
    """Those of solo-learn, without the biases that batch normalisation cancels."""
    section = Pretrain(method="byol", hidden=4096, projection=256)
    encoder = make_encoder(timm.create_model("resnet18_cifar"), section, torch.zeros(1, 3, 32, 32))
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (encoder.projector, encoder.predictor)]
    assert sizes == [3_158_272 - 4096, 2_109_696 - 4096]


def test_a_padded_resnet_is_pretrained_in_the_form_that_it_was_adapted_in(tmp_path):
    result = run(tmp_path, make_world(tmp_path, model=tiny_resnet(2), optimizer="lars", learning_rate=0.2))
    assert math.isfinite(result["train_loss"])
    model = load_model(tmp_path / "pretrained", "adapt")
    assert model.conv1.padding == (2, 2)
