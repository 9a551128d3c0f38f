"""The training algorithm of Chiang (arXiv 2304.03807) on plain numbers: the twin that the encrypted one must equal.

Multiclass logistic regression, one sigmoid a class, under the squared likelihood error L = prod (p_ic - 1 + y_ic)^2
over samples i and classes c. Its log-gradient is 2 (Y - P)^T X; the paper drops the 2. Every gradient is scaled column
by column (quadratic gradient) and used in Nesterov's method, with the quirk that `momentum` explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ppvit.he.algorithms import truths

# p(z) = 1/2 + LINEAR z + CUBIC z^3, the paper's least-squares fit to the sigmoid
LINEAR = 0.10679534503216294
CUBIC = -0.00038503259805075
EPSILON = 1e-10  # keeps the step of a column of tiny values finite
INITIAL_WEIGHT = 0.0128  # of every class and feature in the author's program; the paper does not mention it


@dataclass(frozen=True)
class Trained:
    """Attributes:
    weights: (C, d), float64.
    largest_logit: max |z| that the cubic met; beyond 9.6 it falls again, beyond 16.7 its sign is wrong.
    """

    weights: NDArray[np.float64]
    largest_logit: float


def column_steps(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Step size of every column: b_j = 1 / (eps + 1/4 sum_i |x_ij| sum_k |x_ik|), section 3 of the paper.

    Args:
        features: (n, d), float64, the constant included.

    Returns:
        (d,), float64; the diagonal that bounds the inverse Hessian. Zero for a column of zeros, such as a pixel that is
        always black: the paper's formula gives it 1 / eps = 1e10, by which an encrypted gradient of zero and noise
        would become a large weight. The gradient being zero, plain training is the same.
    """
    sizes = np.abs(features)
    bound = sizes.T @ sizes.sum(axis=1) / 4
    return np.where(bound > 0, 1 / (EPSILON + bound), 0.0)


def momentum(iterations: int, samples: int) -> list[tuple[float, float]]:
    """(eta_t, gamma_t) of every iteration: the weight of the last step, and how much longer than b this one is.

    a_0 = 0.01, a_{t+1} = (1 + sqrt(1 + 4 a_t^2)) / 2, eta_t = (1 - a_t) / a_{t+1}, gamma_t = 1 / ((t + 1) n).

    As a_0 is near 0, eta_0 is 0.99: the weights keep one hundredth of the first step, and the second starts again
    beside it. The program that gave the published figures does so, and so do we.
    """
    a = [0.01]
    for _ in range(iterations):
        a.append((1 + sqrt(1 + 4 * a[-1] ** 2)) / 2)
    return [((1 - now) / after, 1 / ((t + 1) * samples)) for t, (now, after) in enumerate(pairwise(a))]


def train(
    features: NDArray[np.float64],
    labels: NDArray[np.integer],
    classes: int,
    iterations: int,
    initial_weight: float = INITIAL_WEIGHT,
) -> Trained:
    """Enhanced Nesterov's method with quadratic gradients: the gradient at V, the step from W.

    G = (Y - p(X V^T))^T X; M = W + (1 + gamma) b * G; W <- (1 - eta) M + eta V; V <- M.

    Args:
        features: (n, d), float64, the constant included.
        labels: (n,), 0..C-1, or (n, C), 0 and 1.
        classes: C.
        iterations: T, at least 1.
        initial_weight: of every class and feature.
    """
    truth = truths(labels, classes)  # (n, C)
    steps = column_steps(features)
    weights = velocity = np.full((classes, features.shape[1]), initial_weight)
    largest = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # the caller sees the largest logit
        for eta, gamma in momentum(iterations, len(features)):
            logits = features @ velocity.T  # (n, C)
            largest = float(np.maximum(largest, np.abs(logits).max()))
            error = truth - (0.5 + LINEAR * logits + CUBIC * logits**3)
            moved = weights + (1 + gamma) * steps * (error.T @ features)  # (C, d)
            weights, velocity = (1 - eta) * moved + eta * velocity, moved
    return Trained(weights, largest)
