"""Which of three colours is red, which green, which blue, from how they differ in pictures of the world.

Green lies between red and blue in the spectrum, so its values lie between theirs more often than not: of three colours
the two that differ most are red and blue. And the world is warm on average: red is the brighter of the two, except
where the sky or the sea are most of the picture; in a negative it is the darker one, and nothing tells a negative. How
often that is right of one picture was counted on 600 of CIFAR-10, and pictures of one folder resemble each other, so
that a hundred of them count as ten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from ppvit.ciphers import AffineMap

_GREEN_BETWEEN = 0.78  # share of pictures in which red and blue differ most
_RED_BRIGHTER = 0.70  # share of pictures in which red is brighter than blue
_COLOURFUL = 2.0  # grey levels between colours of a picture that has any
_EQUAL = 0.5  # grey levels between colours of a grey picture, stored with loss or not


@dataclass(frozen=True)
class ColourOrder:
    """Which colours of pictures are which.

    Attributes:
        order: the channels that are red, green and blue.
        confidence: probability that all three are right, 0 .. 1; 0 where pictures do not tell.
        green: probability that green is right.
        grey: the three channels are equal, so that their order is nothing that could be seen.
    """

    order: tuple[int, int, int]
    confidence: float
    green: float = 0.0
    grey: bool = False


def colour_order(pictures: np.ndarray, negative: bool = False) -> ColourOrder:
    """The likeliest order of the colours of decrypted pictures.

    Args:
        pictures: uint8, (n, H, W, 3), whose channels are the colours in an unknown order, the same in all.
        negative: they may all be negatives, in which blue is the brighter; then only green can be told.
    """
    values = pictures.astype(np.float32)
    pairs = ((0, 1), (0, 2), (1, 2))
    apart = np.stack([np.abs(values[..., a] - values[..., b]).mean(axis=(1, 2)) for a, b in pairs], axis=1)
    if apart.max() < _EQUAL:
        return ColourOrder((0, 1, 2), 0.0, grey=True)
    colourful = apart.mean(axis=1) > _COLOURFUL
    count = int(colourful.sum())
    if not count:
        return ColourOrder((0, 1, 2), 0.0)
    apart, means = apart[colourful], values[colourful].mean(axis=(1, 2))
    # of pair i, the third colour is 2 - i
    between = np.bincount(2 - apart.argmax(axis=1), minlength=3) / count
    odds = np.log(2 * _GREEN_BETWEEN / (1 - _GREEN_BETWEEN)) * between * count**0.5
    odds_of_red = np.log(_RED_BRIGHTER / (1 - _RED_BRIGHTER)) * count**0.5
    weights = {}
    for red, green, blue in permutations(range(3)):
        warmer = 0.0 if negative else float((means[:, red] > means[:, blue]).mean()) - 0.5
        weights[red, green, blue] = float(np.exp(odds[green] + odds_of_red * warmer))
    best = max(weights, key=lambda order: weights[order])
    whole = sum(weights.values())
    of_green = sum(weight for order, weight in weights.items() if order[1] == best[1])
    return ColourOrder(best, weights[best] / whole, of_green / whole)


def reordered(key: AffineMap, order: tuple[int, int, int]) -> AffineMap:
    """The key that decrypts to pictures whose channels are ``order`` of those that ``key`` decrypts to."""
    colour, cell = np.divmod(key.value_permutation, key.value_permutation.shape[-1] // 3)
    return replace(key, value_permutation=np.argsort(order)[colour] * (key.value_permutation.shape[-1] // 3) + cell)
