"""Models as attacks take them: frozen, and as fast as they go for many passes forward and back to the pixels."""

from __future__ import annotations

import torch
from timm.models import ResNet
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from ppvit.models.products import by_onednn


class _Tracer(fx.Tracer):
    """Looks into modules of timm; those of others, such as AdaptNet in front, may decide by values and stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        theirs = type(m).__module__.partition(".")[0] in ("timm", "torch")
        return not theirs or super().is_leaf_module(m, module_qualified_name)


def attackable(model: nn.Module, device: torch.device) -> nn.Module:
    """The same function of pixels, in eval mode and frozen, on its device; the model given is changed or dropped.

    On a CPU batch normalisation, which is affine in eval mode, goes into the weights of the convolutions of ResNets,
    whose pictures then have their colours last: a pass forward and back takes 0.5 to 0.9 of the time
    (``benchmarks/attackable.py``). Results differ by rounding.
    """
    model = model.eval().requires_grad_(False)
    if isinstance(model, ResNet) and device.type == "cpu":
        traced = fx.GraphModule(model, _Tracer().trace(model))
        return fuse(traced, no_trace=True).eval().to(memory_format=torch.channels_last)
    return by_onednn(model).to(device)
