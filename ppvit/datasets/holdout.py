"""A stratified test split for sources that bring none, without holding the list of images."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

import numpy as np

from ppvit.core.errors import PpvitError


class HoldOut:
    """Which images of each class are held out as test.

    Every image gets a pseudo-random rank from the seed and its name, and the lowest ranks of each class are its test
    images. So the split depends neither on the order of files nor on the container (folder, tar or zip), adding images
    moves few others, and only 8 bytes an image are held, while the split is being made.
    """

    def __init__(self, images: Iterable[tuple[str, str]], test_fraction: float, seed: int, where: str) -> None:
        """Read all (class name, image name) pairs once.

        Args:
            images: the pairs; image names are unique.
            test_fraction: share of each class that becomes test, rounded, at least one image on each side.
            seed: another seed, another split.
            where: the source, named in errors.

        Raises:
            PpvitError: a class has a single image.
        """
        self._seed = seed
        ranks: dict[str, array[int]] = {}
        for class_name, image in images:
            ranks.setdefault(class_name, array("Q")).append(self._rank(image))
        self._highest = {}
        self.train_counts: dict[str, int] = {}
        self.test_counts: dict[str, int] = {}
        for class_name, of_class in ranks.items():
            count = len(of_class)
            if count < 2:
                raise PpvitError(
                    f"{where}: class '{class_name}' has a single image and there is no test split; "
                    "add images of it, remove the class, or bring train and test folders of your own"
                )
            ranks_of_class = np.frombuffer(of_class, np.uint64)
            last = min(max(round(count * test_fraction), 1), count - 1) - 1
            highest = np.partition(ranks_of_class, last)[last]
            # images of one name, in two spellings of Unicode, have one rank and stay together
            held_out = int(np.count_nonzero(ranks_of_class <= highest))
            self._highest[class_name] = int(highest)
            self.train_counts[class_name], self.test_counts[class_name] = count - held_out, held_out

    def is_test(self, class_name: str, image: str) -> bool:
        """Whether an image is held out."""
        return self._rank(image) <= self._highest[class_name]

    def _rank(self, image: str) -> int:
        text = image.encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=self._seed.to_bytes(8, "big")).digest(), "big")
