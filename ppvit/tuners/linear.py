"""Linear probing: the classification head trains on frozen features."""

from __future__ import annotations

from torch import nn

from ppvit.tuners.base import TUNERS, Tuner, freeze_all_but, head_names


@TUNERS.register(place=2)
class Linear(Tuner):
    """Only the head trains: D * C + C parameters. Saved as a whole model, since peft has no adapter without a tuner."""

    name = "linear"
    reads = ()

    def attach(self, model: nn.Module) -> nn.Module:
        freeze_all_but(model, head_names(model))
        return model
