"""Minimum difference attack: pixels whose values were inverted one by one, and whose colours were reordered.

A plain pixel is one of 6 x 8 = 48 variants of its ciphertext (8 where the colour order is left alone), and it is
usually near its neighbours. Decode in reading order, each pixel as the variant nearest to those already decoded. The
first pixel is free: any of its variants gives the same picture in another global variant.

Chang and Li, "Attacks on image encryption schemes for privacy-preserving deep neural networks", 2020
(arXiv 2004.13263), the advanced attack on the scheme of Sirichotedumrong, Kinoshita and Kiya. They compare with one
neighbour, the left one in the first row and the one above elsewhere, and start from the true first pixel; here 12
neighbours vote, so that an edge does not mislead all that lies below it.

What it cannot do: of v and 255 - v the nearer one to a value is always on that value's side of 127.5. So a colour
never crosses the middle of the scale, and with the colour order left alone the result is that of the attack
``feature_reconstruction`` in one of 8 global variants. What this attack adds is the colour order, where it depends on
the pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from ppvit.audit.base import attack
from ppvit.audit.score import mean_ssim
from ppvit.audit.solvers.symmetry import COLOUR_ORDERS, Score, colour_scores, order_scores
from ppvit.audit.view import Finding, View, not_attacked

IMAGES = 4  # attacked one by one
_REACH = 2  # neighbours that count, in rows and columns
_DECODED = [(0, -1), (0, -2), *itertools.product((-1, -2), range(-_REACH, _REACH + 1))]  # before a pixel, as read


@attack("min_difference", "min diff", ciphertext_only=True, place=7)
def find(view: View) -> Iterator[Finding]:
    """Choose inversion and colour order of every pixel of one ciphertext so that it is most like its neighbours."""
    if view.encrypted.dtype != np.uint8:
        yield not_attacked("this ciphertext has no bytes that could be inverted.")
        return
    colour_order = getattr(view.space.example, "colour_order", True)
    found = reconstruct(view.encrypted[:IMAGES], colour_order)

    def align(images: np.ndarray, plain: np.ndarray) -> np.ndarray:
        return best_over_global(images, plain, mean_ssim, colour_order=colour_order)

    free = "colour order and negatives of a whole picture" if colour_order else "negatives of a whole picture"
    yield Finding("one ciphertext", found, headline=True, free=free, align=align)


def reconstruct(images: np.ndarray, colour_order: bool) -> np.ndarray:
    """Decode images one pixel after the other, the first pixel as it is.

    Args:
        images: uint8, (n, H, W, 3), ciphertext.
        colour_order: the cipher also reordered the three colours of every pixel.

    Returns:
        uint8, (n, H, W, 3), each image up to one of 48 or 8 global variants. Deterministic.
    """
    count, height, width, _ = images.shape
    values = images.astype(np.float32) - 127.5  # inverting changes the sign
    decoded = np.zeros((count, height + _REACH, width + 2 * _REACH, 3), np.float32)
    known = np.zeros(decoded.shape[1:3], np.float32)
    # pixels with the same column + (reach + 1) * row do not need each other, and are decoded at once
    slope = _REACH + 1
    for diagonal in range(width + slope * (height - 1)):
        rows = np.arange(max(0, -(-(diagonal - width + 1) // slope)), min(height - 1, diagonal // slope) + 1)
        columns = diagonal - slope * rows
        places = [(rows + _REACH + down, columns + _REACH + right) for down, right in _DECODED]
        neighbours = np.stack([decoded[:, row, column] for row, column in places])
        weights = np.stack([known[place] for place in places])
        here = (rows + _REACH, columns + _REACH)
        decoded[:, *here] = _nearest(values[:, rows, columns], neighbours, weights, colour_order)
        known[here] = 1
    return (decoded[:, _REACH:, _REACH:-_REACH] + 127.5).astype(np.uint8)


def _nearest(pixels: np.ndarray, neighbours: np.ndarray, weights: np.ndarray, colour_order: bool) -> np.ndarray:
    """The variant of every pixel with the least sum of absolute differences to its neighbours.

    Args:
        pixels: float32, (n, m, 3), values around 0.
        neighbours: float32, (k, n, m, 3).
        weights: float32, (k, m), 1 where there is a neighbour, else 0.
        colour_order: as of :func:`reconstruct`.

    Returns:
        float32, (n, m, 3).
    """
    weights = weights[:, None, :, None]
    # the sign of a colour does not depend on where the others go, so 2 x 3 x 3 differences do instead of 3 x 48
    upright, negative = (
        np.stack([(np.abs(neighbours - sign * pixels[..., c, None]) * weights).sum(axis=0) for c in range(3)], axis=-1)
        for sign in (1, -1)
    )  # (n, m, 3, 3): ciphertext colour (last) taken as plain colour (last but one)
    signed = np.where(upright <= negative, pixels[..., None, :], -pixels[..., None, :])
    cost = np.minimum(upright, negative)
    orders = COLOUR_ORDERS if colour_order else COLOUR_ORDERS[:1]
    totals = np.stack([sum(cost[..., k, order[k]] for k in range(3)) for order in orders], axis=-1)
    chosen = orders[np.argmin(totals, axis=-1)]
    return np.take_along_axis(signed, chosen[..., None], axis=-1)[..., 0]


def best_over_global(
    recovered: np.ndarray, plain: np.ndarray, score: Score, *, colour_order: bool = True
) -> np.ndarray:
    """For every image the one of its global variants that is nearest to the plain image; the rest is free.

    Args:
        recovered, plain: uint8, (n, H, W, 3).
        score: larger is nearer; see :func:`ppvit.audit.solvers.symmetry.colour_scores`.
        colour_order: all 48 variants; otherwise the 8 that leave the colours in place, which is all that is free when
            the cipher does not reorder them.

    Returns:
        uint8, (n, H, W, 3).
    """
    orders = COLOUR_ORDERS if colour_order else COLOUR_ORDERS[:1]
    best = np.empty_like(recovered)
    for number in range(len(recovered)):
        image, truth = recovered[number : number + 1], plain[number : number + 1]
        # every colour is inverted or not, whatever the others are
        both = np.stack([colour_scores(each, truth, score, orders) for each in (image, 255 - image)])
        inverted = both[1] > both[0]
        order = orders[np.argmax(order_scores(np.where(inverted, both[1], both[0]), orders))]
        best[number] = np.where(inverted[order, range(3)], 255 - image[0][..., order], image[0][..., order])
    return best
