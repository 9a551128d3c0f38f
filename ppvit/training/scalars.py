"""Weights of the natural and the robust loss that follow the natural accuracy.

Source: AutoLoRa, Xu et al., arXiv 2310.01818.
"""

from __future__ import annotations

import torch
from torch import Tensor

REFRESHES = 4  # an epoch


def automatic_weights(natural_weight: float, robust_weight: float, accuracy: float) -> tuple[float, float]:
    """``natural_weight (1 - A)`` and ``robust_weight A``: accurate first, then robust; A is a share, 0..1."""
    return natural_weight * (1 - accuracy), robust_weight * accuracy


class RunningAccuracy:
    """Natural accuracy of the training images since the last refresh.

    Args:
        chance: the value before anything was seen.
        device: where images are counted, so that a GPU need not wait.
    """

    def __init__(self, chance: float, device: torch.device) -> None:
        self.value = chance
        self.counts = torch.zeros(2, dtype=torch.float64, device=device)  # right answers, images, in this process

    def add(self, right: Tensor, images: int) -> None:
        """Count a batch."""
        self.counts += torch.stack([right.double(), torch.full_like(right, images).double()])

    def refresh(self, total: Tensor) -> None:
        """Take the accuracy that ``total`` has, the counts of all processes, and start counting from zero again."""
        if total[1] > 0:
            self.value = (total[0] / total[1]).item()
        self.counts.zero_()
