"""Which epoch's weights are kept, and when training has gone on in vain: by images that are not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ppvit.tuners import trained_state


class Measure(Protocol):
    """Something that is measured after every epoch; see :class:`ppvit.training.validation.Validation`."""

    def measure(self, model: nn.Module) -> dict[str, float]: ...


class Selection:
    """The best epoch by a figure of the validation images, or the last.

    Among epochs of the same figure the one with the lower loss is better, then the earlier one. The loss itself tells
    epochs apart where all of few images are told rightly in many of them.

    Args:
        measures: all that is measured after an epoch, in this order; only what ``chooses`` names chooses anything.
        chooses: names of the figure, of which more is better, or of the loss in its place, and of the loss; None keeps
            the last epoch.
        select: ``best`` or ``last``.
        patience: epochs without a new best after which it is enough; 0 for never.

    Attributes:
        epoch: the epoch, from 1, whose weights are kept; 0 before the first.
    """

    def __init__(
        self,
        measures: Sequence[Measure] = (),
        chooses: tuple[str, str] | None = None,
        select: Literal["best", "last"] = "best",
        patience: int = 0,
    ) -> None:
        self._measures, self._chooses = measures, chooses
        self._keeps_best = chooses is not None and select == "best"
        self._patience = patience if chooses is not None else 0
        self._best: list[float] = []  # the figure, and the loss times -1
        self._best_epoch = self.epoch = 0
        self._weights: dict[str, Tensor] = {}

    def end_epoch(self, epoch: int, model: nn.Module) -> dict[str, float]:
        """Measure after an epoch, numbered from 1, and keep the weights if they are the best; called in every process.

        Args:
            model: with the weights that would be kept; not the wrapper of several processes.
        """
        measured: dict[str, float] = {}
        for each in self._measures:
            measured |= each.measure(model)
        if self._chooses is not None:
            figure, loss = (measured[name] for name in self._chooses)
            figure = -loss if self._chooses[0] == self._chooses[1] else figure
            if [figure, -loss] > self._best:  # lists: the first that differs decides, and all are above an empty one
                self._best, self._best_epoch = [figure, -loss], epoch
                if self._keeps_best:
                    self._weights = {name: each.detach().cpu().clone() for name, each in trained_state(model).items()}
        self.epoch = self._best_epoch if self._keeps_best else epoch
        return measured

    def enough(self, epochs: int) -> bool:
        """Whether training ends after so many epochs."""
        return 0 < self._patience <= epochs - self._best_epoch

    def finish(self, model: nn.Module) -> None:
        """Put the weights that are kept in place."""
        if self._weights:
            with torch.no_grad():
                for name, tensor in trained_state(model).items():
                    tensor.copy_(self._weights[name])

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"best": self._best, "epochs": [self._best_epoch, self.epoch], "weights": self._weights}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self._best, (self._best_epoch, self.epoch), self._weights = state["best"], state["epochs"], state["weights"]
