"""Scores of a model that says of every image which labels it carries: by label, and their means; no key is needed."""

from __future__ import annotations

from dataclasses import astuple, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ppvit.core.errors import PpvitError
from ppvit.core.measures import HEADLINES, LabelRow
from ppvit.evaluation.calibration import Calibration
from ppvit.evaluation.scores import finite, write_table
from ppvit.models.tasks import THRESHOLD


class LabelScores:
    """Area under the ROC curve, average precision, F1, accuracy and calibration; every prediction is kept.

    AUROC and average precision are torchmetrics', without bins of thresholds, and in its float32. An image is said to
    carry a label where its probability is above one half. AUROC, average precision and F1 are means over the labels
    that some images carry and others do not, accuracy is one over all labels.

    Args:
        num_classes: C.
        calibration_bins: equal-width bins of the probability that an image carries a label, over all labels.
    """

    headline: ClassVar[str] = HEADLINES["multilabel"].name

    def __init__(self, num_classes: int, calibration_bins: int = 15) -> None:
        self._num_classes = num_classes
        self._probabilities: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._cross_entropy = 0.0
        self._calibration = Calibration(calibration_bins)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (n, C) in any float dtype, labels (n, C) of 0 and 1.

        Raises:
            PpvitError: a logit is not a number.
        """
        logits, labels = finite(logits), labels.cpu().double()
        self._cross_entropy += functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum").item()
        probabilities = logits.sigmoid()
        self._calibration.add(probabilities.flatten().numpy(), (labels > 0).flatten().numpy())
        self._probabilities.append(probabilities)
        self._targets.append(labels.long())

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor]:
        """Probabilities and targets of all images, which are complete by now, (n, C)."""
        return torch.cat(self._probabilities), torch.cat(self._targets)

    @cached_property
    def rows(self) -> list[LabelRow]:
        """Every label on its own; of all images, which are complete by now."""
        from torchmetrics.functional import classification  # takes a second to import

        def row(label: int) -> LabelRow:
            told, truth = probabilities[:, label], targets[:, label]
            said, positives = told > THRESHOLD, int(truth.sum())
            counts = label, positives, int(said.sum()), int(said[truth > 0].sum())
            if not 0 < positives < len(truth):
                return LabelRow(*counts, None, None)
            area, precision = (
                classification.binary_auroc(told, truth),
                classification.binary_average_precision(told, truth),
            )
            return LabelRow(*counts, float(area), float(precision))

        probabilities, targets = self._all
        return [row(label) for label in range(self._num_classes)]

    def remarks(self) -> list[str]:
        """What cannot be measured, as sentences."""
        images, told = len(self._all[1]), []
        for row in self.rows:
            if row.auroc is None:
                which = "no" if row.positives == 0 else "every"
                told.append(f"{which} test image of the {images} carries label {row.label}: its AUROC is not measured")
        return told

    def summary(self) -> dict[str, Any]:
        """The figures as result files name them.

        Raises:
            PpvitError: no label is carried by some images and not by others.
        """
        probabilities, targets = self._all
        scored = [row for row in self.rows if row.auroc is not None]
        if not scored:
            raise PpvitError(
                f"no label is carried by some of the {len(targets)} test images and not by others, so that there is no "
                "AUROC; raise dataset.test_fraction, or take other test images"
            )
        exact = ((probabilities > THRESHOLD) == (targets > 0)).all(1)
        return {
            **{name: _mean(scored, name) for name in ("auroc", "average_precision", "f1")},
            "accuracy_percent": 100.0 * float(np.mean([row.accuracy(len(targets)) for row in self.rows])),
            "exact_match_percent": 100.0 * float(exact.double().mean()),
            "cross_entropy": self._cross_entropy / targets.numel(),
            "calibration_error_percent": self._calibration.error_percent(),
            "scored_labels": len(scored),
            "images": len(targets),
        }

    def chance(self) -> tuple[str, float]:
        """Name and value of the headline figure of whoever does not look at the images."""
        return HEADLINES["multilabel"].chance, 0.5

    def write_plots(self, folder: Path) -> None:
        """Tables: one row a label (its number: names stay with the owner), twice, and a calibration bin.

        ``confusion.csv`` has no rows: classes are not confused, but `dvc plots` complains where the file is missing.
        """
        names = tuple(field.name for field in fields(LabelRow))
        rows = [tuple("" if value is None else value for value in astuple(row)) for row in self.rows]
        write_table(folder / "labels.csv", names, rows)
        accuracies = ((row.label, 100 * row.accuracy(len(self._all[1]))) for row in self.rows)
        write_table(folder / "class_accuracy.csv", ("class", "accuracy_percent"), accuracies)
        header = ("confidence_percent", "accuracy_percent", "images")
        write_table(folder / "calibration.csv", header, self._calibration.rows())
        write_table(folder / "confusion.csv", ("actual", "predicted"), ())


def _mean(rows: list[LabelRow], name: str) -> float:
    return float(np.mean([getattr(row, name) for row in rows]))
