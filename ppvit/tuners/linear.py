"""Linear probing: the classification head trains on frozen features."""

from __future__ import annotations

from torch import nn

from ppvit.models.networks import head_names
from ppvit.tuners.base import TUNERS, Tuner, freeze_all_but


@TUNERS.register(place=2)
class Linear(Tuner):
    """The classification head alone trains, on frozen features. Saved as a whole model.

    D * C + C parameters. peft has no adapter for a head alone.
    """

    name = "linear"
    reads = ()
    unread = ("drop_path", "layer_decay")  # there are no blocks that train
    convolutions = True

    def attach(self, model: nn.Module) -> nn.Module:
        freeze_all_but(model, head_names(model))
        return model
