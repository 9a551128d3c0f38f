"""Is low damage strength of the model or weakness of the attack? Signs of masked gradients.

Sources: Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, Sec. 3.1;
Carlini et al., "On evaluating adversarial robustness", arXiv 1902.06705. A check that fails does not say what is wrong,
only that the figure must not be believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ppvit.core.errors import PpvitError
from ppvit.evasion.autoattack import UNTRUSTED
from ppvit.evasion.ball import Ball
from ppvit.evasion.cascade import Adversary, cascade
from ppvit.evasion.sample import Sample

TOLERANCE_PERCENT = 2.0  # random starts differ; a check allows so much, and never less than one image
SQUARE_SHARE = 0.002  # of the images, that Square may find alone
NOTHING_PERCENT = 5.0  # what may be left at the largest epsilon
_NEAR, _FAR = 0.9, 1.1  # distances of the planted boundary, in radii of the ball


def tolerance_percent(images: int) -> float:
    """How far an accuracy may lie on the wrong side of another one over that many images."""
    return max(TOLERANCE_PERCENT, 100.0 / images)


def falls(accuracies: Mapping[float, float], images: int) -> bool:
    """Whether accuracy in percent never rises with epsilon, or with steps, beyond tolerance."""
    ordered = [accuracies[size] for size in sorted(accuracies)]
    return all(after <= before + tolerance_percent(images) for before, after in pairwise(ordered))


def vanishes(accuracies: Mapping[float, float], images: int) -> bool:
    """Whether the largest epsilon leaves about nothing: so wide a ball holds images of other classes."""
    return accuracies[max(accuracies)] <= max(NOTHING_PERCENT, 100.0 / images)


def at_least_as_strong(white_box: float, other: float, images: int) -> bool:
    """Whether an attacker who knows more does at least as well as one who knows less, both as accuracies in percent."""
    return white_box <= other + tolerance_percent(images)


def require_square_adds_nothing(before: np.ndarray, after: np.ndarray) -> None:
    """AutoAttack's flag on Square, which queries alone: it must not find what all attacks with gradients missed.

    The package raises this flag only when it runs all attacks in one call, at 0.2 points (its ``check_square_sr``).

    Args:
        before, after: which images withstand all attacks up to Square, and Square as well, bool (n,).

    Raises:
        PpvitError: Square found more than 0.2 % of the images and more than one.
    """
    found = int(before.sum() - after.sum())
    if found > max(1, SQUARE_SHARE * len(before)):
        raise PpvitError(
            f"AutoAttack does not trust its own figure: Square, without gradients, fooled the model with {found} of "
            f"{len(before)} images that withstood all attacks with gradients, so gradients are masked. {UNTRUSTED}"
        )


def finds_planted(attacks: list[str], adversary: Adversary, shape: tuple[int, ...]) -> bool:
    """Whether every attack finds an adversarial image just inside the ball, and none where the boundary is outside.

    Args:
        attacks: names as of :func:`ppvit.evasion.cascade.cascade`; Square is left out, whose squares are no
            match for the random direction of the boundary.
        adversary: as used on the model.
        shape: of an image.
    """
    sample = Sample(torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64))

    def stands(attack: str, radii: float) -> bool:
        model = planted(shape, adversary.classes, adversary.ball, radii * adversary.ball.epsilon)
        return bool(cascade([attack], adversary, model, sample)[attack][0])

    # each on its own: in a cascade the later ones would never see an image that the first has found
    return all(not stands(attack, _NEAR) and stands(attack, _FAR) for attack in attacks if attack != "square")


def planted(shape: tuple[int, ...], classes: int, ball: Ball, distance: float) -> nn.Module:
    """A linear classifier whose boundary is known: from grey, the image of zeros, it is ``distance`` away.

    Class 0 has logit 0, class k has ``w x / k - distance`` with w of dual norm 1 (L1 for Linf, L2 for L2). By Hölder's
    inequality class k wins nowhere within k times that distance, and class 1 does right behind it.
    """
    # from NumPy: torch's generator with an attack's own seed would make its random start the very direction to find
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal(math.prod(shape))).float()
    weights = weights / weights.norm(p=1 if ball.norm == "linf" else 2)
    layer = nn.Linear(len(weights), classes)
    with torch.no_grad():
        layer.weight[0] = 0.0
        layer.weight[1:] = weights / torch.arange(1, classes)[:, None]
        layer.bias[0] = 0.0
        layer.bias[1:] = -distance
    return nn.Sequential(nn.Flatten(), layer).eval()
