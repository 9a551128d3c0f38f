"""The loss that training minimises: that of the task; against an attack see :mod:`ppvit.training.adversarial`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvit.models.tasks import MULTICLASS, Task


class Objective:
    """The task's loss of the labels, and what :class:`ppvit.training.loop.Training` asks of any other objective.

    Args:
        label_smoothing: share of the target probability spread over all classes.
        task: what logits mean.

    Attributes:
        verb: what the training is told as.
        measures: names of what :meth:`loss` measures, ``train_loss`` first; shares end in ``_percent``.
        rate: what the learning rate is multiplied with beside its schedule.
        restarts: whether the next epoch begins at the best weights so far.
    """

    verb = "finetune"
    measures: tuple[str, ...] = ("train_loss", "train_accuracy_percent")
    rate = 1.0
    restarts = False

    def __init__(self, label_smoothing: float = 0.0, task: Task = MULTICLASS) -> None:
        self._label_smoothing, self._task = label_smoothing, task

    def begin_step(self, epoch: int, step: int) -> None:
        """Called in every process before an optimiser step, of which ``step`` is the number in its epoch."""

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss to differentiate, and the measures, float64: sums over the images both.

        Args:
            model: in training mode.
            images: as the model takes them, (n, ...).
            labels: int64 (n,), or multi-label, float32 (n, C).
        """
        logits = model(images).float()
        loss = self._task.loss(logits, labels, self._label_smoothing)
        return loss, torch.stack([loss.detach(), self._task.right(logits, labels)]).double()

    def count(self, measured: Tensor, images: int) -> None:
        """Called with the measures of every batch that belongs to this process, and the number of its images."""

    def end_epoch(self, validated: Mapping[str, float]) -> dict[str, float]:
        """Called in every process after an epoch with what was measured on validation images; returns more metrics."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside ``epoch`` and ``step``: numbers, texts, tensors; called in every process."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave; called in every process."""
