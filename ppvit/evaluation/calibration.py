"""Whether probabilities are what they say: bins of confidence, their error, and the rows of the reliability diagram."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Calibration:
    """Confidence and outcome by equal-width bins; memory does not grow with their number.

    torchmetrics' calibration error is not used: it keeps every prediction, computes in float32, puts confidences of
    exactly 1 into a bin of their own, and does not tell the bins, which the reliability diagram draws.

    Args:
        bins: B; bin b is ((b-1)/B, b/B].
    """

    def __init__(self, bins: int) -> None:
        self._bins = np.zeros((3, bins))  # answers, summed confidence, outcomes

    def add(self, confidence: npt.NDArray[np.float64], outcome: npt.NDArray[np.bool_]) -> None:
        """Count answers: the probability that each was given, (n,), and whether it came true."""
        bins = self._bins.shape[1]
        places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        for row, weights in enumerate((None, confidence, outcome)):
            self._bins[row] += np.bincount(places, weights, minlength=bins)

    @property
    def answers(self) -> int:
        """Number of answers counted."""
        return int(self._bins[0].sum())

    def error_percent(self) -> float:
        """Expected calibration error (Guo et al., arXiv 1706.04599, Eq. 3)."""
        return 100.0 * float(np.abs(self._bins[2] - self._bins[1]).sum()) / self.answers

    def rows(self) -> list[tuple[float, float, int]]:
        """Mean confidence in percent, share of outcomes in percent and answers of every bin that has any."""
        filled = self._bins[:, self._bins[0] > 0].T
        return [(100 * confidence / count, 100 * right / count, int(count)) for count, confidence, right in filled]
