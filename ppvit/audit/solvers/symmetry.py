"""What no ciphertext can tell: flips and rotations of whole pictures, the order of their colours, their negative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product

import numpy as np

from ppvit.ciphers import AffineMap

COLOUR_ORDERS = tuple(permutations(range(3)))


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
            values = np.array(order)[colour] * area + of_cells[cell]
            for sign in (key.sign, -key.sign) if inverts else (key.sign,):
                yield AffineMap(of_blocks[key.block_permutation], values, sign)


def best_over_symmetries(
    images: np.ndarray,
    plain: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], float],
    negative: bool = False,
) -> tuple[np.ndarray, str]:
    """The flip or rotation, colour order and, if asked for, negative with the highest score, one for all images.

    Args:
        images, plain: uint8, (n, H, H, 3).
        score: higher is better.
        negative: try 255 - v too.

    Returns:
        The images so changed, and what was done to them, in words.
    """
    best, highest, words = images, -np.inf, ""
    for flip, quarter, order, inverted in product((0, 1), range(4), COLOUR_ORDERS, (False, True)[: 1 + negative]):
        tried = images.swapaxes(1, 2) if flip else images
        tried = np.rot90(tried, quarter, axes=(1, 2))[..., list(order)]
        tried = 255 - tried if inverted else tried
        value = score(tried, plain)
        if value > highest:
            best, highest = np.ascontiguousarray(tried), value
            steps = ["transposed"] * flip + [f"turned by {90 * quarter} degrees"] * (quarter > 0)
            steps += ["colours " + "".join("RGB"[c] for c in order)] * (order != (0, 1, 2)) + ["negative"] * inverted
            words = ", ".join(steps) or "as found"
    return best, words
