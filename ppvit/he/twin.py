"""The arithmetic of training in plain float64: what the ciphertexts should hold, and whether the cubic will do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ppvit.he.parameters import Plan

# least-squares odd cubic of sigmoid(z) - 1/2 on [-8, 8] (Kim et al., JMIR Med. Inform. 2018): C1 z + C3 z^3
C1, C3 = 0.15012, -0.0015930078125
SAFE_SCORE = 12.0  # beyond, the cubic runs away from the sigmoid, and training diverges


def momentum(iteration: int) -> float:
    """beta_t of Nesterov's accelerated gradient, t from 0: (s_t - 1) / s_(t+1).

    s_0 = 1 and s_(t+1) = (1 + sqrt(1 + 4 s_t^2)) / 2.
    """
    s = 1.0
    for _ in range(iteration):
        s = (1 + math.sqrt(1 + 4 * s * s)) / 2
    return (s - 1) / ((1 + math.sqrt(1 + 4 * s * s)) / 2)


@dataclass(frozen=True)
class Twin:
    """Result of training in the clear.

    Attributes:
        weights: float64, (C, d).
        largest_scores: max |Z| of every iteration from the second on; the first needs no sigmoid.
    """

    weights: np.ndarray
    largest_scores: list[float]

    @property
    def safe(self) -> bool:
        """Whether the cubic stayed where it follows the sigmoid."""
        return all(score <= SAFE_SCORE for score in self.largest_scores)


def train(plan: Plan, features: np.ndarray, labels: np.ndarray) -> Twin:
    """One-versus-rest logistic regression by Nesterov's accelerated gradient with the cubic for the sigmoid.

    Args:
        plan: iterations, batches, learning rate and l2 are used.
        features: float64 (n, d), the constant included.
        labels: class numbers, int64 (n,).
    """
    weights = ahead = np.zeros((plan.classes, features.shape[1]))
    targets = np.eye(plan.classes)[labels] - 0.5
    largest = []
    for iteration in range(plan.iterations):
        rows = plan.batch_images(iteration)
        x = features[rows.start : rows.stop]
        scores = x @ ahead.T  # (n, C)
        if iteration:
            largest.append(float(np.abs(scores).max()))
        gradient = (targets[rows.start : rows.stop] - (C1 * scores + C3 * scores**3)).T @ x
        stepped = (1 - plan.learning_rate * plan.l2) * ahead + plan.learning_rate / len(rows) * gradient
        weights, ahead = stepped, stepped + momentum(iteration) * (stepped - weights)
    return Twin(weights, largest)
