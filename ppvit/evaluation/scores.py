"""Scores of a classifier on labelled images, and the tables that are drawn of them; no key is needed.

Multi-class here; those of images with several labels are in :mod:`ppvit.evaluation.label_scores`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ppvit.core.errors import PpvitError
from ppvit.core.measures import HEADLINES
from ppvit.evaluation.calibration import Calibration


class Scores:
    """Accuracy, confusion, cross-entropy and calibration of predictions; memory does not grow with their number.

    Accuracy and confusion are torchmetrics', in float64; it has no cross-entropy.

    Args:
        num_classes: C.
        calibration_bins: equal-width bins of the largest probability.
    """

    headline: ClassVar[str] = HEADLINES["multiclass"].name

    def __init__(self, num_classes: int, calibration_bins: int = 15) -> None:
        from torchmetrics import MetricCollection  # takes a second to import
        from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassRecall

        # unvalidated: torchmetrics would refuse a single class, and NaN as the recall of a class without images
        self._metrics = MetricCollection(
            {
                "confusion": MulticlassConfusionMatrix(num_classes, validate_args=False),
                "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
                "recall": MulticlassRecall(num_classes, average=None, validate_args=False, zero_division=math.nan),
            }
        ).set_dtype(torch.float64)
        self._num_classes, self._cross_entropy = num_classes, 0.0
        self._calibration = Calibration(calibration_bins)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (n, C) in any float dtype, labels int64 (n,).

        Raises:
            PpvitError: a logit is not a number.
        """
        logits, labels = finite(logits), labels.cpu()
        self._metrics.update(logits, labels)
        self._cross_entropy += functional.cross_entropy(logits, labels, reduction="sum").item()
        confidence, predicted = functional.softmax(logits, 1).max(1)
        self._calibration.add(confidence.numpy(), (predicted == labels).numpy())

    @property
    def images(self) -> int:
        """Number of predictions."""
        return self._calibration.answers

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Number of images by true class (rows) and predicted class (columns), (C, C)."""
        counts: npt.NDArray[np.int64] = self._metrics["confusion"].compute().long().numpy()
        return counts.reshape(self._num_classes, self._num_classes)  # torchmetrics gives a scalar for a single class

    def accuracy_percent(self) -> float:
        """Share of right predictions."""
        return 100.0 * float(self._metrics["accuracy"].compute())

    def class_accuracy_percent(self) -> npt.NDArray[np.float64]:
        """Share of right predictions of every class (recall), (C,); NaN for a class without images."""
        shares: npt.NDArray[np.float64] = self._metrics["recall"].compute().numpy()
        return 100.0 * shares

    def cross_entropy(self) -> float:
        """Mean negative log-likelihood in nats."""
        return self._cross_entropy / self.images

    def calibration_error_percent(self) -> float:
        """Expected calibration error (Guo et al., arXiv 1706.04599, Eq. 3)."""
        return self._calibration.error_percent()

    def summary(self) -> dict[str, Any]:
        """The figures as result files name them."""
        return {
            "accuracy_percent": self.accuracy_percent(),
            "class_accuracy_min_percent": float(np.nanmin(self.class_accuracy_percent())),
            "cross_entropy": self.cross_entropy(),
            "calibration_error_percent": self.calibration_error_percent(),
            "images": self.images,
        }

    def remarks(self) -> list[str]:
        """What cannot be measured, as sentences: all can."""
        return []

    def chance(self) -> tuple[str, float]:
        """Name and value of the headline figure of whoever does not look at the images, but knows the largest class."""
        return HEADLINES["multiclass"].chance, 100.0 * float(self.confusion.sum(1).max()) / self.images

    def write_plots(self, folder: Path) -> None:
        """Tables for ``dvc plots``: one row a (true, predicted) image pair, a class, a calibration bin."""
        pairs = [
            (actual, predicted)
            for (actual, predicted), count in np.ndenumerate(self.confusion)
            for _ in range(count)  # DVC's confusion template counts rows
        ]
        write_table(folder / "confusion.csv", ("actual", "predicted"), pairs)
        accuracies = enumerate(self.class_accuracy_percent().tolist())
        write_table(folder / "class_accuracy.csv", ("class", "accuracy_percent"), accuracies)
        header = ("confidence_percent", "accuracy_percent", "images")
        write_table(folder / "calibration.csv", header, self._calibration.rows())


def finite(logits: Tensor) -> Tensor:
    """Logits as they are scored, float64 on the CPU.

    Raises:
        PpvitError: a logit is not a number.
    """
    logits = logits.double().cpu()
    if not torch.isfinite(logits).all():
        raise PpvitError("the model's logits are not numbers; fine-tune with a lower finetune.learning_rate")
    return logits


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    """Write a table in CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
