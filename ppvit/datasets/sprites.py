"""A stand-in for the structured tasks of VTAB-1k on dSprites: drawn here, no download, and not dSprites itself.

dSprites (Matthey et al. 2017) are white shapes on black with five factors: shape (3), scale (6), orientation (40), and
position in x and y (32 each). VTAB asks where the shape lies in x, or how it is turned, 16 classes each. Here are the
same factors and classes, with shapes of our own drawing: a square, an ellipse and a heart at 64 px. Figures on them are
no figures of dSprites.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from ppvit.core.errors import UsageError
from ppvit.datasets.source import DATASETS, Request, Sample, Source, array_samples, require_subset, shard_bytes

SIDE = 64
FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
TASKS = {"location": ("x", 32), "orientation": ("orientation", 40)}  # the factor that is asked for, and its values
CLASSES = 16
COUNTS = {"train": 800, "val": 200, "test": 2_000}
_UNITS = 16  # of a pixel: all is drawn in whole numbers, so that every machine draws the same
_TURN = 14  # bits behind the point of sines


@DATASETS.register("dsprites_standin")
def open_sprites(request: Request) -> Source:
    """Stand-in for dSprites, drawn here, no download: 800 + 200 + 2,000 images of 64 px, 16 classes; dataset.subset.

    Args:
        request: ``subset`` is ``location``, the default, or ``orientation``.

    Raises:
        UsageError: the user named a path, which this data set would ignore, or another subset.
    """
    _require_drawn(request)
    subset = request.subset or "location"
    train, val, test = (partial(_samples, subset, split) for split in COUNTS)
    images = sum(COUNTS.values())
    names = [str(number) for number in range(CLASSES)]
    return Source(names, train, test, f"drawn stand-in for dSprites, {subset}", shard_bytes(images, images * 400), val)


def _require_drawn(request: Request) -> None:
    if request.path is not None:
        raise UsageError(
            "dataset.name=dsprites_standin takes no dataset.path; dSprites itself are dataset.name=vtab_dsprites_loc"
        )
    require_subset(request, TASKS)


vars(open_sprites).update(reads=("subset",), require=_require_drawn)


def _samples(subset: str, split: str) -> Iterator[Sample]:
    start = {"train": 0, "val": COUNTS["train"], "test": COUNTS["train"] + COUNTS["val"]}[split]
    chosen = combinations(sum(COUNTS.values()))[start : start + COUNTS[split]]
    labels = [label(subset, factors) for factors in chosen]
    return array_samples((drawn(factors) for factors in chosen), labels, f"dsprites_standin {split}")


def combinations(count: int) -> list[dict[str, int]]:
    """Different combinations of the factors, the first ``count`` of an order that hashes make."""
    whole, found, number = math.prod(FACTORS.values()), dict[int, None](), 0
    while len(found) < count:
        digest = hashlib.blake2b(f"dsprites_standin {number}".encode(), digest_size=8).digest()
        found[int.from_bytes(digest, "big") % whole] = None
        number += 1
    return [_factors(index) for index in found]


def _factors(index: int) -> dict[str, int]:
    factors = {}
    for name, values in FACTORS.items():
        index, factors[name] = divmod(index, values)
    return factors


def label(subset: str, factors: dict[str, int]) -> int:
    """Class number: the values of the factor in 16 equal parts, as VTAB does (x // 2; orientation // 2.5)."""
    factor, values = TASKS[subset]
    return factors[factor] * CLASSES // values


def drawn(factors: dict[str, int]) -> np.ndarray:
    """The image, uint8 (64, 64): 255 in the shape, 0 around it; y counts downwards."""
    half = _UNITS * (5 + factors["scale"])  # of the square's side: 5 to 10 pixels
    centre_x, centre_y = (_UNITS * (16 + factors[axis]) for axis in ("x", "y"))
    angle = 2 * math.pi * factors["orientation"] / FACTORS["orientation"]
    sine, cosine = (round(value * 2**_TURN) for value in (math.sin(angle), math.cos(angle)))
    pixels = np.arange(SIDE, dtype=np.int64) * _UNITS + _UNITS // 2
    across, down = (pixels - centre_x)[None, :], (pixels - centre_y)[:, None]
    # of the shape's own axes, in units
    u, v = (across * cosine + down * sine) >> _TURN, (down * cosine - across * sine) >> _TURN
    inside: np.ndarray = (_square, _ellipse, _heart)[factors["shape"]](u, v, half)
    return np.where(inside, np.uint8(255), np.uint8(0))


def _square(u: np.ndarray, v: np.ndarray, half: int) -> np.ndarray:
    inside: np.ndarray = (abs(u) <= half) & (abs(v) <= half)
    return inside


def _ellipse(u: np.ndarray, v: np.ndarray, half: int) -> np.ndarray:
    inside: np.ndarray = 9 * (u**2 + 4 * v**2) <= 16 * half**2  # half axes 4/3 and 2/3
    return inside


def _heart(u: np.ndarray, v: np.ndarray, half: int) -> np.ndarray:
    """(x² + y² - 1)³ <= x² y³ with its tip downwards."""
    size = half * 7 // 8
    near = u**2 + v**2 <= 9 * size**2  # all of it; beyond, the sixth powers would leave int64
    x, y = np.where(near, u, 2 * size), np.where(near, -v, 2 * size)
    inside: np.ndarray = near & ((x**2 + y**2 - size**2) ** 3 <= x**2 * y**3 * size)
    return inside
