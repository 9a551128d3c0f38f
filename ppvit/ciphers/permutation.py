"""Ciphers that permute blocks, permute the values inside blocks, and invert some of them.

Sources: `shuffle` Aprilpyone and Kiya (SHF) and Lin et al. 2025; `scramble` and `block` Nagamori, Shiota and Kiya,
arXiv 2401.05126, Sec. III; `np` negative-positive transformation; `block_np` Qi et al. 2022/2023.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np

from ppvit.ciphers.base import AffineMap, Cipher
from ppvit.keys import Key


class PermutationCipher(Cipher):
    """Up to three keyed steps, each over the whole data set the same:

    1. scramble: ``y[t] = x[kb[t]]``, blocks change places;
    2. shuffle: ``y[t, j] = y[t, kp[j]]``, values of all three colours change places within every block;
    3. invert: ``y[t, j] = 255 - y[t, j]`` for a keyed half of the positions j.

    All three are one exclusive-or (255 - v = v ^ 255) and one gather over the flat image. Measured and no faster:
    blocks and values in two gathers with indices that stay in the cache, and gathers of words that hold the bytes of
    2, 4 or 8 images (see ``benchmarks/cipher.py``).
    """

    scrambles: ClassVar[bool] = False
    shuffles: ClassVar[bool] = False
    inverts: ClassVar[bool] = False

    def __init__(self, key: Key | None, image_size: int, block_size: int) -> None:
        super().__init__(key, image_size, block_size)
        blocks = (image_size // block_size) ** 2
        values = 3 * block_size**2
        self._map = AffineMap(
            block_permutation=self._stream("scramble").permutation(blocks) if self.scrambles else np.arange(blocks),
            value_permutation=self._stream("shuffle").permutation(values) if self.shuffles else np.arange(values),
            sign=np.where(self._stream("invert").half_mask(values), -1, 1).astype(np.int8)
            if self.inverts
            else np.ones(values, np.int8),
        )
        self._gather, self._flip = _flatten(self._map, image_size, block_size)

    def encrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        self._check(images)
        return _flip_and_gather(images, self._plain_flip, self._gather)

    def decrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        self._check(images)
        return _flip_and_gather(images, self._flip, self._scatter)

    @cached_property
    def _scatter(self) -> np.ndarray:
        """Where every plain value went: the inverse of ``_gather``."""
        scatter = np.empty_like(self._gather)
        scatter[self._gather] = np.arange(len(scatter))
        return scatter

    @cached_property
    def _plain_flip(self) -> np.ndarray:
        """The mask of inversion in the order of plain values."""
        flip = np.empty_like(self._flip)
        flip[self._gather] = self._flip
        return flip

    def affine_map(self) -> AffineMap:
        return self._map


def _flip_and_gather(images: np.ndarray, flip: np.ndarray, source: np.ndarray) -> np.ndarray:
    """``(images ^ flip)[source]`` for every image flattened; uint8, (n, H, W, 3)."""
    gathered = np.empty(images.shape, np.uint8)
    flipped = np.empty(len(flip), np.uint8)  # used again for every image: a gather from cached memory is a third faster
    for image, target in zip(images.reshape(len(images), -1), gathered.reshape(len(images), -1), strict=True):
        np.bitwise_xor(image, flip, out=flipped)
        np.take(flipped, source, out=target, mode="clip")  # all indices are valid; the default mode would buffer `out`
    return gathered


def _flatten(affine: AffineMap, image_size: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The affine map over images flattened as H, W, C: source of every value (intp) and its mask (uint8, 0 or 255)."""
    side = image_size // block_size
    pixels = np.arange(image_size * image_size * 3).reshape(side, block_size, side, block_size, 3)
    in_blocks = pixels.transpose(0, 2, 4, 1, 3).reshape(side * side, -1)  # (N, B): flat position of value j of block t
    gather = np.empty(pixels.size, np.intp)
    gather[in_blocks] = in_blocks[affine.block_permutation][:, affine.value_permutation]
    flip = np.empty(pixels.size, np.uint8)
    flip[in_blocks] = np.where(affine.sign < 0, 255, 0)
    return gather, flip


class Plain(PermutationCipher):
    """No encryption: plain shards through the same code, for baselines."""

    name = "none"
    keyed = False


class Shuffle(PermutationCipher):
    """Pixel shuffling (SHF): one permutation of the B values of a block, the same for all blocks; B! keys."""

    name = "shuffle"
    shuffles = True


class Scramble(PermutationCipher):
    """Block scrambling: one permutation of the N blocks; N! keys."""

    name = "scramble"
    scrambles = True


class Block(PermutationCipher):
    """Block scrambling and pixel shuffling (Nagamori et al.); N! B! keys."""

    name = "block"
    scrambles = True
    shuffles = True


class NegativePositive(PermutationCipher):
    """A keyed half of the B positions inverted, the same for all blocks; C(B, B/2) keys."""

    name = "np"
    inverts = True


class BlockNegativePositive(PermutationCipher):
    """Block scrambling, pixel shuffling and negative-positive transformation (Qi et al.)."""

    name = "block_np"
    scrambles = True
    shuffles = True
    inverts = True
