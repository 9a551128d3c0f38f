"""Scores of a classifier on labelled images, and the tables that are drawn of them; no key is needed.

Multi-class here; those of images with several labels are in :mod:`ppvit.evaluation.label_scores`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ppvit.core.errors import PpvitError
from ppvit.core.measures import HEADLINES, wilson_percent
from ppvit.evaluation.calibration import Calibration
from ppvit.evaluation.ranking import KEPT_SCORES, Ranking

TOP = 5  # classes among which the right one is looked for, as usual since ImageNet


class Scores:
    """Accuracy, areas under the curves, confusion, cross-entropy and calibration of predictions.

    Memory does not grow with the number of images beyond what :class:`ppvit.evaluation.ranking.Ranking` keeps; the
    confusion has C^2 numbers. Accuracy, F1 and confusion are torchmetrics', in float64; it has no cross-entropy.

    Args:
        num_classes: C.
        calibration_bins: equal-width bins of the largest probability.
        kept_scores: see :class:`ppvit.evaluation.ranking.Ranking`.
    """

    headline: ClassVar[str] = HEADLINES["multiclass"].name

    def __init__(self, num_classes: int, calibration_bins: int = 15, kept_scores: int = KEPT_SCORES) -> None:
        from torchmetrics import Metric, MetricCollection  # takes a second to import
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassConfusionMatrix,
            MulticlassF1Score,
            MulticlassRecall,
        )

        # unvalidated: torchmetrics would refuse a single class, and NaN as the recall of a class without images; and of
        # processes that share the work each has counted all images, so they are not to be added up
        alone: dict[str, Any] = {"validate_args": False, "sync_on_compute": False}
        told: dict[str, Metric | MetricCollection] = {
            "confusion": MulticlassConfusionMatrix(num_classes, **alone),
            "accuracy": MulticlassAccuracy(num_classes, average="micro", **alone),
            "recall": MulticlassRecall(num_classes, average=None, **alone, zero_division=math.nan),
            "f1": MulticlassF1Score(num_classes, average="macro", **alone),
        }
        if num_classes > TOP:
            told["top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=TOP, **alone)
        self._metrics = MetricCollection(told).set_dtype(torch.float64)
        self._num_classes, self._cross_entropy = num_classes, 0.0
        self._calibration = Calibration(calibration_bins)
        self._ranking = Ranking(num_classes, kept_scores)

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
        self._ranking.add(log_odds(logits), functional.one_hot(labels, self._num_classes).bool())

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

    def summary(self, areas: bool = True) -> dict[str, Any]:
        """The figures as result files name them.

        Args:
            areas: whether those under the curves are among them, which take seconds where there are many classes.
        """
        recalls, right = self.class_accuracy_percent(), int(self.confusion.trace())
        low, high = wilson_percent(right, self.images)
        top5 = (
            {"top5_accuracy_percent": 100.0 * float(self._metrics["top5"].compute())} if "top5" in self._metrics else {}
        )
        return {
            "accuracy_percent": self.accuracy_percent(),
            "accuracy_low_percent": low,
            "accuracy_high_percent": high,
            **top5,
            "balanced_accuracy_percent": float(np.nanmean(recalls)),
            "class_accuracy_min_percent": float(np.nanmin(recalls)),
            "f1": float(self._metrics["f1"].compute()),
            **(self._ranking.summary() if areas else {}),
            "cross_entropy": self.cross_entropy(),
            "calibration_error_percent": self.calibration_error_percent(),
            "images": self.images,
        }

    def figures(self, names: Collection[str]) -> dict[str, float]:
        """Those of :meth:`summary` that are named, in less time where none is an area."""
        summary = self.summary(areas=not {"auroc", "average_precision"}.isdisjoint(names))
        return {name: summary[name] for name in names}

    def remarks(self) -> list[str]:
        """What cannot be measured, or not exactly, as sentences."""
        return self._ranking.remarks()

    def chance(self) -> tuple[str, float]:
        """Name and value of the headline figure of whoever does not look at the images, but knows the largest class."""
        return HEADLINES["multiclass"].chance, 100.0 * float(self.confusion.sum(1).max()) / self.images

    def write_plots(self, folder: Path) -> None:
        """Tables for ``dvc plots``: one row a (true, predicted) image pair, a class, a calibration bin."""
        pairs = (
            (actual, predicted)
            for (actual, predicted), count in np.ndenumerate(self.confusion)
            for _ in range(count)  # DVC's confusion template counts rows
        )
        write_table(folder / "confusion.csv", ("actual", "predicted"), pairs)
        areas = (("", "") if each is None else (each.auroc, each.average_precision) for each in self._ranking.areas)
        recalls = self.class_accuracy_percent().tolist()
        rows = ((number, recall, *area) for number, (recall, area) in enumerate(zip(recalls, areas, strict=True)))
        write_table(folder / "class_accuracy.csv", ("class", "accuracy_percent", "auroc", "average_precision"), rows)
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


def log_odds(logits: Tensor) -> Tensor:
    """Log-odds of every class under the softmax, (n, C): the order of its probabilities, where those round to 0 or 1.

    Args:
        logits: float64, (n, C).
    """
    logs = functional.log_softmax(logits, 1)
    largest = logits.argmax(1, keepdim=True)
    others = logits.scatter(1, largest, -math.inf).logsumexp(1, keepdim=True)
    # for all but the largest the probability is one half at most, which leaves the difference from 1 its digits
    odds = logs - torch.log1p(-logs.exp())
    return odds.scatter(1, largest, logits.gather(1, largest) - others)


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    """Write a table in CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
