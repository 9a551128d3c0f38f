"""Which images are attacked, and the confidence interval of a share of so few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from ppvit.data.batches import EncryptedImages
from ppvit.models import model_input


@dataclass(frozen=True)
class Sample:
    """Images under attack.

    Attributes:
        images: float32, (n, 3, H, W), as the model takes them: pixels in [-1, 1] (:func:`ppvit.models.model_input`).
        labels: int64 (n,), or multi-label, float32 (n, C).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def chosen(available: int, count: int, seed: int) -> np.ndarray:
    """Indices of up to ``count`` images, intp; fewer are the first of more, and owner and trainer choose the same."""
    return np.random.default_rng((seed, available)).permutation(available)[:count]


def draw(dataset: EncryptedImages, count: int, seed: int) -> Sample:
    """Up to ``count`` images of a split."""
    images, labels = zip(*(dataset[index] for index in chosen(len(dataset), count, seed).tolist()), strict=True)
    return Sample(model_input(torch.stack(images)), default_collate(list(labels)))


def percent(hits: np.ndarray) -> float:
    """Share of True in a bool array, in percent."""
    return 100.0 * float(np.mean(hits))
