"""Networks on the meta device: what building them without initialisation leaves out, and what it does not."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from ppvit.models.without_values import without_values

NAMES = [
    *("vit_tiny_patch16_224", "deit3_small_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224"),
    *("swin_tiny_patch4_window7_224", "mixer_b16_224", "convmixer_768_32", "resnet18", "regnetx_004", "convnext_tiny"),
    *("mobilenetv3_small_100", "convmixer_micro_patch4", "resnet10_micro_cifar", "pyramidnet"),
]


def described(model: nn.Module) -> dict:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: (each.device.type, each.shape, each.dtype, each.requires_grad) for name, each in tensors.items()}


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_types_are_those_of_an_initialised_network(name):
    with torch.device("meta"):
        usual = timm.create_model(name)
    with without_values():
        ours = timm.create_model(name)
    assert described(ours) == described(usual)
    assert ours.state_dict().keys() == usual.state_dict().keys()


def test_it_draws_no_random_numbers_and_calls_no_initialisation():
    before = torch.get_rng_state()
    with without_values():
        weight = nn.Linear(3, 4).weight
        assert nn.init.trunc_normal_(weight) is weight
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_with_values_get_them():
    filled = torch.zeros(3)
    with without_values():
        filled.add_(1).mul_(5)
        nn.init.constant_(values := torch.empty(2, device="cpu"), 7)
    assert filled.tolist() == [5, 5, 5]
    assert values.tolist() == [7, 7]


def test_shapes_that_do_not_fit_are_refused_as_ever():
    with without_values(), pytest.raises(RuntimeError):
        torch.zeros(3).add_(torch.zeros(4))
    with without_values():
        turned = torch.zeros(3, 4).transpose_(0, 1).unsqueeze_(0)
    assert turned.shape == (1, 4, 3)
