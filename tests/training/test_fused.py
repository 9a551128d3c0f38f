"""Fast products: values and gradients of torch and peft, to float error, and none that nobody needs."""

import copy

import pytest
import timm
import torch
from conftest import tiny_backbone
from torch import nn
from torch.nn import functional

from ppvit.config import Finetune
from ppvit.models import products
from ppvit.models.products import by_onednn, linear
from ppvit.models.stems import patch_projection
from ppvit.tuners import make_tuner
from ppvit.tuners.fused import _Lora, fused

pytestmark = pytest.mark.skipif(not products._AVAILABLE, reason="torch was built without oneDNN")


def close(found: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether float32 is as near to float64 as products of these sizes are: 1e-5 of the largest value."""
    return (found.double() - exact).abs().max().item() <= 1e-5 * max(1.0, exact.abs().max().item())


def inputs_of(kind: str) -> torch.Tensor:
    """Inputs as networks hand them to linear layers: (..., 12)."""
    torch.manual_seed(1)
    tokens = torch.randn(3, 5, 12)
    return {
        "tokens": tokens,
        "class token": tokens[:, 0],
        "one row": tokens[:1, 0],
        "channels first": torch.randn(3, 12, 5).transpose(1, 2),
        "expanded": torch.randn(1, 1, 12).expand(3, 5, 12),
        "grid": torch.randn(2, 3, 4, 12),
    }[kind]


@pytest.mark.parametrize("kind", ["tokens", "class token", "one row", "channels first", "expanded", "grid"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_that_of_float64(kind, bias):
    layer, inputs = nn.Linear(12, 7, bias=bias), inputs_of(kind).requires_grad_()
    exact, exact_inputs = copy.deepcopy(layer).double(), inputs.detach().double().requires_grad_()
    found, expected = linear(inputs, layer.weight, layer.bias), exact(exact_inputs)
    assert close(found, expected)
    # the gradient of a mean over tokens is broadcast, that of the first token alone is mostly zeros
    for result, leaf in ((found, inputs), (expected, exact_inputs)):
        (result.mean() + result[..., 0].pow(2).sum()).backward()
        assert leaf.grad is not None
    assert close(inputs.grad, exact_inputs.grad)
    for ours, theirs in zip(layer.parameters(), exact.parameters(), strict=True):
        assert close(ours.grad, theirs.grad)


@pytest.mark.parametrize("values", [torch.zeros(0, 12), torch.randn(12), torch.randn(2, 12, dtype=torch.float64)])
def test_what_onednn_is_not_for_goes_to_torch(values):
    layer = nn.Linear(12, 7).to(values.dtype)
    assert torch.equal(linear(values, layer.weight, layer.bias), functional.linear(values, layer.weight, layer.bias))


def test_autocast_stays_in_force():
    layer = by_onednn(nn.Sequential(nn.Linear(12, 7)))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 12)).dtype == torch.bfloat16


def test_lora_is_that_of_float64():
    torch.manual_seed(0)
    x, w, bias, a, b = torch.randn(40, 12), torch.randn(7, 12), torch.randn(7), torch.randn(3, 12), torch.randn(7, 3)
    leaves = [each.clone().requires_grad_() for each in (x, a, b)]
    exact = [each.double().requires_grad_() for each in (x, a, b)]
    found = _Lora.apply(leaves[0], w, bias, leaves[1], leaves[2], 2.5)
    # Hu et al., arXiv 2106.09685, eq. 3
    expected = exact[0] @ w.double().T + bias.double() + 2.5 * exact[0] @ exact[1].T @ exact[2].T
    assert close(found, expected)
    weights = torch.randn(40, 7)
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    assert all(close(ours.grad, theirs.grad) for ours, theirs in zip(leaves, exact, strict=True))


def started(settings: Finetune) -> nn.Module:
    """A model to train whose low-rank updates are not zero, where A would have no gradient."""
    torch.manual_seed(0)
    model = make_tuner(settings).attach(tiny_backbone().model).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter += 0.1 * torch.randn_like(parameter) * getattr(parameter, "structural_mask", 1)
    return model


METHODS = ["lora", "rslora", "dora", "pissa", "olora", "melo", "full", "linear", "adapter", "vpt_deep", "oft", "ia3"]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_every_kind_of_method_is_that_of_the_stock_model(method, dropout):
    settings = Finetune(method=method, rank=4, dropout=dropout, target_modules=[])
    stock, fast = started(settings), fused(started(settings))
    images, labels = torch.rand(16, 3, 16, 16), torch.arange(16) % 3
    losses = []
    for model in (stock, fast):
        torch.manual_seed(3)  # of dropout
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    theirs = dict(stock.named_parameters())
    assert dict(fast.named_parameters()).keys() == theirs.keys()
    for name, parameter in fast.named_parameters():
        assert (parameter.grad is None) == (theirs[name].grad is None), name
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5), name


def test_few_rows_take_the_separate_products(monkeypatch):
    model = fused(make_tuner(Finetune(rank=2, target_modules=["attn.qkv"])).attach(tiny_backbone().model))
    calls = []
    monkeypatch.setattr(_Lora, "apply", lambda *given: calls.append(len(given[0])) or functional.linear(*given[:3]))
    model(torch.rand(1, 3, 16, 16))
    few = len(calls)
    model(torch.rand(32, 3, 16, 16))
    assert few == 0
    assert calls


def test_frozen_weights_get_no_gradient_and_the_first_layer_none_for_its_inputs(monkeypatch):
    model = fused(make_tuner(Finetune(rank=2, target_modules=["attn.qkv"])).attach(tiny_backbone().model)).train()
    shapes = []
    real = products.product
    monkeypatch.setattr("ppvit.tuners.fused.product", lambda *given: shapes.append(given[1].shape) or real(*given))
    loss = model(torch.rand(32, 3, 16, 16)).sum()
    layers = len(shapes)
    shapes.clear()
    loss.backward()
    # one more product a layer than A and B take, but for the first layer
    assert layers > 1
    assert len(shapes) == 5 * layers - 1


def test_a_linear_patch_embedding_keeps_its_class():
    """Adaptation and `he` look for it by that, in a model that has been trained too."""
    model = timm.create_model("naflexvit_base_patch16_gap", embed_dim=32, depth=1, num_heads=2, num_classes=3)
    embedding = patch_projection(model)
    assert type(embedding) is nn.Linear
    trained = fused(make_tuner(Finetune(rank=2)).attach(model))
    assert patch_projection(trained.merge_and_unload()) is embedding
