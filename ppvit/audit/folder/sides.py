"""Which side the blocks of encrypted pictures have, and how sure that is, from their borders and from what repeats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
_MOST = 24  # pictures that are looked at
SIDE = 512  # pixels of a side that are looked at
_VALUES = 2**22  # of all pictures together that are looked at
FEW = 6  # pictures from which on values at one place are compared over the pictures
_PRIOR_OF_NONE = 3.0  # log odds against any one side
_PRIOR_OF_PARTS = 6.0  # log odds against blocks made of blocks
_PART = 8  # pixels of a part of a block, at most
_ALIKE = 8  # contrasts that count as two


def side_probabilities(pictures: np.ndarray) -> dict[int, float]:
    """How likely every divisor of the size is the side of the blocks; what is missing to 1 is that there are none.

    A profile has steps at the borders of blocks that differ from those beside them by one factor, and pixels whole
    blocks apart are more alike by one amount; else both vary. Which divisor explains that best is compared by what it
    leaves unexplained, with the likelihood of normal errors of unknown size.

    Args:
        pictures: uint8, (n, H, W, 3).
    """
    sides = divisors(*pictures.shape[1:3])
    if not sides:
        return {}
    values = sample(pictures).astype(np.float32)
    profiles, again = _profiles(values), _alike_by_distance(values)
    evidence = {p: max(_borders(profile, p) for profile in profiles) + _at_multiples(again, p) for p in sides}
    highest = max(0.0, *evidence.values())
    none = np.exp(_PRIOR_OF_NONE - highest)
    weights = {p: np.exp(evidence[p] - highest) for p in sides}
    whole = none + sum(weights.values())
    return {p: float(weight / whole) for p, weight in weights.items()}


def outer_side(pictures: np.ndarray, side: int) -> int:
    """The side of blocks made of several blocks of ``side``, where steps tell of such; else 0."""
    best, highest = 0, _PRIOR_OF_PARTS
    if side > _PART:
        return best
    for profile in _profiles(sample(pictures).astype(np.float32)):
        size, contrasts, template = jump(profile, side)
        left = contrasts - size * template
        for outer in divisors(*pictures.shape[1:3]):
            if outer > side and outer % side == 0:
                _, _, borders = jump(profile, outer)
                borders = borders - template * (borders @ template) / (template @ template)
                evidence = _evidence(left, borders)
                if evidence > highest:
                    best, highest = outer, evidence
    return best


def sample(pictures: np.ndarray) -> np.ndarray:
    """As many pictures, and as much of each, as tell: (n, H, W, 3) to fewer and smaller ones, cut below and right."""
    cut = pictures[:, :SIDE, :SIDE]
    return cut[: min(_MOST, max(2, _VALUES // cut[0].size))]


def divisors(height: int, width: int) -> list[int]:
    """Sides that blocks of pictures of this size could have, in pixels."""
    return [p for p in range(2, min(height, width) // 2 + 1) if height % p == 0 and width % p == 0]


def _profiles(values: np.ndarray) -> list[tuple[Floats, Floats]]:
    """Differences of neighbours by column and by row, seen in several ways."""
    folded = np.abs(values - 127.5)  # inversion hides edges in values, not in their distance to the middle
    profiles = [steps(values, 1), steps(folded, 1)]
    return [*profiles, unlike_over_pictures(values)] if len(values) >= FEW else profiles


def unlike_over_pictures(values: np.ndarray) -> tuple[Floats, Floats]:
    """How unlike values at neighbouring places vary over the pictures, whatever their signs: as of :func:`steps`."""
    centred = values - values.mean(axis=0)
    centred /= np.sqrt((centred**2).sum(axis=0)) + 1e-3
    across = 1 - ((centred[:, :, 1:] * centred[:, :, :-1]).sum(axis=0) ** 2).mean(axis=(0, 2))
    down = 1 - ((centred[:, 1:] * centred[:, :-1]).sum(axis=0) ** 2).mean(axis=(1, 2))
    return across, down


def steps(values: np.ndarray, distance: int) -> tuple[Floats, Floats]:
    """Mean difference of pixels so far apart, by column of the first and by row: (W - distance,), (H - distance,)."""
    across = np.abs(values[:, :, distance:] - values[:, :, :-distance]).mean(axis=(0, 1, 3))
    down = np.abs(values[:, distance:] - values[:, :-distance]).mean(axis=(0, 2, 3))
    return across, down


def _borders(profile: tuple[Floats, Floats], side: int) -> float:
    """Log likelihood ratio of larger steps at multiples of the side against none."""
    _, contrasts, template = jump(profile, side)
    return _evidence(contrasts, template)


def _at_multiples(alike: Floats, side: int) -> float:
    """The same of values more alike at multiples of the side: alike by distance, from 1 on."""
    template = ((np.arange(len(alike)) + 1) % side == 0).astype(float)
    return _evidence(_contrast(alike), _contrast(template), 1e-6)


def _evidence(contrasts: Floats, template: Floats, floor: float = 1e-4) -> float:
    power = float(template @ template)
    size = float(contrasts @ template) / max(power, 1e-9)
    if size <= 0:
        return 0.0
    left = contrasts - size * template
    least = floor * len(contrasts)
    # contrasts share values with their neighbours and vary by what is drawn there: few of them say something new
    return float(len(contrasts) / _ALIKE * np.log((contrasts @ contrasts + least) / (left @ left + least)))


def _contrast(values: Floats) -> Floats:
    """Every value against the mean of the two beside it."""
    return np.asarray(values[1:-1] - (values[:-2] + values[2:]) / 2)


def jump(profile: tuple[Floats, Floats], side: int) -> tuple[float, Floats, Floats]:
    """By how much, in logarithms, steps at borders of blocks are larger; contrasts, and what they were to be."""
    found, expected = [], []
    for each in profile:
        found.append(_contrast(np.log(each + 1e-3 * each.mean() + 1e-9)))
        expected.append(_contrast((np.arange(len(each)) % side == side - 1).astype(float)))
    contrasts, template = np.concatenate(found), np.concatenate(expected)
    return float(contrasts @ template) / max(float(template @ template), 1e-9), contrasts, template


def _alike_by_distance(values: np.ndarray) -> Floats:
    """Correlation of values 1, 2, … pixels apart, in rows and columns, up to half of the smaller side."""
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    most = min(values.shape[1:3]) // 2 + 1
    total = np.zeros(most)
    for axis in (1, 2):
        length = values.shape[axis]
        power = (np.abs(np.fft.rfft(centred, 2 * length, axis=axis)) ** 2).sum(
            axis=tuple(other for other in range(4) if other != axis)
        )
        by_distance = np.fft.irfft(power)[: most + 1] / (length - np.arange(most + 1))
        total += by_distance[1:] / max(float(by_distance[0]), 1e-9)
    return total / 2
