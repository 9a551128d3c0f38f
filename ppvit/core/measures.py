"""The figure that models are compared by, and the row of a table by label; for those who measure and those who read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Headline:
    """The figure to compare models by.

    Attributes:
        name: in results; with ``plain_`` and ``wrong_key_`` before it in those of `verify`.
        chance: name of the figure of whoever does not look at the images.
        words: what it is called in a sentence.
        guessing: how to get as much as ``chance``.
        hub: what the Hugging Face Hub calls it.
        digits, unit: how it is written.
        trusted: difference between two machines' figures of the same model, at most; None where images are counted.
    """

    name: str
    chance: str
    words: str
    guessing: str
    hub: str
    digits: int
    unit: str
    trusted: float | None = None

    @property
    def title(self) -> str:
        """The words at the beginning of a sentence."""
        return self.words[0].upper() + self.words[1:]

    def text(self, value: float) -> str:
        """A value of it, or of chance."""
        return f"{value:.{self.digits}f}{self.unit}"

    def of(self, values: Mapping[str, Any], which: str = "") -> str | None:
        """The text of the figure in a result, such as ``plain_``; None where it was not measured."""
        value = values.get(f"{which}{self.name}")
        return None if value is None else self.text(value)


HEADLINES = {
    "multiclass": Headline(
        "accuracy_percent", "chance_percent", "accuracy", "always the most frequent class", "accuracy", 2, " %"
    ),
    "multilabel": Headline("auroc", "chance_auroc", "mean AUROC", "guessing", "roc_auc", 4, "", trusted=0.005),
}
"""By the task of the data set."""


def wilson_percent(hits: int, images: int) -> tuple[float, float]:
    """95 % interval of the share of images that were hit (Wilson, JASA 1927), in percent.

    Args:
        hits: of ``images``, one or more.
    """
    from scipy.stats import binomtest  # slow to load

    interval = binomtest(hits, images).proportion_ci(0.95, method="wilson")
    return 100.0 * float(interval.low), 100.0 * float(interval.high)


_FEW_STEPS = 50
_LEARNED_PERCENT = 90.0  # of its training images, that a model tells which needed no more steps
_ENOUGH_STEPS = 200


def hardly_trained(values: Mapping[str, Any]) -> str:
    """What to say of a model after very few optimiser steps, and what to do; empty where there were enough.

    Args:
        values: of the result of `finetune`.
    """
    steps, learned = values.get("optimiser_steps"), values.get("train_accuracy_percent", 0.0)
    if steps is None or steps >= _FEW_STEPS or learned >= _LEARNED_PERCENT:
        return ""
    epochs = math.ceil(values["epochs"] * _ENOUGH_STEPS / max(1, steps))
    return (
        f"hardly trained: {steps} step{'s' if steps != 1 else ''} of the optimiser; set finetune.epochs={epochs}, or a "
        "smaller finetune.batch_size"
    )


@dataclass(frozen=True)
class LabelRow:
    """How well one label is told, where images carry several; a row of ``labels.csv``.

    Attributes:
        label: its number.
        positives: images that carry it.
        predicted: images that are said to.
        true_positives: images of both kinds.
        auroc, average_precision: 0..1; None where all images carry the label, or none does.
    """

    label: int
    positives: int
    predicted: int
    true_positives: int
    auroc: float | None
    average_precision: float | None

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall of what is said; 0 where it was said of no image."""
        said = self.positives + self.predicted
        return 2 * self.true_positives / said if said else 0.0

    def accuracy(self, images: int) -> float:
        """Share of images of which it is said rightly whether they carry the label."""
        return 1 - (self.positives + self.predicted - 2 * self.true_positives) / images
