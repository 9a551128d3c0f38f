"""What no ciphertext can tell: flips and rotations of whole pictures, the order of their colours, their negative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations

import numpy as np

from ppvit.ciphers import AffineMap

COLOUR_ORDERS = np.array(list(permutations(range(3))))  # (6, 3): which seen colour each plain one is taken from

Score = Callable[[np.ndarray, np.ndarray], float]


def turns(side: int) -> list[np.ndarray]:
    """The eight flips and rotations of a square grid, each as new cell of old cell, intp (side^2,)."""
    grid = np.arange(side * side).reshape(side, side)
    return [np.argsort(np.rot90(g, quarter).ravel()) for g in (grid, grid.T) for quarter in range(4)]


def equivalent_keys(
    key: AffineMap,
    block_size: int,
    image_side: int,
    *,
    scrambles: bool = True,
    shuffles: bool = True,
    inverts: bool = False,
) -> Iterator[AffineMap]:
    """All keys that decrypt to the same pictures up to what ciphertexts cannot tell, the given one first.

    These are the eight flips and rotations of the whole picture if both permutations are keyed, the six orders of the
    colours if the value permutation is, and the negative if signs are.
    """
    number, area = image_side // block_size, block_size**2
    both = list(zip(turns(number), turns(block_size), strict=True))
    colour, cell = np.divmod(key.value_permutation, area)
    for of_blocks, of_cells in both if scrambles and shuffles else both[:1]:
        for order in COLOUR_ORDERS if shuffles else COLOUR_ORDERS[:1]:
            values = order[colour] * area + of_cells[cell]
            for sign in (key.sign, -key.sign) if inverts else (key.sign,):
                yield AffineMap(of_blocks[key.block_permutation], values, sign)


def colour_scores(images: np.ndarray, plain: np.ndarray, score: Score, orders: np.ndarray) -> np.ndarray:
    """How near each seen colour comes to each plain one, in nine scores of one colour instead of eighteen.

    Args:
        images, plain: uint8, (n, H, W, 3).
        score: of two arrays (n, H, W, 1); that of colour pictures must be its mean over colours, as that of
            :func:`ppvit.audit.score.mean_ssim` is.
        orders: (k, 3) of ``COLOUR_ORDERS``; other pairs are not scored.

    Returns:
        float64, (3, 3), seen colour by plain colour; NaN for pairs of no order.
    """
    scores = np.full((3, 3), np.nan)
    for seen, shown in {(int(order[c]), c) for order in orders for c in range(3)}:
        scores[seen, shown] = score(images[..., [seen]], plain[..., [shown]])
    return scores


def order_scores(scores: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The scores of whole pictures whose colours are put in each order, (k,); see :func:`colour_scores`."""
    return np.asarray(scores[orders, range(3)].mean(axis=1))


def best_over_symmetries(
    images: np.ndarray, plain: np.ndarray, score: Score, negative: bool = False
) -> tuple[np.ndarray, str]:
    """The flip or rotation, colour order and, if asked for, negative with the highest score, one for all images.

    Args:
        images, plain: uint8, (n, H, H, 3).
        score: higher is better; see :func:`colour_scores`.
        negative: try 255 - v too.

    Returns:
        The images so changed, and what was done to them, in words.
    """

    def turned(flip: int, quarter: int, inverted: int) -> np.ndarray:
        tried = np.rot90(images.swapaxes(1, 2) if flip else images, quarter, axes=(1, 2))
        return 255 - tried if inverted else tried

    values = np.empty((2, 4, 1 + negative, len(COLOUR_ORDERS)))
    for flip, quarter, inverted in np.ndindex(values.shape[:3]):
        by_colour = colour_scores(turned(flip, quarter, inverted), plain, score, COLOUR_ORDERS)
        values[flip, quarter, inverted] = order_scores(by_colour, COLOUR_ORDERS)
    flip, quarter, inverted, number = (int(n) for n in np.unravel_index(np.argmax(values), values.shape))
    order = COLOUR_ORDERS[number]
    steps = ["transposed"] * flip + [f"turned by {90 * quarter} degrees"] * (quarter > 0)
    steps += ["colours " + "".join("RGB"[c] for c in order)] * (number > 0) + ["negative"] * inverted
    return np.ascontiguousarray(turned(flip, quarter, inverted)[..., order]), ", ".join(steps) or "as found"
