"""Floating-point operations of a network, counted once on an image that is not there, and of its training."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ppvit.config import Adversarial, Finetune

# forward passes that a step takes for an image: gradients of all weights and those of all inputs are one each
WHOLE_PASSES = 3
PARTIAL_PASSES = 2  # where weights are frozen, as in an attack; those of adapters are few


def forward_flops(model: nn.Module, shape: Sequence[int]) -> int:
    """Operations of a forward pass of one input, a multiplication and an addition being two.

    Counted on torch's meta device, which computes nothing: the same on every device, and without a copy of the weights.

    Args:
        model: stays as it is.
        shape: of the input, such as (3, H, W).
    """
    tensors = [*model.parameters(), *model.buffers()]
    empty = {id(each): torch.empty_like(each, device="meta") for each in tensors}
    for each in model.parameters():
        empty[id(each)] = nn.Parameter(empty[id(each)], requires_grad=False)
    shadow = copy.deepcopy(model, empty).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty((1, *shape), device="meta"))
    return max(1, int(counter.get_total_flops()))


def training_flops(finetune: Finetune, adversarial: Adversarial | None, images: int, forward: float) -> float:
    """Operations of a training, were it not to stop early.

    Args:
        finetune: the section.
        adversarial: the section, where it trained against an attack.
        images: training images.
        forward: operations of a forward pass.
    """
    if finetune.method == "linear":  # the backbone is passed once, see ppvit.models.features
        return images * forward
    passes = WHOLE_PASSES if finetune.method == "full" else PARTIAL_PASSES
    if finetune.adversarial != "none" and adversarial is not None:
        passes += PARTIAL_PASSES * adversarial.steps
    return finetune.epochs * images * passes * forward
