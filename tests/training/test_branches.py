"""TWINS and AutoLoRa: their losses, what trains on which images, the rate that halves, and what is left after."""

import copy
import math

import pytest
import timm
import torch
from conftest import make_config, read_result
from pydantic import ValidationError
from safetensors.torch import load_file
from test_contrastive import make_world, places_of, tiny_resnet
from torch.nn import functional

import ppvit.models  # noqa: F401 - registers networks
from ppvit.config import Adversarial, Finetune
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import sha256_of
from ppvit.evasion.ball import Ball
from ppvit.models.networks import network_of
from ppvit.training import checkpoint
from ppvit.training.branches import (
    ADAPTIVE,
    FROZEN,
    AutoLora,
    LowRankBranch,
    Twins,
    add_branch,
    drop_branch,
    naturally,
)
from ppvit.training.halving import Halving
from ppvit.training.loop import make_accelerator
from ppvit.training.paired_norms import through
from ppvit.verbs import finetune

WHOLE = {"method": "full", "batch_norm": "affine", "adversarial": "trades", "epochs": 1, "batch_size": 16}


def trained(folder, branch, finetuning=None, **adversarial):
    """A ResNet that was fine-tuned with a branch; what was measured."""
    config = make_world(folder, model=tiny_resnet())
    section = Adversarial(steps=2, step_size=4.0, branch=branch, **adversarial)
    settings = Finetune(**{**WHOLE, "learning_rate": 1e-3, **(finetuning or {})})
    finetune.run(config.model_copy(update={"finetune": settings, "adversarial": section}), places_of(folder))
    return read_result(places_of(folder), "finetune")


def objective_of(kind, loss="trades", **adversarial):
    settings = Finetune(**{**WHOLE, "adversarial": loss})
    section = Adversarial(**{"steps": 2, "step_size": 4.0, **adversarial})
    return kind(settings, section, Ball.of_grey_levels("linf", 8.0), make_accelerator("fp32"), 4, 3)


def batch(count=7):
    random = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, 16, 16, generator=random) * 2 - 1, torch.arange(count) % 3


@pytest.mark.parametrize("branch", ["twins", "lora"])
def test_a_run_ends_in_a_network_of_the_form_that_it_began_with(tmp_path, branch):
    result = trained(tmp_path, branch, scalars="fixed" if branch == "twins" else "auto")
    assert math.isfinite(result["train_loss"])
    plain = sum(weight.numel() for weight in tiny_resnet().model.parameters())
    assert result["trainable_parameters"] > plain  # of the branch
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("adapted", "models/finetuned"))
    assert {name: tensor.shape for name, tensor in before.items()} == {name: each.shape for name, each in after.items()}
    assert network_of(after) == network_of(before)
    assert not torch.equal(before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"])


@pytest.mark.parametrize("branch", ["twins", "lora"])
def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path, monkeypatch, branch):
    settings = {"epochs": 2, "schedule": "halving", "batch_size": 40}
    trained(tmp_path, branch, settings)
    weights = tmp_path / "models" / "finetuned" / "model.safetensors"
    whole = sha256_of(weights)
    save, saved = checkpoint.Checkpoint.save, []

    def save_and_die(self, *arguments):
        save(self, *arguments)
        saved.append(arguments[-1])
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, branch, settings)
    trained(tmp_path, branch, settings)
    assert sha256_of(weights) == whole


@pytest.mark.parametrize("loss", ["at", "trades"])
def test_twins_is_the_papers_sum_of_two_halves(loss, monkeypatch):
    objective = objective_of(Twins, loss, branch="twins", branch_weight=0.4)
    model = add_branch(tiny_resnet().model, "twins", 8, Finetune(**WHOLE)).train()
    images, labels = batch()
    moved = (images + 0.05).clamp(-1, 1)
    monkeypatch.setattr(objective, "_perturb", lambda *arguments: moved)
    twin = copy.deepcopy(model)
    found, measures = objective.loss(model, images, labels)
    expected = 0.0
    for name, part, weight in ((FROZEN, slice(0, 3), 0.4), (ADAPTIVE, slice(3, 7), 1.0)):
        given = torch.cat([images[part], moved[part]]) if loss == "trades" else moved[part]
        with through(twin, name):
            clean, adversarial = twin(given).chunk(2) if loss == "trades" else [twin(given)] * 2
        expected += weight * functional.cross_entropy(clean, labels[part])
        if loss == "trades":  # summed over the half, divided by the whole batch
            divergence = functional.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="sum")
            expected += weight * 6 * divergence / 7
    assert found.item() / 7 == pytest.approx(expected.item(), rel=1e-5)
    assert measures[0].item() == pytest.approx(found.item())
    assert len(measures) == len(objective.measures)


def test_the_frozen_statistics_of_twins_stay_and_both_scales_train():
    model = add_branch(tiny_resnet().model, "twins", 8, Finetune(**WHOLE)).train()
    norms = model.bn1.norms
    before = norms[FROZEN].running_mean.clone()
    objective = objective_of(Twins, branch="twins")
    objective.begin_step(0, 0)
    objective.loss(model, *batch())[0].backward()
    assert torch.equal(norms[FROZEN].running_mean, before)
    assert not torch.equal(norms[ADAPTIVE].running_mean, before)
    gradients = [norms[name].weight.grad for name in (FROZEN, ADAPTIVE)]
    assert all(gradient is not None for gradient in gradients)
    assert not torch.equal(*gradients)
    image = batch()[0]
    kept = drop_branch(copy.deepcopy(model)).eval()
    assert torch.equal(kept(image), model.eval()(image))  # the adaptive one
    objective.loss(model, *batch(1))  # a last batch of one image has no frozen half


def test_autolora_trains_the_update_on_clean_images_and_all_else_on_adversarial_ones(monkeypatch):
    model = add_branch(tiny_resnet().model, "lora", 2, Finetune(**WHOLE)).train()
    for module in model.modules():
        if isinstance(module, LowRankBranch):
            torch.nn.init.normal_(module.up, std=0.1)
    objective = objective_of(AutoLora, branch="lora", natural_weight=0.3, robust_weight=2.0)
    images, labels = batch()
    moved = (images + 0.05).clamp(-1, 1)
    monkeypatch.setattr(objective, "_perturb", lambda *arguments: moved)
    twin = copy.deepcopy(model)
    loss, _ = objective.loss(model, images, labels)
    loss.backward()
    with naturally(twin):
        clean = twin(images)
    adversarial = twin(moved)
    divergence = functional.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="sum") / 7
    expected = 0.3 * functional.cross_entropy(clean, labels) + 0.7 * functional.cross_entropy(adversarial, labels)
    assert loss.item() / 7 == pytest.approx((expected + 2 * divergence).item(), rel=1e-4)
    # the same with what the paper's code stops, by hand: the weights see the clean logits as numbers
    stopped = 0.7 * functional.cross_entropy(adversarial, labels, reduction="sum")
    stopped = stopped + 2 * functional.kl_div(adversarial.log_softmax(1), clean.detach().softmax(1), reduction="sum")
    (of_weight,) = torch.autograd.grad(stopped, twin.layer1[0].conv1.layer.weight, retain_graph=True)
    torch.testing.assert_close(model.layer1[0].conv1.layer.weight.grad, of_weight, rtol=1e-4, atol=1e-5)
    given = 0.3 * functional.cross_entropy(clean, labels, reduction="sum")
    given = given + 2 * functional.kl_div(adversarial.detach().log_softmax(1), clean.softmax(1), reduction="sum")
    (of_update,) = torch.autograd.grad(given, twin.layer1[0].conv1.up)
    torch.testing.assert_close(model.layer1[0].conv1.up.grad, of_update, rtol=1e-4, atol=1e-5)


def test_autoloras_branch_is_on_all_convolutions_but_the_first_with_the_published_count():
    model = timm.create_model("resnet18_cifar", num_classes=10).eval()
    image = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        plain = model(image)
        branched = add_branch(model, "lora", 8, Finetune(**WHOLE))
        assert isinstance(branched.conv1, torch.nn.Conv2d)
        with naturally(branched):
            assert torch.equal(branched(image), plain)  # B is zero
        layer = branched.layer2[0].downsample[0]
        assert (layer.down.shape, layer.up.shape) == ((8, 64), (128, 8))
        layer.up.fill_(1.0)
        with naturally(branched):
            assert not torch.equal(branched(image), plain)
        assert torch.equal(branched(image), plain)
    added = [each for name, each in branched.named_parameters() if name.endswith((".up", ".down"))]
    assert sum(each.numel() for each in added) == 531_456
    assert torch.equal(drop_branch(branched)(image), plain)


def test_halving_follows_the_rule():
    halving = Halving(50)
    assert halving.looks == [16, 24, 28, 36, 40, 42, 44, 46, 48, 50]
    figure, rates = 0.0, {}
    for epoch in range(1, 51):
        figure += 1.0 if epoch <= 24 else 0.0  # rises for 24 epochs, then stays
        halved = halving.end_epoch(epoch, figure)
        assert not (halved and epoch not in halving.looks)
        rates[epoch] = halving.rate
    assert rates[24] == 1.0
    assert [rates[epoch] for epoch in halving.looks[2:]] == [0.5**count for count in range(1, 9)]
    # 3 rises in 4 epochs are enough, 2 are not
    for rises, halved in (((1, 1, 1, 0), False), ((1, 0, 1, 0), True)):
        halving = Halving(50)
        height = [0.0]
        for epoch in range(1, 29):
            height.append(height[-1] + (rises[epoch - 25] if epoch > 24 else 1))
            now = halving.end_epoch(epoch, height[-1])
        assert now is halved
    again = Halving(50)
    again.load_state(halving.state())
    assert (again.state(), again.rate) == (halving.state(), 0.5)
    assert Halving(3).looks == [1, 2, 3]


def test_halving_goes_on_from_the_best_weights_at_a_lower_rate(tmp_path):
    trained(tmp_path, "none", {"epochs": 4, "schedule": "halving", "learning_rate": 0.5, "batch_size": 40})
    lines = (places_of(tmp_path).live / "plots/metrics/learning_rate.tsv").read_text().splitlines()[1:]
    rates = [float(line.split("\t")[-1]) for line in lines]
    assert rates[-1] < rates[0]
    assert all(math.log2(0.5 / rate).is_integer() for rate in rates[1:])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"finetune": {"adversarial": "at"}, "adversarial": {"branch": "lora"}}, "finetune.adversarial=trades, not at"),
        ({"finetune": {"schedule": "halving"}}, "set finetune.adversarial to at or trades"),
        ({"finetune": {"schedule": "halving", "adversarial": "at", "select": "last"}}, "finetune.select to auto"),
    ],
)
def test_combinations_that_cannot_train_are_refused(sections, message):
    with pytest.raises(ValidationError, match=message):
        make_config(**sections)


def test_networks_and_methods_without_a_branch_are_refused(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=16, depth=1, num_classes=3)
    with pytest.raises(UsageError, match=r"twins.*VisionTransformer"):
        add_branch(vit, "twins", 8, Finetune(**WHOLE))
    with pytest.raises(UsageError, match=r"lora is for the whole network; set finetune\.method=full, not linear"):
        add_branch(vit, "lora", 8, Finetune(method="linear"))
    with pytest.raises(UsageError, match=r"batch_norm frozen"):
        add_branch(tiny_resnet().model, "twins", 8, Finetune(method="full"))
    layers = [module for module in add_branch(vit, "lora", 8, Finetune(**WHOLE)).modules()]
    assert sum(isinstance(module, LowRankBranch) for module in layers) == 4  # qkv, proj, fc1, fc2
    config = make_world(tmp_path, model=tiny_resnet())
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"val_fraction": 0.0})})
    from ppvit.verbs import encrypt

    encrypt.run(config, places_of(tmp_path))
    settings = Finetune(**{**WHOLE, "schedule": "halving"})
    with pytest.raises(PpvitError, match=r"schedule halving: there are no validation images.*schedule=cosine"):
        finetune.run(config.model_copy(update={"finetune": settings}), places_of(tmp_path))


def test_an_attack_in_training_mode_moves_running_statistics():
    for mode, moves in (("eval", False), ("train", True)):
        objective = objective_of(Twins, branch="none", mode=mode)
        model = tiny_resnet().model.train()
        before = model.bn1.running_mean.clone()
        objective.begin_step(0, 0)
        objective._perturb(model, *batch())
        assert torch.equal(model.bn1.running_mean, before) is not moves
        assert model.training
