"""The average of the weights over training, which often scores better than those of the last step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ppvit.tuners import trained_state


class WeightAverage:
    """Exponential moving average of trained parameters, and of buffers such as running statistics.

    The weights after the first optimiser step, then ``average = d average + (1 - d) weights`` after step t = 1, 2, ...,
    where d is ``min(decay, (1 + t) / (10 + t))``: the start is soon forgotten, as in TensorFlow's
    ExponentialMovingAverage. What is frozen is not kept twice; whole numbers are copied. Every process keeps the same.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the exponential form as
    in Tarvainen and Valpola, arXiv 1703.01780.

    Args:
        decay: ``finetune.ema_decay``, above 0.
    """

    def __init__(self, decay: float) -> None:
        self._decay, self._steps = decay, 0
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights after one more optimiser step into the average.

        Args:
            model: without the wrapper of several processes.
        """
        weights = trained_state(model)
        if not self._steps:
            self._average = {name: tensor.clone() for name, tensor in weights.items()}
        else:
            # that of a resumed run comes from a file
            self._average = {name: tensor.to(weights[name].device) for name, tensor in self._average.items()}
            self._move(weights, min(self._decay, (1 + self._steps) / (10 + self._steps)))
        self._steps += 1

    def _move(self, weights: dict[str, Tensor], decay: float) -> None:
        real = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        get_ema_multi_avg_fn(decay)([self._average[name] for name in real], [weights[name] for name in real], None)
        for name in weights.keys() - set(real):
            self._average[name].copy_(weights[name])

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model has the average inside the ``with`` block, and the weights that are trained again behind it."""
        weights = {name: tensor.clone() for name, tensor in trained_state(model).items()}
        _put(model, self._average)
        try:
            yield
        finally:
            _put(model, weights)

    def finish(self, model: nn.Module) -> None:
        """Put the average in place for good."""
        _put(model, self._average)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"steps": self._steps, "weights": self._average}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self._steps, self._average = state["steps"], state["weights"]


@torch.no_grad()
def _put(model: nn.Module, values: dict[str, Tensor]) -> None:
    own = trained_state(model)
    for name, value in values.items():
        own[name].copy_(value)
