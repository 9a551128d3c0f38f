"""A parabola that stands for the softmax, class by class, in as many levels as the sigmoid's cubic.

The softmax couples the classes, which costs rotations and a division. Known is only a class's own logit z; the
probability that such a class has on average, E[softmax_c | z_c = z], is what a least-squares parabola follows here.
Unlike the sigmoid it is near 1/C at 0 and steeper above than below. One product fewer than the cubic, and no sum over
classes; it is good for logits within about 8, as it rises again on the far negative side.
HETAL (ICML 2023) approximates the softmax itself, with bootstrapping; this is what fits into a few levels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ppvit.he.ckks.session import Session
from ppvit.he.tiles.plan import TilesPlan

SPREAD = 1.0  # largest standard deviation of the logits that the fit covers; 1 to 3 chose alike on validation
SAMPLES = 20_000  # logit vectors in the fit; the coefficients change by under 1 % with the seed


@cache
def coefficients(classes: int, spread: float = SPREAD) -> tuple[float, float, float]:
    """(k0, k1, k2) of p(z) = k0 + k1 z + k2 z^2, fitted to the softmax of centred normal logits.

    Args:
        classes: C, at least 2.
        spread: the standard deviation of the logits is uniform between 0 and this.

    Returns:
        k0 near 1/C; k2 is 0 up to the sampling for two classes, where the softmax is an odd function about 1/2.
    """
    from scipy.special import softmax  # takes longer to load than all else here

    random = np.random.default_rng(0)
    logits = random.normal(size=(SAMPLES, classes)) * random.uniform(0, spread, (SAMPLES, 1))
    logits -= logits.mean(axis=1, keepdims=True)  # the gradients of the classes add up to 0, so their logits do
    powers = logits.ravel()[:, None] ** np.arange(3)
    k0, k1, k2 = np.linalg.lstsq(powers, softmax(logits, axis=1).ravel(), rcond=None)[0]
    return float(k0), float(k1), float(k2)


def masked_parabola(session: Session, plan: TilesPlan, scores: Any) -> Any:
    """p(Z) - 1/2 = k0 - 1/2 + (k1 + k2 Z) Z in lane 0 and zero elsewhere, at the fresh scale, two levels lower.

    Takes the place of the cubic in `ppvit.he.tiles.gradient`; one key switch less.
    """
    k0, k1, k2 = coefficients(plan.classes)
    first_lane = np.zeros((plan.rows, plan.tile, plan.lanes))
    first_lane[:, 0, : plan.classes] = 1
    mask = first_lane.ravel()
    level, scale = session.level(scores), scores.scale
    # the scale of the coefficient that brings the result to the fresh scale, whatever primes the chain got
    wanted = session.parameters.scale * session.primes[level] * session.primes[level - 1] / scale**2
    slope = session.add_plain(session.rescale(session.multiply_plain(scores, k2 * mask, wanted)), k1 * mask)
    product = session.relinearise(session.multiply(slope, session.drop(scores, level - 1)))
    result = session.as_scale(session.rescale(product), session.parameters.scale)
    return session.add_plain(result, (k0 - 0.5) * mask)
