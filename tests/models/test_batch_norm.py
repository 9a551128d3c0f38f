"""What each mode of batch normalisation lets training change, and that nothing else decides it."""

import copy
import io

import pytest
import timm
import torch
from conftest import tiny_backbone
from torch import nn

from ppvit.config import Finetune
from ppvit.core.errors import UsageError
from ppvit.models.batch_norm import batch_norm_names, set_batch_norm
from ppvit.training.attach import attach
from ppvit.tuners import make_tuner

MODES = ("frozen", "stats", "affine")


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    for index in (1, 4):
        model[index].running_mean.uniform_(-1, 1)
        nn.init.uniform_(model[index].weight)
    return model


def images() -> torch.Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5


def norms(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if name[0] in "14"}


@pytest.mark.parametrize("mode", MODES)
def test_what_a_training_step_changes(mode):
    model = set_batch_norm(network(), mode)
    before = norms(model)
    for _ in range(2):
        model.train()
        optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], 0.1)
        model(images()).square().sum().backward()
        optimizer.step()
    changed = {name for name, value in norms(model).items() if not torch.equal(value, before[name])}
    kinds = {"frozen": (), "stats": ("running_mean", "running_var", "num_batches_tracked")}
    kinds["affine"] = (*kinds["stats"], "weight", "bias")
    assert changed == {f"{index}.{kind}" for index in (1, 4) for kind in kinds[mode]}
    assert model[0].weight.requires_grad  # convolutions are none of its business


def test_statistics_follow_the_batches_as_the_paper_averages_them():
    model = set_batch_norm(network(), "stats").train()
    before, inputs = model[1].running_mean.clone(), model[0](images()).detach()
    model(images())
    mean, variance = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3), unbiased=True)
    torch.testing.assert_close(model[1].running_mean, 0.9 * before + 0.1 * mean)
    torch.testing.assert_close(model[1].running_var, 0.9 + 0.1 * variance)


def test_frozen_gives_the_same_output_in_training_mode():
    model = network().eval()
    expected = model(images())
    frozen = set_batch_norm(copy.deepcopy(model), "frozen")
    assert torch.equal(frozen.train()(images()), expected)
    assert not torch.equal(model.train()(images()), expected)


def test_frozen_stays_a_batch_norm_that_is_copied_and_saved():
    model = set_batch_norm(set_batch_norm(network(), "frozen"), "frozen")
    again = copy.deepcopy(model).train()
    again(images())
    assert batch_norm_names(again) == ["1", "4"]
    assert not again[1].training
    assert again[0].training
    assert norms(again).keys() == norms(model).keys()
    assert all(torch.equal(value, norms(model)[name]) for name, value in norms(again).items())
    assert type(again[1]) is nn.BatchNorm2d
    torch.save(again, saved := io.BytesIO())
    assert torch.equal(torch.load(io.BytesIO(saved.getvalue()), weights_only=False)(images()), again(images()))
    assert again.state_dict().keys() == network().state_dict().keys()


@pytest.mark.parametrize("mode", ["stats", "affine"])
def test_a_mode_for_what_is_not_there_is_refused(mode):
    tuner = make_tuner(Finetune(batch_norm=mode))
    with pytest.raises(UsageError, match=f"finetune.batch_norm {mode}: VisionTransformer has no batch normalisation"):
        attach(tuner, tiny_backbone().model, tuner.settings, [])


def test_other_kinds_of_batch_norm_keep_what_they_do():
    """timm's, which applies the activation itself; and models without any."""
    layer = timm.layers.BatchNormAct2d(3).eval()
    expected = layer(images())
    assert torch.equal(set_batch_norm(nn.Sequential(layer), "frozen").train()(images()), expected)
    assert (expected >= 0).all()
    model = set_batch_norm(nn.Linear(2, 2), "frozen").train()
    assert model.training
    assert model.weight.requires_grad
