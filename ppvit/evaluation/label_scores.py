"""Scores of a model that says of every image which labels it carries: by label, and their means; no key is needed."""

from __future__ import annotations

from collections.abc import Collection
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
from ppvit.evaluation.ranking import KEPT_SCORES, Ranking
from ppvit.evaluation.scores import finite, write_table
from ppvit.models.tasks import THRESHOLD


class LabelScores:
    """Area under the ROC curve, average precision, F1, accuracy and calibration.

    Memory does not grow with the number of images beyond what :class:`ppvit.evaluation.ranking.Ranking` keeps. An
    image is said to carry a label where its probability is above one half. AUROC, average precision and F1 are means
    over the labels that some images carry and others do not, accuracy is one over all labels.

    Args:
        num_classes: C.
        calibration_bins: equal-width bins of the probability that an image carries a label, over all labels.
        kept_scores: see :class:`ppvit.evaluation.ranking.Ranking`.
    """

    headline: ClassVar[str] = HEADLINES["multilabel"].name

    def __init__(self, num_classes: int, calibration_bins: int = 15, kept_scores: int = KEPT_SCORES) -> None:
        self._images = self._exact = 0
        self._counts = torch.zeros(3, num_classes, dtype=torch.int64)  # that carry it, are said to, both
        self._cross_entropy = 0.0
        self._calibration = Calibration(calibration_bins)
        self._ranking = Ranking(num_classes, kept_scores)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (n, C) in any float dtype, labels (n, C) of 0 and 1.

        Raises:
            PpvitError: a logit is not a number.
        """
        logits, labels = finite(logits), labels.cpu().double()
        self._cross_entropy += functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum").item()
        probabilities, carried = logits.sigmoid(), labels > 0
        said = probabilities > THRESHOLD
        self._calibration.add(probabilities.flatten().numpy(), carried.flatten().numpy())
        self._counts += torch.stack([carried, said, carried & said]).sum(1)
        self._exact += int((said == carried).all(1).sum())
        self._images += len(labels)
        self._ranking.add(logits, carried)

    @cached_property
    def rows(self) -> list[LabelRow]:
        """Every label on its own; of all images, which are complete by now."""
        areas = [(None, None) if each is None else astuple(each) for each in self._ranking.areas]
        return [
            LabelRow(label, *counts, *area)
            for label, (counts, area) in enumerate(zip(self._counts.T.tolist(), areas, strict=True))
        ]

    def remarks(self) -> list[str]:
        """What cannot be measured, or not exactly, as sentences."""
        told = self._ranking.remarks()
        for row in self.rows:
            if row.auroc is None:
                which = "no" if row.positives == 0 else "every"
                told.append(
                    f"{which} test image of the {self._images} carries label {row.label}: its AUROC is not measured"
                )
        return told

    def summary(self) -> dict[str, Any]:
        """The figures as result files name them.

        Raises:
            PpvitError: no label is carried by some images and not by others.
        """
        scored = [row for row in self.rows if row.auroc is not None]
        if not scored:
            raise PpvitError(
                f"no label is carried by some of the {self._images} test images and not by others, so that there is no "
                "AUROC; raise dataset.test_fraction, or take other test images"
            )
        return {
            **self._ranking.summary(),
            "f1": float(np.mean([row.f1 for row in scored])),
            "accuracy_percent": 100.0 * float(np.mean([row.accuracy(self._images) for row in self.rows])),
            "exact_match_percent": 100.0 * self._exact / self._images,
            "cross_entropy": self._cross_entropy / self._calibration.answers,
            "calibration_error_percent": self._calibration.error_percent(),
            "scored_labels": len(scored),
            "images": self._images,
        }

    def figures(self, names: Collection[str]) -> dict[str, float]:
        """Those of :meth:`summary` that are named."""
        summary = self.summary()
        return {name: summary[name] for name in names}

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
        accuracies = ((row.label, 100 * row.accuracy(self._images)) for row in self.rows)
        write_table(folder / "class_accuracy.csv", ("class", "accuracy_percent"), accuracies)
        header = ("confidence_percent", "accuracy_percent", "images")
        write_table(folder / "calibration.csv", header, self._calibration.rows())
        write_table(folder / "confusion.csv", ("actual", "predicted"), ())
