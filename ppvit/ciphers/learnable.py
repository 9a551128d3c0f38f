"""Learnable image encryption: nibbles of a block are inverted and permuted, so that bytes lose their order.

Sources: `le` Tanaka, "Learnable image encryption", 2018; `ele` Madono, Tanaka, Onishi and Ogawa, "Block-wise scrambled
image recognition using adaptation network", 2020.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ppvit.ciphers.base import CIPHERS, AffineMap
from ppvit.ciphers.etc import require_sub_blocks, values_of_sub_blocks
from ppvit.ciphers.gather import GatherCipher, log2_factorial
from ppvit.ciphers.keys import Key
from ppvit.ciphers.stream import KeyStream


@CIPHERS.register()
class Le(GatherCipher):
    """Bytes are cut into nibbles, of which some are inverted and all change places, in all parts alike (Tanaka 2018).

    In every M x M part of the image: 6 M^2 nibbles, keyed ones reversed (15 - v), all permuted, recombined to bytes. M
    is ``sub_block_size``, 4 in the paper. Key space 2^(6 M^2) (6 M^2)!.
    """

    name = "le"
    options: ClassVar[dict[str, Any]] = {"sub_block_size": 2}
    sub_block_size: int
    shuffles = True
    inverts = True
    nibbles = True

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        require_sub_blocks(self.name, block_size, self.sub_block_size)

    def _make_map(self, *image: str | int) -> AffineMap:
        inner_permutation, inner_sign = nibble_steps(self._stream("nibbles", self.sub_block_size), self.sub_block_size)
        places = values_of_sub_blocks(self.block_size, self.sub_block_size, channels=6)
        permutation, sign = np.empty(2 * self.values, np.intp), np.empty(2 * self.values, np.int8)
        permutation[places] = places[:, inner_permutation]
        sign[places] = inner_sign
        return AffineMap(np.arange(self.blocks), permutation, sign, nibbles=self.nibbles)

    @property
    def key_space_bits(self) -> float:
        nibbles = 6 * self.sub_block_size**2
        return nibbles + log2_factorial(nibbles)


@CIPHERS.register()
class Ele(GatherCipher):
    """The same as le on whole blocks, with a key for every block position, then the blocks change places (Madono 2020).

    Key space N! (2^(6 p^2) (6 p^2)!)^N.
    """

    name = "ele"
    scrambles = True
    shuffles = True
    inverts = True
    nibbles = True

    def _make_map(self, *image: str | int) -> AffineMap:
        steps = (nibble_steps(self._stream("nibbles", number), self.block_size) for number in range(self.blocks))
        permutations, signs = zip(*steps, strict=True)
        blocks = self._stream("scramble").permutation(self.blocks)
        return AffineMap(blocks, np.stack(permutations), np.stack(signs), nibbles=self.nibbles)

    @property
    def key_space_bits(self) -> float:
        nibbles = 6 * self.block_size**2
        return log2_factorial(self.blocks) + self.blocks * (nibbles + log2_factorial(nibbles))


def nibble_steps(stream: KeyStream, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Reversal of a uniform choice of the 6 side^2 nibbles, then a permutation of them: gather indices and signs."""
    sign = 1 - 2 * stream.choices(2, 6 * side**2)
    permutation = stream.permutation(6 * side**2)
    return permutation, sign[permutation].astype(np.int8)
