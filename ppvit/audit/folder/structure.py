"""What the pictures of a folder are, before any attack: plain, without structure, or in blocks, and of which side.

A block that was moved, turned or recoloured ends in an edge, so steps between the pixels either side of a border of
blocks are larger than others. Values that were shuffled or inverted alike in all blocks make pixels one block apart
alike. Neither is so in a plain picture nor in noise, and how clearly it is so says how sure the side of the blocks is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppvit.audit.folder.sides import (
    FEW,
    SIDE,
    jump,
    outer_side,
    sample,
    side_probabilities,
    steps,
    unlike_over_pictures,
)

_LOSSY_JUMP = 0.5  # log of how much larger steps between blocks are; JPEG makes smaller ones, at 8 and 16 pixels
_LOSSY_SIDES = (8, 16)
_AGAIN = 0.05  # how much more alike pixels one block apart are than those one pixel nearer or farther
_ORDER = 0.9  # of the difference of pixels a few apart; that of neighbours is below it in whatever people draw
_LOSSY_ORDER = 0.7
_NOISE = 0.97  # the same, above which pixels are in no order
_PICTURE = 0.6  # likeness above which borders of blocks do not matter
_LOSSY_PICTURE = 0.45
_OF_PHOTOGRAPHS = 0.3  # by how much neighbours are more alike than next neighbours in most of them
_UNLIKELY = 0.1
_SURE = 0.5  # probability from which on there are blocks

_LEAST = 8  # pixels of a side from which on neighbours can be compared with pixels farther apart

Kind = Literal["plain", "blocks", "pixels", "noise", "small"]


@dataclass(frozen=True)
class Structure:
    """What pictures look like.

    Attributes:
        kind: ``plain`` pictures; ``blocks``, of side ``block_size``; ``pixels``: no blocks, but pixels that are alike
            once inversion is undone; ``noise``: nothing; ``small``: too few pixels to tell.
        block_size: the likeliest side of a block in pixels; 0 where no divisor of the size could be one.
        confidence: probability of that side among all divisors and none, 0 .. 1.
        others: further sides that are not much less likely, the likeliest first.
        likeness: see :func:`likeness`, as they are.
    """

    kind: Kind
    block_size: int
    confidence: float
    others: tuple[int, ...]
    likeness: float


def examine(pictures: np.ndarray, lossy: bool = False) -> Structure:
    """Say what pictures are.

    Args:
        pictures: uint8, (n, H, W, 3).
        lossy: they were stored with loss, which smooths noise and makes edges of its own.
    """
    if min(pictures.shape[1:3]) < _LEAST:
        return Structure("small", 0, 0.0, (), 0.0)
    seen = enlarged_from(sample(pictures))
    values = seen.astype(np.float32)
    probabilities = side_probabilities(pictures)
    side = max(probabilities, key=lambda each: probabilities[each], default=0)
    sure = probabilities.get(side, 0.0)
    likely = tuple(p for p in sorted(probabilities, key=lambda p: -probabilities[p]) if p != side)[:1]
    smaller = seen.shape[1] < min(SIDE, pictures.shape[1])
    like = likeness(seen, 0 if smaller else side)
    found: Kind = "noise"
    order = _order(values)
    if order < (_LOSSY_ORDER if lossy else _ORDER) and (
        sure < _SURE or smaller or like > (_LOSSY_PICTURE if lossy else _PICTURE)
    ):
        found = "plain"
    elif sure >= _SURE and not (lossy and _is_of_jpeg(pictures, side)):
        found = "blocks"
    elif not lossy and (_folded_order(values) < _NOISE or order < _NOISE or _alike_over_pictures(values)):
        found = "pixels"
    others = tuple(p for p in likely if probabilities[p] > _UNLIKELY)
    if found == "blocks" and (outer := outer_side(pictures, side)):  # parts of blocks were moved in blocks
        others = (side, *others)
        side = outer
    return Structure(found, side, sure, others, like)


def enlarged_from(pictures: np.ndarray) -> np.ndarray:
    """The pictures before they were enlarged by a whole number without smoothing; as they are if they were not."""
    for factor in (8, 7, 6, 5, 4, 3, 2):
        height, width = (length // factor * factor for length in pictures.shape[1:3])
        if min(height, width) < _LEAST * factor or (height, width) != pictures.shape[1:3]:
            continue
        small = pictures[:, ::factor, ::factor]
        if np.array_equal(small.repeat(factor, axis=1).repeat(factor, axis=2), pictures):
            return small
    return pictures


def likeness(pictures: np.ndarray, block_size: int) -> float:
    """How much the pixels look in order: 0 for noise and shuffled ones, about 1 for photographs.

    Inside a block of a picture values drift, so that a pixel differs from its neighbour by less than from the next but
    one: by half on a ramp, and by as much where pixels are in no order. This counts as far as the steps from block to
    block are no larger than those inside.

    Args:
        pictures: uint8, (n, H, W, 3).
        block_size: p, at least 2; for 2 the next but one lies in the next block. 0 where there are no blocks.
    """
    values = pictures.astype(np.int16)
    if min(pictures.shape[1:3]) < 3:
        return 0.0
    block_size = block_size or values.shape[1] + values.shape[2]
    near, far, across = (np.zeros(2) for _ in range(3))
    for axis in (0, 1):
        one, two = (steps(values, distance)[axis] for distance in (1, 2))
        place = np.arange(len(one))
        inside = place % block_size < block_size - 1
        near[axis] = one[inside].mean()
        far[axis] = two[(place % block_size < max(block_size - 2, 1))[: len(two)]].mean()
        across[axis] = one[~inside].mean() if not inside.all() else near[axis]
    order = np.clip((1 - near.sum() / max(far.sum(), 1e-6)) / _OF_PHOTOGRAPHS, 0, 1)
    return float(order * np.clip(near.sum() / max(across.sum(), 1e-6), 0, 1))


def inside_order(pictures: np.ndarray, block_size: int) -> float:
    """The same of the pixels inside blocks alone, whatever the borders of blocks look like: 0 .. 1."""
    height, width = (length // block_size * block_size for length in pictures.shape[1:3])
    rows, columns = height // block_size, width // block_size
    blocks = pictures[:, :height, :width].reshape(-1, rows, block_size, columns, block_size, 3).swapaxes(2, 3)
    return likeness(blocks.reshape(-1, block_size, block_size, 3), 0)


def _order(values: np.ndarray) -> float:
    """The difference of neighbours over that of pixels 4 to 6 apart, at most 1 or so."""
    near = sum(float(each.mean()) for each in steps(values, 1))
    reach = max(2, min(4, min(values.shape[1:3]) // 3))
    far = [sum(float(each.mean()) for each in steps(values, reach + more)) for more in range(3)]
    return near / max(float(np.mean(far)), 1e-6)


def _folded_order(values: np.ndarray) -> float:
    """The same of the distance to the middle, which inversion leaves as it is; 1 where all pixels have the same."""
    folded = np.abs(values - 127.5)
    return _order(folded) if folded.std() > 1 else 1.0


def _is_of_jpeg(pictures: np.ndarray, side: int) -> bool:
    """Whether edges are no more than what JPEG makes of anything."""
    values = sample(pictures).astype(np.float32)
    return side in _LOSSY_SIDES and jump(steps(values, 1), side)[0] < _LOSSY_JUMP and _repetition(values, side) < _AGAIN


def _repetition(values: np.ndarray, side: int) -> float:
    """By how much pixels ``side`` apart are more alike than those one pixel less or more apart, as correlations."""
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    spread = max(float(centred.var()), 1e-6)
    alike = []
    for distance in (side - 1, side, side + 1):
        across = (centred[:, :, distance:] * centred[:, :, :-distance]).mean()
        down = (centred[:, distance:] * centred[:, :-distance]).mean()
        alike.append(float(across + down) / 2 / spread)
    return alike[1] - max(alike[0], alike[2])


def _alike_over_pictures(values: np.ndarray) -> bool:
    """Whether values at neighbouring places vary together over the pictures, more than by chance."""
    if len(values) < FEW:
        return False
    unlike = float(np.mean([each.mean() for each in unlike_over_pictures(values)]))
    chance = 1 / (len(values) - 1)
    count = 3 * values.shape[1] * (values.shape[2] - 1) * 2
    return bool(1 - unlike > chance * (1 + 8 * (2 / count) ** 0.5))
