"""Scores of a classifier on labelled images, and the tables that are drawn of them; no key is needed."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ppvit.core.device import device
from ppvit.core.errors import PpvitError
from ppvit.models import model_input

BATCH = 64


class Scores:
    """Accuracy, confusion, cross-entropy and calibration of predictions; memory does not grow with their number.

    Accuracy and confusion are torchmetrics', in float64. Its calibration error is not used: it keeps every prediction,
    computes in float32, puts confidences of exactly 1 into a bin of their own, and does not tell the bins, which the
    reliability diagram draws. It has no cross-entropy.

    Args:
        num_classes: C.
        calibration_bins: equal-width bins of the largest probability.
    """

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
        self._bins = np.zeros((3, calibration_bins))  # images, summed confidence, right answers

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (n, C) in any float dtype, labels int64 (n,).

        Raises:
            PpvitError: a logit is not a number.
        """
        logits, labels = logits.double().cpu(), labels.cpu()
        if not torch.isfinite(logits).all():
            raise PpvitError("the model's logits are not numbers; fine-tune with a lower finetune.learning_rate")
        self._metrics.update(logits, labels)
        self._cross_entropy += functional.cross_entropy(logits, labels, reduction="sum").item()
        confidence, predicted = functional.softmax(logits, 1).max(1)
        bins = self._bins.shape[1]
        places = np.clip(np.ceil(confidence.numpy() * bins).astype(int) - 1, 0, bins - 1)  # bins ((b-1)/B, b/B]
        right = (predicted == labels).numpy()
        for row, weights in enumerate((None, confidence.numpy(), right)):
            self._bins[row] += np.bincount(places, weights, minlength=bins)

    @property
    def images(self) -> int:
        """Number of predictions."""
        return int(self._bins[0].sum())

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
        return 100.0 * float(np.abs(self._bins[2] - self._bins[1]).sum()) / self.images

    def calibration_rows(self) -> list[tuple[float, float, int]]:
        """Mean confidence in percent, accuracy in percent and images of every bin that has any."""
        filled = self._bins[:, self._bins[0] > 0].T
        return [(100 * confidence / count, 100 * right / count, int(count)) for count, confidence, right in filled]

    def summary(self) -> dict[str, Any]:
        """The figures as result files name them."""
        return {
            "accuracy_percent": self.accuracy_percent(),
            "class_accuracy_min_percent": float(np.nanmin(self.class_accuracy_percent())),
            "cross_entropy": self.cross_entropy(),
            "calibration_error_percent": self.calibration_error_percent(),
            "images": self.images,
        }


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], scores: Scores) -> Scores:
    """Run a model over batches of images, uint8 (n, 3, H, W), and count its predictions in ``scores``."""
    place = device()
    model = model.to(place).eval()
    with torch.inference_mode():
        for images, labels in batches:
            scores.add(model(model_input(images.to(place))), labels)
    return scores


def write_plots(folder: Path, scores: Scores) -> None:
    """Tables for ``dvc plots``: one row a (true, predicted) image pair, a class, a calibration bin."""
    pairs = [
        (actual, predicted)
        for (actual, predicted), count in np.ndenumerate(scores.confusion)
        for _ in range(count)  # DVC's confusion template counts rows
    ]
    _write_csv(folder / "confusion.csv", ("actual", "predicted"), pairs)
    accuracies = enumerate(scores.class_accuracy_percent().tolist())
    _write_csv(folder / "class_accuracy.csv", ("class", "accuracy_percent"), accuracies)
    header = ("confidence_percent", "accuracy_percent", "images")
    _write_csv(folder / "calibration.csv", header, scores.calibration_rows())


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
