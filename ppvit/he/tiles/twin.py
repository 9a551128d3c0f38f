"""The arithmetic of training in plain float64: what the ciphertexts should hold, and whether the cubic will do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ppvit.core.errors import UsageError
from ppvit.he.algorithms import WORTHLESS, Floats, Labels, Twin, truths
from ppvit.he.tiles.plan import TilesPlan, choose_chain
from ppvit.he.tiles.softmax import coefficients

# least-squares odd cubic of sigmoid(z) - 1/2 on [-8, 8] (Kim et al., JMIR Med. Inform. 2018): C1 z + C3 z^3
C1, C3 = 0.15012, -0.0015930078125
# beyond, the cubic or the parabola runs away from what it stands for, and training diverges
SAFE_SCORES = {"sigmoid": 12.0, "softmax": 8.0}
HALVINGS = 16  # of the learning rate that are tried where training diverges


def momentum(iteration: int) -> float:
    """beta_t of Nesterov's accelerated gradient, t from 0: (s_t - 1) / s_(t+1).

    s_0 = 1 and s_(t+1) = (1 + sqrt(1 + 4 s_t^2)) / 2.
    """
    s = 1.0
    for _ in range(iteration):
        s = (1 + math.sqrt(1 + 4 * s * s)) / 2
    return (s - 1) / ((1 + math.sqrt(1 + 4 * s * s)) / 2)


def train(plan: TilesPlan, features: Floats, labels: Labels) -> Twin:
    """Logistic regression by Nesterov's accelerated gradient, a polynomial for the sigmoid or the softmax.

    Args:
        plan: iterations, batches, learning rate, l2 and loss are used.
        features: float64 (n, d), the constant included.
        labels: int64, (n,) or (n, C), see :data:`ppvit.he.algorithms.Labels`.

    Returns:
        What training gives; where it diverges, what it gave until then.
    """
    weights = ahead = np.zeros((plan.classes, features.shape[1]))
    targets = truths(labels, plan.classes)
    k0, k1, k2, k3 = (0.5, C1, 0.0, C3) if plan.loss == "sigmoid" else (*coefficients(plan.classes), 0.0)
    largest: list[float] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for iteration in range(plan.iterations):
            rows = plan.batch_images(iteration)
            x = features[rows.start : rows.stop]
            scores = x @ ahead.T  # (n, C)
            if iteration:
                largest.append(float(np.abs(scores).max()))
                if not largest[-1] <= WORTHLESS * SAFE_SCORES[plan.loss]:
                    break
            probability = k0 + k1 * scores + k2 * scores**2 + k3 * scores**3
            gradient = (targets[rows.start : rows.stop] - probability).T @ x
            stepped = (1 - plan.learning_rate * plan.l2) * ahead + plan.learning_rate / len(rows) * gradient
            weights, ahead = stepped, stepped + momentum(iteration) * (stepped - weights)
    return Twin(weights, largest, SAFE_SCORES[plan.loss])


def working_rate(plan: TilesPlan, features: Floats, labels: Labels) -> float | None:
    """The first halving of the learning rate at which the twin's scores are safe, rounded; None if none of them is.

    Args:
        plan, features, labels: as of :func:`train`.
    """
    for halving in range(1, HALVINGS + 1):
        slower = replace(plan, learning_rate=float(f"{plan.learning_rate / 2**halving:.3g}"))
        if train(slower, features, labels).safe and _has_chain(slower):
            return slower.learning_rate
    return None


def _has_chain(plan: TilesPlan) -> bool:
    try:
        choose_chain(plan.mode, plan.iterations, plan.batch, plan.learning_rate)
    except UsageError:
        return False
    return True
