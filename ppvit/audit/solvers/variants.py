"""What encryption-then-compression does to a piece besides moving it, and how well pieces fit in any such variant.

Every piece has 8 orientations x 2 (inverted or not) x 6 colour orders = 96 variants. A *tone* is an inversion and a
colour order in one number, 6 * inverted + colour order. Both kinds of variants are groups, given as tables: the
variant of a piece relative to its neighbour's is what tells, and is the same however the picture is turned.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist

from ppvit.audit.solvers.symmetry import COLOUR_ORDERS

ORIENTATIONS, TONES = 8, 12
STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])  # sides: right, below, left, above, as (row, column)
WORST = 10.0  # a relative cost says no more above this: no fit is no fit


def orient(pieces: np.ndarray, orientation: int) -> np.ndarray:
    """Mirror left-right if orientation >= 4, then turn counter-clockwise orientation % 4 quarters, (..., p, p, 3)."""
    mirrored = pieces[..., ::-1, :] if orientation >= 4 else pieces
    return np.rot90(mirrored, orientation % 4, axes=(-3, -2))


def tone(pieces: np.ndarray, number: int) -> np.ndarray:
    """Reorder the colours, channel k from channel COLOUR_ORDERS[number % 6][k], and invert if number >= 6; uint8."""
    recoloured = pieces[..., COLOUR_ORDERS[number % 6]]
    return 255 - recoloured if number >= 6 else recoloured


def _group(
    elements: list[tuple[int, ...]], after: Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Composition table ``[g, h]``: first h, then g; and the inverses."""
    compose = np.array([[elements.index(after(g, h)) for h in elements] for g in elements])
    return compose, np.argmax(compose == 0, axis=1)


# an orientation as the place of every side: side s of the piece becomes side o[s]
_SIDES: list[tuple[int, ...]] = [
    tuple(int(((2 - s if o >= 4 else s) - o % 4) % 4) for s in range(4)) for o in range(ORIENTATIONS)
]
TURNED = np.array(_SIDES)
AFTER, UNDO = _group(_SIDES, lambda g, h: tuple(g[s] for s in h))
# the same as matrices on (row, column): step right and step below go where their sides go
MATRICES = np.stack([np.stack([STEPS[o[1]], STEPS[o[0]]], axis=1) for o in _SIDES])
_TONES: list[tuple[int, ...]] = [(*order, flip) for flip in (0, 1) for order in itertools.permutations(range(3))]
# a tone reads channels through its order, so what is applied later is the inner map
TONE_AFTER, TONE_UNDO = _group(_TONES, lambda g, h: (*(h[g[k]] for k in range(3)), g[3] ^ h[3]))


def edge_table(pieces: np.ndarray) -> np.ndarray:
    """How badly every variant of every piece fits at every side of every other, over that of the best rival.

    Both borders are extrapolated to the middle of the joint and compared there, and the border pixels directly;
    L1 distances, so that the best colour order comes from 3 x 3 distances of channels.

    Args:
        pieces: uint8, (n, N, p, p, 3), p >= 2: of n pictures whose pieces were changed alike; their costs add up.

    Returns:
        float32, (N, 4, N, 8, 12): ``[a, s, b, o, t]`` for b in orientation o and tone t at side s of a, a being left
        as it is. Below 1 for two that choose each other. A piece beside itself has the bound, ``WORST``.
    """
    number = pieces.shape[1]
    cost = np.zeros((number, 4, number, ORIENTATIONS, TONES), np.float32)
    for picture in pieces:
        values = picture.astype(np.float32) - 127.5  # inverting changes the sign
        values /= max(float(values.std()), 1e-3)  # a busy picture must not outvote the others
        for orientation, (side, step) in itertools.product(range(ORIENTATIONS), enumerate(STEPS)):
            here, there = _borders(values, step), _borders(orient(values, orientation), -step)
            for inverted, sign in enumerate((1, -1)):
                distance = sum(cdist(one, sign * other, "cityblock") for one, other in zip(here, there, strict=True))
                distance = distance.reshape(number, 3, number, 3)
                for which, order in enumerate(COLOUR_ORDERS):
                    total = sum(distance[:, channel, :, order[channel]] for channel in range(3))
                    cost[:, side, :, orientation, 6 * inverted + which] += total
    return _relative(cost)


def _borders(values: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Border pixels at a side, and extrapolated by half a pixel: two (N * 3, p), rows read left to right or down."""
    across = values if step[0] else values.swapaxes(1, 2)
    last, before = (across[:, 0], across[:, 1]) if step.sum() < 0 else (across[:, -1], across[:, -2])
    flat = [line.swapaxes(1, 2).reshape(-1, line.shape[1]) for line in (last, 1.5 * last - 0.5 * before)]
    return flat[0], flat[1]


def _relative(cost: np.ndarray) -> np.ndarray:
    """Costs over those of the best rival of either side, in whatever tone; see edge_table. Changes ``cost``."""
    number = len(cost)
    everything = np.arange(number)
    cost[everything, :, everything] = np.inf
    shape = cost.min(axis=-1)
    lowest = np.partition(shape.reshape(number, 4, -1), 1, axis=-1)
    best, second = lowest[..., 0], lowest[..., 1]
    little = 1e-3 * float(np.median(best)) + 1e-6  # flat pieces fit equally well: 1
    facing = TURNED[UNDO][:, [2, 3, 0, 1]]  # [o, s]: the side of b that touches side s of a
    for side, orientation in itertools.product(range(4), range(ORIENTATIONS)):
        joint = shape[:, side, :, orientation]
        other = facing[orientation, side]
        rival = np.where(joint <= best[:, side, None], second[:, side, None], best[:, side, None])
        facing_rival = np.where(joint <= best[:, other], second[:, other], best[:, other])
        cost[:, side, :, orientation] += little
        cost[:, side, :, orientation] /= (np.minimum(rival, facing_rival) + little)[:, :, None]
    np.minimum(cost, WORST, out=cost)
    return cost
