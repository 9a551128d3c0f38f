"""Full fine-tuning: every parameter trains."""

from __future__ import annotations

from torch import nn

from ppvit.tuners.base import TUNERS, Tuner


@TUNERS.register(place=1)
class Full(Tuner):
    """Every parameter trains, position and patch embedding included. Saved as a whole model."""

    name = "full"
    reads = ()
    convolutions = True

    def attach(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)
