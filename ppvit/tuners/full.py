"""Full fine-tuning: every parameter trains."""

from __future__ import annotations

from torch import nn

from ppvit.tuners.base import Tuner


class Full(Tuner):
    """Every parameter trains, position and patch embedding included."""

    name = "full"

    def attach(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)
