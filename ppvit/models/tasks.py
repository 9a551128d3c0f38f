"""What the logits of a model mean, multi-class or multi-label: its loss, its probabilities, its right answers.

Training, attacks, evaluation and prediction ask here, so that none of them tells the two apart. Labels are those of
:mod:`ppvit.data.labels`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ppvit.data.labels import ClassNumbers, LabelSets, TaskName

THRESHOLD = 0.5  # of a probability, above which an image is said to carry a label


class Task(ABC):
    """How logits (n, C) answer; sums are over the images of a batch."""

    name: ClassVar[TaskName]

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Negative log-likelihood in nats, summed.

        Args:
            logits: (n, C).
            targets: as of :meth:`ppvit.data.labels.Labelling.targets`; or probabilities of the classes, float (n, C),
                where images are mixtures.
            label_smoothing: share of the target probability spread evenly over all answers.
        """

    @abstractmethod
    def divergence(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """Kullback-Leibler divergence of the answers of two kinds of logits, (n, C), summed."""

    @abstractmethod
    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Number of right answers; where targets are probabilities, an answer counts as much as its own."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of every class, (n, C)."""

    @abstractmethod
    def chance(self, classes: int) -> float:
        """Share of answers that guessing gets right."""


class Multiclass(Task):
    """One class each: cross-entropy of the softmax; the answer is the largest logit."""

    name = ClassNumbers.task

    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        targets = targets.to(logits) if targets.is_floating_point() else targets
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")

    def divergence(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        clean, adversarial = (functional.log_softmax(logits, 1) for logits in (clean, adversarial))
        return functional.kl_div(adversarial, clean, reduction="sum", log_target=True)

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        answers = logits.detach().argmax(1)
        if targets.is_floating_point():
            return targets.gather(1, answers[:, None]).double().sum()
        return (answers == targets).sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)

    def chance(self, classes: int) -> float:
        return 1 / classes


class Multilabel(Task):
    """Any number of classes each: C questions whose answers are sigmoids; all sums are means over the C.

    The loss is binary cross-entropy. A label is answered with yes where its probability is above ``THRESHOLD``.
    """

    name = LabelSets.task

    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        smoothed = targets * (1 - label_smoothing) + label_smoothing / 2
        each = functional.binary_cross_entropy_with_logits(logits, smoothed.to(logits), reduction="sum")
        return each / logits.shape[1]

    def divergence(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        yes_and_no = (
            [functional.logsigmoid(sign * logits) for logits in (adversarial, clean)] for sign in (1, -1)
        )  # fmt: skip
        sums = [functional.kl_div(moved, kept, reduction="sum", log_target=True) for moved, kept in yes_and_no]
        return (sums[0] + sums[1]) / clean.shape[1]

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        answers = torch.sigmoid(logits.detach()) > THRESHOLD
        return (1 - (answers.double() - targets).abs()).mean(1).sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def chance(self, classes: int) -> float:
        return 0.5


MULTICLASS = Multiclass()
_TASKS: dict[TaskName, Task] = {task.name: task for task in (MULTICLASS, Multilabel())}


def task_of(name: TaskName) -> Task:
    """What logits mean under the task that a manifest or a record names."""
    return _TASKS[name]
