"""Encryption-then-compression ciphers: blocks are permuted, turned, inverted and recoloured, so that JPEG still works.

Sources: `etc` Kurihara, Imaizumi, Shiota and Kiya, "An encryption-then-compression system for lossless image
compression standards"; Chuman, Sirichotedumrong and Kiya, "Encryption-then-compression systems using grayscale-based
image encryption for JPEG images"; `subblock_etc` the same steps inside every block of a Vision Transformer.
"""

from __future__ import annotations

from itertools import permutations
from math import log2
from typing import Any, ClassVar

import numpy as np

from ppvit.ciphers.base import CIPHERS, AffineMap
from ppvit.ciphers.gather import GatherCipher, log2_factorial
from ppvit.ciphers.keys import Key
from ppvit.ciphers.stream import KeyStream
from ppvit.core.errors import UsageError

COLOUR_ORDERS = np.array(list(permutations(range(3))))  # (6, 3): which plain colour each ciphertext colour shows


@CIPHERS.register()
class Etc(GatherCipher):
    """Every block is moved, turned or mirrored, inverted or not, and its colours reordered: JPEG still compresses it.

    Key space N! 96^N for N blocks, with 8 x 2 x 6 = 96 changes of a block.
    """

    name = "etc"
    scrambles = True
    shuffles = True
    inverts = True
    turns_blocks = True

    def _make_map(self, *image: str | int) -> AffineMap:
        return AffineMap(
            self._stream("scramble").permutation(self.blocks),
            *transforms(self._stream("transform"), self.blocks, self.block_size),
        )

    @property
    def key_space_bits(self) -> float:
        return log2_factorial(self.blocks) + self.blocks * log2(8 * 2 * 6)


@CIPHERS.register()
class SubblockEtc(GatherCipher):
    """The same as etc on the parts of every block, then the blocks change places.

    With S sub-blocks in a block: N! S! (8 * 2 * 6)^S keys for ``key_scope: shared``, one key for all blocks, and
    N! (S! (8 * 2 * 6)^S)^N for ``key_scope: block``, one for each.
    """

    name = "subblock_etc"
    options: ClassVar[dict[str, Any]] = {"sub_block_size": 2, "key_scope": "shared"}
    sub_block_size: int
    key_scope: str
    scrambles = True
    shuffles = True
    inverts = True

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        require_sub_blocks(self.name, block_size, self.sub_block_size)
        require_scope(self.name, self.key_scope, ("shared", "block"))
        self._sub_blocks = (block_size // self.sub_block_size) ** 2

    def _make_map(self, *image: str | int) -> AffineMap:
        blocks = self._stream("scramble").permutation(self.blocks)
        if self.key_scope == "shared":
            return AffineMap(blocks, *self._inside_block("shared"))
        permutations, signs = zip(*(self._inside_block("block", number) for number in range(self.blocks)), strict=True)
        return AffineMap(blocks, np.stack(permutations), np.stack(signs))

    def _inside_block(self, *purpose: str | int) -> tuple[np.ndarray, np.ndarray]:
        """Value permutation and signs of one block, (B,) each."""
        stream = self._stream("inside", self.sub_block_size, *purpose)
        order = stream.permutation(self._sub_blocks)
        inner_permutation, inner_sign = transforms(stream, self._sub_blocks, self.sub_block_size)
        places = values_of_sub_blocks(self.block_size, self.sub_block_size)
        permutation = np.empty(self.values, np.intp)
        permutation[places] = np.take_along_axis(places[order], inner_permutation, axis=1)
        sign = np.empty(self.values, np.int8)
        sign[places] = inner_sign
        return permutation, sign

    @property
    def key_space_bits(self) -> float:
        inside = log2_factorial(self._sub_blocks) + self._sub_blocks * log2(8 * 2 * 6)
        return log2_factorial(self.blocks) + inside * (1 if self.key_scope == "shared" else self.blocks)


def transforms(stream: KeyStream, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform choices of orientation, inversion and colour order for ``count`` square pieces of ``side`` pixels.

    Returns:
        Value permutation, intp, and signs, int8: (count, 3 side^2) each, in the gather form of AffineMap.
    """
    orientation = stream.choices(8, count)
    inverted = stream.choices(2, count)
    colours = COLOUR_ORDERS[stream.choices(6, count)]
    pixels = orientations(side)[orientation]  # (count, side^2)
    permutation = (colours[:, :, None] * side**2 + pixels[:, None, :]).reshape(count, -1)
    return permutation, np.repeat(1 - 2 * inverted[:, None], 3 * side**2, axis=1).astype(np.int8)


def orientations(side: int) -> np.ndarray:
    """The 8 rotations and flips of a square as gather indices over its pixels: intp, (8, side^2)."""
    pixels = np.arange(side**2).reshape(side, side)
    turned = [np.rot90(square, turns) for square in (pixels, pixels[:, ::-1]) for turns in range(4)]
    return np.stack([square.ravel() for square in turned])


def values_of_sub_blocks(block_size: int, sub_block_size: int, channels: int = 3) -> np.ndarray:
    """Which values of a block lie in which of its sub-blocks: intp, (S, channels * sub_block_size^2), both C, h, w."""
    side = block_size // sub_block_size
    values = np.arange(channels * block_size**2).reshape(channels, side, sub_block_size, side, sub_block_size)
    return values.transpose(1, 3, 0, 2, 4).reshape(side * side, -1)


def require_sub_blocks(cipher: str, block_size: int, sub_block_size: int) -> None:
    """Refuse sub-blocks that do not fill a block.

    Raises:
        UsageError: ``cipher.sub_block_size`` does not divide ``cipher.block_size``.
    """
    if sub_block_size < 1 or block_size % sub_block_size:
        raise UsageError(
            f"cipher.sub_block_size {sub_block_size} does not divide cipher.block_size {block_size}, which cipher "
            f"'{cipher}' needs; choose a divisor"
        )


def require_scope(cipher: str, scope: str, known: tuple[str, ...]) -> None:
    """Refuse a ``cipher.key_scope`` that the cipher does not have.

    Raises:
        UsageError: names those that it has.
    """
    if scope not in known:
        raise UsageError(f"cipher.key_scope '{scope}' does not exist for cipher '{cipher}'; use {' or '.join(known)}")
