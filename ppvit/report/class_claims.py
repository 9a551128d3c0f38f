"""What the trainer says of images of one class each, held against its own confusion and against itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ppvit.core.measures import wilson_percent

_ROUNDED = 1e-6


def sums_of(confusion: npt.NDArray[np.int64]) -> dict[str, float]:
    """Figures of the result that the confusion adds up to, by name.

    Args:
        confusion: number of images by true class (rows) and predicted class, (C, C).
    """
    right, there, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recalls = right[there > 0] / there[there > 0]
    named = there + said > 0  # as torchmetrics and scikit-learn have it: classes that occur, or were said to
    low, high = wilson_percent(int(right.sum()), int(confusion.sum()))
    return {
        "accuracy_percent": 100 * right.sum() / confusion.sum(),
        "accuracy_low_percent": low,
        "accuracy_high_percent": high,
        "balanced_accuracy_percent": 100 * recalls.mean(),
        "class_accuracy_min_percent": 100 * recalls.min(),
        "f1": (2 * right[named] / (there + said)[named]).mean(),
    }


def disagreement(evaluate: dict[str, Any]) -> str | None:
    """What two figures of a result contradict each other in, and None where none do."""
    if evaluate.get("top5_accuracy_percent", math.inf) < evaluate["accuracy_percent"] - _ROUNDED:
        return "'top5_accuracy_percent' is less than 'accuracy_percent'"
    names = ("auroc_low", "auroc", "auroc_high")
    areas = [float(evaluate[name]) for name in names if name in evaluate]
    if len(areas) not in (0, len(names)):
        return "'auroc', 'auroc_low' and 'auroc_high' are told together or not at all"
    if areas != sorted(areas):
        return f"'auroc' {areas[1]:.6g} is not between 'auroc_low' {areas[0]:.6g} and 'auroc_high' {areas[2]:.6g}"
    return None
