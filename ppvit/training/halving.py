"""A learning rate that halves when accuracy under attack on validation images stops rising.

Source: AutoLoRa, Xu et al., arXiv 2310.01818, Alg. 1, and its public code, which gives these epochs of 50; other
lengths have them in proportion. The rule is that of the step size of APGD (Croce and Hein, arXiv 2003.01690).
"""

from __future__ import annotations

import math
from typing import Any

_LOOKED_AT = (16, 24, 28, 36, 40, 42, 44, 46, 48, 50)  # of 50 epochs
_RISES = 0.75  # share of the epochs since in which it must have risen


class Halving:
    """Halves the rate after an epoch of :attr:`looks` if too few epochs since the one before brought a rise, or if
    neither rate nor best figure has changed since.

    Args:
        epochs: of the run.

    Attributes:
        looks: epochs, from 1, after which it is decided.
        rate: as a multiple of ``finetune.learning_rate``.
    """

    def __init__(self, epochs: int) -> None:
        self.looks = sorted({max(1, round(look * epochs / 50)) for look in _LOOKED_AT})
        self.rate = 1.0
        self._last = self._best = self._best_then = -math.inf
        self._rate_then, self._rises, self._since = 0.0, 0, 0

    def end_epoch(self, epoch: int, figure: float) -> bool:
        """Whether the rate was halved, after which training goes on from the best weights so far."""
        self._since += 1
        self._rises += figure > self._last
        self._last, self._best = figure, max(self._best, figure)
        if epoch not in self.looks:
            return False
        unchanged = self._best == self._best_then and self.rate == self._rate_then
        halved = self._rises < _RISES * self._since or unchanged
        self._best_then, self._rate_then = self._best, self.rate
        self._rises = self._since = 0
        if halved:
            self.rate /= 2
        return halved

    def state(self) -> list[float]:
        """Numbers that a resumed run needs."""
        then = [self._best_then, self._rate_then]
        return [self.rate, self._last, self._best, *then, float(self._rises), float(self._since)]

    def load_state(self, state: Any) -> None:
        """Take back what :meth:`state` gave."""
        self.rate, self._last, self._best, self._best_then, self._rate_then, rises, since = state
        self._rises, self._since = int(rises), int(since)
