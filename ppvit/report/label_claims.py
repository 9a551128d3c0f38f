"""What the trainer says of single labels, where images carry several, held against the owner's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ppvit.core.figures import Count, Share, read_rows
from ppvit.core.measures import LabelRow

_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("label", "positives", "predicted", "true_positives"), Count),
    **dict.fromkeys(("auroc", "average_precision"), Share | Literal[""]),
}
_FLOAT32 = 1e-5  # in which ranks are computed


def read_labels(path: Path, carried: npt.NDArray[np.int64]) -> list[LabelRow]:
    """``labels.csv`` of `evaluate`, as it stands.

    Args:
        path: the table.
        carried: number of the owner's test images that carry each label, (C,).

    Raises:
        PpvitError: it is missing, damaged or too long.
    """
    rows = read_rows(path, "evaluate", _COLUMNS, len(carried))
    return [LabelRow(*row[:4], *(None if value == "" else value for value in row[4:])) for row in rows]


def wrong_label(rows: list[LabelRow], carried: npt.NDArray[np.int64], images: int) -> str | None:
    """What cannot be right in the table; None where all can.

    The counts at the threshold bound the area under the ROC curve: every image above it stands before every one below,
    so the area is at least TPR TNR and at most 1 - FNR FPR.

    Args:
        rows: of :func:`read_labels`.
        carried: as there.
        images: number of the owner's test images.
    """
    if [row.label for row in rows] != list(range(len(carried))):
        return f"it does not have the labels 0 to {len(carried) - 1}, one a row"
    for row, positives in zip(rows, carried.tolist(), strict=True):
        negatives, false_positives = images - positives, row.predicted - row.true_positives
        if row.positives != positives:
            return f"it has {row.positives} images that carry label {row.label}, the owner has {positives}"
        if not (row.true_positives <= positives and 0 <= false_positives <= negatives):
            return f"its counts of label {row.label} do not agree with each other"
        ranked = 0 < positives < images
        if (row.auroc is not None) != ranked or (row.average_precision is not None) != ranked:
            return f"label {row.label} has no area under the curve where it should, or has one where there is none"
        if row.auroc is not None:
            above, below = row.true_positives / positives, false_positives / negatives
            least, most = above * (1 - below), 1 - (1 - above) * below
            if not least - _FLOAT32 <= row.auroc <= most + _FLOAT32:
                return f"'auroc' {row.auroc:.6g} of label {row.label} is not between {least:.6g} and {most:.6g}"
    return None


def sums(rows: list[LabelRow], images: int) -> dict[str, float]:
    """Figures of the result that the table adds up to, by name."""
    scored = [row for row in rows if row.auroc is not None]
    means = {
        name: float(np.mean([getattr(row, name) for row in scored])) if scored else 0.0
        for name in ("auroc", "average_precision", "f1")
    }
    accuracy = 100 * float(np.mean([row.accuracy(images) for row in rows]))
    return {**means, "accuracy_percent": accuracy, "scored_labels": float(len(scored))}


def exact_match_bounds(rows: list[LabelRow], images: int) -> tuple[float, float]:
    """Least and most images of which all labels can be told rightly, in percent, by what is told of each label."""
    shares = [100 * row.accuracy(images) for row in rows]
    return max(0.0, 100 - sum(100 - share for share in shares)), min(shares)
