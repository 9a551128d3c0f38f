"""Full fine-tuning: every parameter trains."""

from __future__ import annotations

from torch import nn

from ppvit.tuners.base import TUNERS, Tuner, patch_learning_rate


@TUNERS.register(place=1)
class Full(Tuner):
    """Every parameter trains, position and patch embedding included. Saved as a whole model."""

    name = "full"
    reads = ("patch_learning_rate",)
    convolutions = True

    def attach(self, model: nn.Module) -> nn.Module:
        self._rates = patch_learning_rate(self.settings, model)
        return model.requires_grad_(True)

    def learning_rates(self) -> dict[str, float]:
        return self._rates
