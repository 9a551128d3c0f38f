"""Models as attacks take them: frozen, and as fast as they go for many passes forward and back to the pixels."""

from __future__ import annotations

import torch
from timm.models import ResNet
from torch import nn
from torch.fx.experimental.optimization import fuse

from ppvit.models.products import by_onednn


def attackable(model: nn.Module, device: torch.device) -> nn.Module:
    """The same function of pixels, in eval mode and frozen, on its device; the model given is changed or dropped.

    On a CPU batch normalisation, which is affine in eval mode, goes into the weights of the convolutions of ResNets,
    whose pictures then have their colours last: a pass forward and back takes 0.5 to 0.9 of the time
    (``benchmarks/attackable.py``). Results differ by rounding.
    """
    model = model.eval().requires_grad_(False)
    if isinstance(model, ResNet) and device.type == "cpu":
        return fuse(model).to(memory_format=torch.channels_last)
    return by_onednn(model).to(device)
