"""The weight average: its formula, what it is put in place for, and that training does not feel it."""

import math

import pytest
import torch
from safetensors.torch import load_file
from test_finetune import changed, make_world, places_of, train
from timm.utils import ModelEmaV3
from torch import nn

from ppvit.training.average import WeightAverage


def test_average_is_the_one_of_the_formula():
    """``average = d average + (1 - d) weights`` with d = min(decay, (1 + t) / (10 + t)), by hand in float64."""
    model = nn.Linear(3, 2)
    average = WeightAverage(0.4)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for step in range(12):
        model.weight.data.add_(1.0)
        average.update(model)
        decay = min(0.4, (1 + step) / (10 + step)) if step else 0.0
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    with average.in_place(model):
        torch.testing.assert_close(model.weight.detach().double(), expected, rtol=1e-6, atol=1e-6)


def test_average_is_that_of_timm():
    """ModelEmaV3 with a decay that both have from the first step on; running statistics and their count included."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    ours, theirs = WeightAverage(0.1), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        model(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        optimizer.step()
        ours.update(model)
        if theirs is None:
            theirs = ModelEmaV3(model, decay=0.1)  # takes a copy
        else:
            theirs.update(model)
    ours.finish(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, theirs.module.state_dict()[name])


def test_frozen_weights_are_not_kept_twice_and_trained_ones_come_back():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    average = WeightAverage(0.9)
    for _ in range(2):
        model[1].weight.data.add_(1.0)
        average.update(model)
    assert set(average.state()["weights"]) == {"1.weight", "1.bias"}
    trained = model[1].weight.detach().clone()
    with pytest.raises(RuntimeError, match="^stopped$"), average.in_place(model):
        assert not torch.equal(model[1].weight, trained)
        raise RuntimeError("stopped")
    assert torch.equal(model[1].weight, trained)


def test_average_is_what_is_saved_and_training_goes_on_without_it(tmp_path, monkeypatch):
    """The saved weights are the average of those after every step; losses are those of a run without one."""
    config = make_world(tmp_path, epochs=2, select="last")
    plain = train(tmp_path, config, "plain")
    seen: list[dict[str, torch.Tensor]] = []
    update = WeightAverage.update

    def watched(self, model):
        seen.append({name: tensor.detach().clone() for name, tensor in model.named_parameters()})
        update(self, model)

    monkeypatch.setattr(WeightAverage, "update", watched)
    averaged = train(tmp_path, changed(config, ema_decay=0.8), "averaged")
    assert averaged["train_loss"] == plain["train_loss"]
    saved = load_file(places_of(tmp_path, "averaged").finetuned / "adapter_model.safetensors")
    last = load_file(places_of(tmp_path, "plain").finetuned / "adapter_model.safetensors")
    assert len(seen) == 2 * math.ceil(50 / 8)
    updates = [name for name in saved if "lora_" in name]
    assert len(updates) == 4  # A and B of two layers
    for name in updates:
        expected = torch.zeros_like(saved[name], dtype=torch.float64)
        for step, weights in enumerate(seen):
            decay = min(0.8, (1 + step) / (10 + step)) if step else 0.0
            expected = decay * expected + (1 - decay) * weights[name.replace(".weight", ".default.weight")].double()
        torch.testing.assert_close(saved[name].double(), expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(saved[name], last[name])


def test_features_that_are_kept_once_change_nothing_of_the_average(tmp_path, monkeypatch):
    """With `linear` the head alone is trained and averaged; the model has it at the end all the same."""
    config = make_world(tmp_path, epochs=2, select="last", method="linear", ema_decay=0.8)
    train(tmp_path, config, "kept")
    monkeypatch.setattr("ppvit.training.finetuning.frozen_once", lambda model, splits, *_: (model, splits))
    train(tmp_path, config, "anew")
    kept, anew = (load_file(places_of(tmp_path, name).finetuned / "model.safetensors") for name in ("kept", "anew"))
    assert kept.keys() == anew.keys()
    for name, value in kept.items():
        torch.testing.assert_close(value, anew[name], rtol=1e-5, atol=1e-6)
