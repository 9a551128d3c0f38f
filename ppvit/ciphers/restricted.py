"""Restricted random permutations: some blocks and values stay where they are, which costs a model less accuracy.

Sources: `restricted` Horio et al., "Restricted random permutation matrices" (97.3 % on CIFAR-10 with 120 of 196 blocks
and 500 of 768 values in place); `disposable` Aso et al., an independent key for every image.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ppvit.ciphers.base import CIPHERS, AffineMap
from ppvit.ciphers.gather import GatherCipher, log2_factorial
from ppvit.ciphers.keys import Key
from ppvit.ciphers.stream import KeyStream
from ppvit.core.errors import UsageError


@CIPHERS.register()
class Restricted(GatherCipher):
    """Some blocks change places, and some values inside all blocks alike; the others stay (Horio et al.).

    Key space: C(N, m) m! C(B, k) k! for m moving blocks and k moving values, a little less because different choices
    may give one permutation.
    """

    name = "restricted"
    options: ClassVar[dict[str, Any]] = {"fixed_blocks": 0.61, "fixed_values": 0.651}
    fixed_blocks: float
    fixed_values: float
    scrambles = True
    shuffles = True

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        for name in self.options:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"cipher.{name} {getattr(self, name)} must be a share between 0 and 1")

    def _make_map(self, *image: str | int) -> AffineMap:
        return AffineMap(
            restricted_permutation(self._stream("scramble", *image), self.blocks, self.fixed_blocks),
            restricted_permutation(self._stream("shuffle", *image), self.values, self.fixed_values),
            np.ones(self.values, np.int8),
        )

    @property
    def key_space_bits(self) -> float:
        sizes = ((self.blocks, self.fixed_blocks), (self.values, self.fixed_values))
        return sum(log2_factorial(size) - log2_factorial(round(fixed * size)) for size, fixed in sizes)


@CIPHERS.register()
class Disposable(Restricted):
    """The same as restricted with a key of its own for every image, so that no model can be adapted to it (Aso et al.).

    Key space of one image: see :class:`Restricted`.
    """

    name = "disposable"

    @property
    def image_keys(self) -> bool:
        return True


def restricted_permutation(stream: KeyStream, size: int, fixed: float) -> np.ndarray:
    """A permutation that leaves ``round(fixed * size)`` entries, chosen at random, in place: intp, (size,)."""
    moving = np.sort(stream.permutation(size)[round(fixed * size) :])
    permutation = np.arange(size)
    permutation[moving] = moving[stream.permutation(len(moving))]
    return permutation
