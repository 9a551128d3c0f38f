"""Fine-tuning methods: exact parameter counts, what trains, saving and reloading with plain peft."""

import json

import peft
import pytest
import timm
import torch
from conftest import MADE, make_config, tiny_backbone
from torch import nn

from ppvit.config import Finetune
from ppvit.core.errors import PpvitError, UsageError
from ppvit.models import load_model, save_model
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import TUNERS, load_finetuned, make_tuner, save_finetuned, trainable_parameters

RECORD = {"num_classes": 5, **MADE}


def settings(**values) -> Finetune:
    return make_config(finetune=values).finetune


def vit_base(num_classes: int = 10) -> nn.Module:
    with torch.device("meta"):  # shapes are all that counting needs
        return timm.create_model("vit_base_patch16_224", num_classes=num_classes)


@pytest.mark.parametrize(
    ("method", "parameters", "mi"),
    [
        # Lin, Imaizumi, Kiya, Table: 82.56 (the model with its 1000-class head), 0.15, 0.71, in units of 2^20, at r = 4
        ("melo", 155_146, 0.148),
        ("lora_patch", 745_738, 0.711),
        ("linear", 7_690, 0.007),
    ],
)
def test_counts_of_the_lora_paper(method, parameters, mi):
    count = trainable_parameters(make_tuner(settings(method=method, rank=4, alpha=4)).attach(vit_base()))
    assert count == parameters
    assert round(count / 2**20, 3) == mi


def test_count_of_full_fine_tuning():
    count = trainable_parameters(make_tuner(settings(method="full")).attach(vit_base(num_classes=1000)))
    assert count == 86_567_656
    assert round(count / 2**20, 2) == 82.56


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_count_of_lora_is_r_times_in_plus_out(rank):
    model = make_tuner(settings(method="lora", rank=rank)).attach(vit_base())
    layer = (768 + 2304) + (768 + 768) + 2 * (768 + 3072)
    assert trainable_parameters(model) == 12 * rank * layer + 7_690


def test_melo_equals_separate_adapters_on_query_and_value(monkeypatch):
    """Against LoRA written out on the q and v thirds of qkv: W' = W + (alpha / r) B A, alpha smaller than r."""
    rank, alpha, width = 4, 2.0, 24
    base = tiny_backbone(num_classes=5).model
    weight, bias = base.blocks[0].attn.qkv.weight.detach().clone(), base.blocks[0].attn.qkv.bias.detach().clone()
    tuned = make_tuner(settings(method="melo", rank=rank, alpha=alpha)).attach(base)
    layer = tuned.base_model.model.blocks[0].attn.qkv
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_().mul_(b.structural_mask)
    x = torch.randn(3, width)
    expected = x @ weight.T + bias
    expected[:, :width] += alpha / rank * x @ a[:rank].T @ b[:width, :rank].T
    expected[:, 2 * width :] += alpha / rank * x @ a[rank:].T @ b[2 * width :, rank:].T
    torch.testing.assert_close(layer(x), expected)


def test_lora_scales_by_alpha_over_rank_even_below_one():
    """W' = W + (alpha / r) B A; the trap of public code is alpha // r, which is zero for alpha < r."""
    rank, alpha = 8, 2.0
    base = tiny_backbone(num_classes=5).model
    weight, bias = base.blocks[0].mlp.fc1.weight.detach().clone(), base.blocks[0].mlp.fc1.bias.detach().clone()
    tuned = make_tuner(settings(method="lora", rank=rank, alpha=alpha)).attach(base)
    layer = tuned.base_model.model.blocks[0].mlp.fc1
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_()
    x = torch.randn(3, 24)
    update = alpha / rank * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), x @ weight.T + bias + update)
    assert update.abs().max() > 0.01


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_structural_zeros_stay_zero(optimizer):
    chosen = settings(method="melo", rank=2, optimizer=optimizer, weight_decay=0.1)
    tuned = make_tuner(chosen).attach(tiny_backbone(num_classes=5).model)
    stepper = make_optimizer(chosen, tuned)
    for _ in range(3):
        tuned(torch.randn(2, 3, 16, 16)).square().sum().backward()
        stepper.step()
        stepper.zero_grad()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            assert (parameter[~parameter.structural_mask] == 0).all()
            assert (parameter[parameter.structural_mask] != 0).any()


@pytest.mark.parametrize("method", ["ia3", "boft"])
def test_scales_that_start_at_one_do_not_decay(method):
    """Trained with a gradient of zero, a scale stays what it is; decoupled decay would pull it to zero."""
    chosen = settings(method=method, rank=2, optimizer="adamw", weight_decay=0.5, learning_rate=0.1)
    tuner = make_tuner(chosen)
    tuned = tuner.attach(tiny_backbone(num_classes=5).model)
    stepper = make_optimizer(chosen, tuned, tuner.learning_rates(), tuner.undecayed)
    trained = {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    stepper.step()
    scales = [name for name in trained if "ia3_l" in name or "boft_s" in name]
    assert scales
    assert all(torch.equal(trained[name], before[name]) for name in scales)
    assert all((trained[name] != before[name]).any() for name in trained if "head.modules" in name and "weight" in name)


@pytest.mark.parametrize("method", TUNERS)
def test_saved_model_reloads_to_identical_logits(method, tmp_path, monkeypatch):
    monkeypatch.setattr("peft.tuners.boft.layer._FBD_CUDA", False)  # else peft compiles CUDA code, where it can
    backbone = tiny_backbone()
    save_model(tmp_path / "adapted", backbone, MADE)
    tuner = make_tuner(settings(method=method, rank=2, frequencies=100))
    tuned = tuner.attach(load_model(tmp_path / "adapted", "adapt", 5))
    _shake(tuned)
    save_finetuned(tuner, tuned, tmp_path / "finetuned", tmp_path / "adapted", RECORD)
    image = torch.rand(2, 3, 16, 16) * 255
    tuned.eval()
    with torch.no_grad():
        expected = tuned(image)
        merged = load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 5)(image)
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
        if (tmp_path / "finetuned" / "adapter_config.json").exists():
            # as a stranger would: timm and peft, nothing of ours
            base = timm.create_model(f"local-dir:{tmp_path / 'adapted'}", pretrained=True, num_classes=5)
            stock = peft.PeftModel.from_pretrained(base, str(tmp_path / "finetuned")).eval()
            # pissa and olora train on changed base weights, and are saved for the unchanged ones: equal up to rounding
            rounding = 1e-5 if method in ("pissa", "olora") else 0
            torch.testing.assert_close(stock(image), expected, rtol=rounding, atol=rounding)
            config = json.loads((tmp_path / "finetuned" / "adapter_config.json").read_text())
            assert config["base_model_name_or_path"] == (tmp_path / "adapted").as_posix()


def _shake(model: nn.Module) -> None:
    """Give every trained parameter a value of its own, structural zeros excepted."""
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter) * getattr(parameter, "structural_mask", 1)


@pytest.mark.parametrize("method", ["melo", "lora_patch", "lora"])
def test_adapters_start_at_the_base_model(method):
    base = tiny_backbone(num_classes=5).model
    image = torch.rand(2, 3, 16, 16) * 255
    with torch.no_grad():
        expected = base(image)
        torch.testing.assert_close(make_tuner(settings(method=method)).attach(base).eval()(image), expected)


def test_errors(tmp_path):
    with pytest.raises(UsageError, match="unknown finetune.method 'lora_pach'; did you mean 'lora_patch'"):
        make_tuner(settings(method="lora_pach"))
    with pytest.raises(UsageError, match=r"no linear layer ends in 'attn\.q'; there are attn\.proj, attn\.qkv"):
        make_tuner(settings(method="lora", target_modules=["attn.q"])).attach(tiny_backbone().model)
    with pytest.raises(UsageError, match=r"ends in 'attn\.qvk'; there are .*; did you mean 'attn\.qkv'\?$"):
        make_tuner(settings(method="lora", target_modules=["attn.qvk"])).attach(tiny_backbone().model)
    with pytest.raises(PpvitError, match=r"ppvit\.json is missing; run the stage that writes it: dvc repro finetune"):
        load_finetuned(tmp_path, tmp_path, 5)
    save_model(tmp_path / "adapted", tiny_backbone(), MADE)
    tuner = make_tuner(settings(method="lora"))
    tuned = tuner.attach(load_model(tmp_path / "adapted", "adapt", 5))
    save_finetuned(tuner, tuned, tmp_path / "finetuned", tmp_path / "adapted", RECORD)
    with pytest.raises(PpvitError, match="was trained on 5 classes, the shards have 6"):
        load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 6)
