"""What the logits of a model mean, multi-class or multi-label: its loss, its probabilities, its right answers.

Training, attacks, evaluation and prediction ask here, so that none of them tells the two apart. Labels are those of
:mod:`ppvit.data.labels`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ppvit.data.labels import ClassNumbers, LabelSets, TaskName

THRESHOLD = 0.5  # of a probability, above which an image is said to carry a label


class Task(ABC):
    """How logits (n, C) answer; sums are over the images of a batch.

    Args:
        weights: of :meth:`balanced_weights`, for the loss alone; None weighs all alike.
    """

    name: ClassVar[TaskName]

    def __init__(self, weights: Tensor | None = None) -> None:
        self._weights = weights

    @abstractmethod
    def balanced_weights(self, counts: npt.NDArray[np.int64], images: int) -> Tensor:
        """Weights by which every class has the same share of the loss; of all images their mean is 1.

        Args:
            counts: training images of every class, (C,).
            images: all training images.
        """

    def weighted(self, weights: Tensor) -> Self:
        """The same with weights in its loss."""
        return type(self)(weights)

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

    def balanced_weights(self, counts: npt.NDArray[np.int64], images: int) -> Tensor:
        """n / (C n_c), (C,), as scikit-learn's ``balanced``; C counts the classes that have images."""
        there = counts > 0
        return torch.from_numpy(np.where(there, images / (there.sum() * np.maximum(1, counts)), 1.0))

    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        weights = None if self._weights is None else self._weights.to(logits)
        targets = targets.to(logits) if targets.is_floating_point() else targets
        return functional.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, reduction="sum")

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

    def balanced_weights(self, counts: npt.NDArray[np.int64], images: int) -> Tensor:
        """n / (2 n_c) where an image carries label c, n / (2 (n - n_c)) where not, (2, C), the latter first.

        A label that all training images carry, or none, keeps weights of 1.
        """
        sides = np.stack([images - counts, counts])
        return torch.from_numpy(np.where(sides.all(0), images / (2 * np.maximum(1, sides)), 1.0))

    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        smoothed = (targets * (1 - label_smoothing) + label_smoothing / 2).to(logits)
        if self._weights is None:
            each = functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="sum")
        else:
            absent, present = self._weights.to(logits)
            yes, no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
            each = -(present * smoothed * yes + absent * (1 - smoothed) * no).sum()
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
