"""Runs a model over labelled images and scores its answers, by the task that the images are for; no key is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ppvit.core.device import device
from ppvit.data.labels import Labelling, LabelSets
from ppvit.evaluation.label_scores import LabelScores
from ppvit.evaluation.scores import Scores
from ppvit.models import model_input
from ppvit.models.products import by_onednn

BATCH = 64


class AnyScores(Protocol):
    """What :class:`ppvit.evaluation.scores.Scores` and :class:`ppvit.evaluation.label_scores.LabelScores` can both."""

    headline: ClassVar[str]
    """of the figures in :meth:`summary` the one to compare models by"""

    def add(self, logits: Tensor, labels: Tensor) -> None: ...

    def summary(self) -> dict[str, Any]: ...

    def figures(self, names: Collection[str]) -> dict[str, float]: ...

    def remarks(self) -> list[str]: ...

    def chance(self) -> tuple[str, float]: ...

    def write_plots(self, folder: Path) -> None: ...


def scores_for(labelling: Labelling, calibration_bins: int = 15) -> AnyScores:
    """Scores, with nothing counted yet, of a model for images that are labelled so."""
    kind: type[LabelScores | Scores] = LabelScores if isinstance(labelling, LabelSets) else Scores
    return kind(labelling.classes, calibration_bins)


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], scores: AnyScores) -> AnyScores:
    """Run a model over batches of images, uint8 (n, 3, H, W), and targets, and count its answers in ``scores``."""
    for logits, labels in answers(model, batches):
        scores.add(logits, labels)
    return scores


def counted(batches: Iterable[tuple[Tensor, Tensor]], bar: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; each that was worked on moves a progress bar by its images."""
    for images, labels in batches:
        yield images, labels
        bar.update(len(labels))


def answers(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of a model, (n, C), for batches of images, uint8 (n, 3, H, W), and their targets; both on the CPU."""
    place = device()
    model = by_onednn(model).to(place).eval()
    for images, labels in batches:
        with torch.inference_mode():
            logits = model(model_input(images.to(place, non_blocking=True))).cpu()
        yield logits, labels
