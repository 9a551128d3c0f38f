"""Strata of images that carry several labels, for a source whose test images are held out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Strata:
    """The stratum of an image is its rarest label, see :class:`ppvit.data.labels.LabelSets`; without any, its own.

    Strata of a single image, which cannot be on both sides, are put together with the images that carry nothing; if
    that leaves one image again, with the largest stratum.

    Args:
        combinations: images of every combination of labels, class numbers in ascending order.
    """

    def __init__(self, combinations: Mapping[tuple[int, ...], int]) -> None:
        counts: Counter[int] = Counter()
        for numbers, images in combinations.items():
            counts.update(dict.fromkeys(numbers, images))
        self._rarity = {number: (images, number) for number, images in counts.items()}
        sizes: Counter[str] = Counter()
        for numbers, images in combinations.items():
            sizes[self._own(numbers)] += images
        single = [stratum for stratum, images in sizes.items() if images == 1]
        rest = sizes[""] + sum(1 for stratum in single if stratum)
        target = "" if rest > 1 else max(sizes, key=lambda stratum: (sizes[stratum], stratum), default="")
        self._moved = dict.fromkeys(single, target)

    def of(self, numbers: tuple[int, ...]) -> str:
        """The name of the stratum of an image that carries these labels."""
        own = self._own(numbers)
        return self._moved.get(own, own)

    def _own(self, numbers: tuple[int, ...]) -> str:
        return str(min(numbers, key=self._rarity.__getitem__)) if numbers else ""
