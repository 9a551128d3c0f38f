"""Encrypting and decrypting by a signed permutation of an image's values: what most ciphers come down to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import lgamma, log
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ppvit.ciphers.base import AffineMap, Cipher, Isometry
from ppvit.ciphers.keys import Key


class GatherCipher(Cipher):
    """A cipher that moves and inverts values (bytes, or nibbles) of an image: its affine map says all.

    The map over the flat image is one exclusive-or (255 - v = v ^ 255, 15 - v = v ^ 15) and one gather. Measured and no
    faster: blocks and values in two gathers with indices that stay in the cache, and gathers of words that hold the
    bytes of 2, 4 or 8 images (see ``benchmarks/cipher.py``).

    Attributes:
        nibbles: the values are nibbles, so that a byte does not keep its size.
    """

    nibbles: ClassVar[bool] = False
    keeps_blocks = True

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        self.linear = not self.nibbles
        self.permutes = not (self.nibbles or self.inverts)

    @abstractmethod
    def _make_map(self, *image: str | int) -> AffineMap:
        """The map, derived from the key; ``image`` is the purpose of one image's sub-key where each has its own."""

    @cached_property
    def _map(self) -> AffineMap:
        return self._make_map()

    @cached_property
    def _flat(self) -> FlatMap:
        return FlatMap.of(self._map, self.image_size, self.block_size)

    def encrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        self._check(images)
        if not self.image_keys:
            return self._flat.encrypt(images)
        encrypted = np.empty_like(images)
        for flat, image, target in zip(self._maps_of_images(images, ids), images, encrypted, strict=True):
            target[:] = flat.encrypt(image[None])[0]
        return encrypted

    def decrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        self._check(images)
        if not self.image_keys:
            return self._flat.decrypt(images)
        plain = np.empty_like(images)
        for flat, image, target in zip(self._maps_of_images(images, ids), images, plain, strict=True):
            target[:] = flat.decrypt(image[None])[0]
        return plain

    def _maps_of_images(self, images: np.ndarray, ids: np.ndarray | None) -> Iterator[FlatMap]:
        for number in self._check_ids(images, ids).tolist():
            yield FlatMap.of(self.image_map(number), self.image_size, self.block_size)

    @classmethod
    def isometry(cls, settings: Mapping[str, Any]) -> Isometry:
        return "none" if cls.nibbles else "values"

    def image_map(self, number: int) -> AffineMap:
        return self._make_map("image", number) if self.image_keys else self._map

    def affine_map(self) -> AffineMap | None:
        return None if self.image_keys else self._map


@dataclass(frozen=True)
class FlatMap:
    """An affine map without matrix, over images flattened as H, W, C.

    Attributes:
        gather: intp, (H W C,), source of every ciphertext value; C = 3, or 6 channels of nibbles.
        flip: uint8, (H W C,), what each ciphertext value is exclusive-or'ed with.
        nibbles: whether values are nibbles.
    """

    gather: np.ndarray
    flip: np.ndarray
    nibbles: bool

    @classmethod
    def of(cls, affine: AffineMap, image_size: int, block_size: int) -> FlatMap:
        """Flatten ``affine``, which must have no matrix."""
        side, channels = image_size // block_size, 6 if affine.nibbles else 3
        places = np.arange(image_size * image_size * channels).reshape(side, block_size, side, block_size, channels)
        in_blocks = places.transpose(0, 2, 4, 1, 3).reshape(side * side, -1)  # (N, V): flat place of value j of block t
        permutation = np.broadcast_to(affine.value_permutation, in_blocks.shape)
        gather = np.empty(places.size, np.intp)
        gather[in_blocks] = np.take_along_axis(in_blocks[affine.block_permutation], permutation, axis=1)
        flip = np.empty(places.size, np.uint8)
        flip[in_blocks] = np.where(affine.sign < 0, 15 if affine.nibbles else 255, 0)
        return cls(gather, flip, affine.nibbles)

    def encrypt(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) to the same."""
        return self._move(images, self._plain_flip, self.gather)

    def decrypt(self, images: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`encrypt`."""
        return self._move(images, self.flip, self._scatter)

    @cached_property
    def _scatter(self) -> np.ndarray:
        """Where every plain value went: the inverse of ``gather``."""
        scatter = np.empty_like(self.gather)
        scatter[self.gather] = np.arange(len(scatter))
        return scatter

    @cached_property
    def _plain_flip(self) -> np.ndarray:
        """``flip`` in the order of plain values."""
        flip = np.empty_like(self.flip)
        flip[self.gather] = self.flip
        return flip

    def _move(self, images: np.ndarray, flip: np.ndarray, source: np.ndarray) -> np.ndarray:
        values = split_nibbles(images) if self.nibbles else images
        moved = flip_and_gather(values, flip, source)
        return join_nibbles(moved) if self.nibbles else moved


def flip_and_gather(images: np.ndarray, flip: np.ndarray, source: np.ndarray) -> np.ndarray:
    """``(images ^ flip)[source]`` for every image flattened; uint8, (n, H, W, C)."""
    gathered = np.empty(images.shape, np.uint8)
    flipped = np.empty(len(flip), np.uint8)  # used again for every image: a gather from cached memory is a third faster
    rows = (len(images), len(source))
    for image, target in zip(images.reshape(rows), gathered.reshape(rows), strict=True):
        np.bitwise_xor(image, flip, out=flipped)
        np.take(flipped, source, out=target, mode="clip")  # all indices are valid; the default mode would buffer `out`
    return gathered


def split_nibbles(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Bytes to nibbles: uint8, (..., 3) to (..., 6), the three high ones first."""
    return np.concatenate([images >> 4, images & 15], axis=-1)


def join_nibbles(nibbles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The inverse of :func:`split_nibbles`."""
    channels = nibbles.shape[-1] // 2
    return nibbles[..., :channels] << np.uint8(4) | nibbles[..., channels:]


def log2_factorial(n: int) -> float:
    """log2(n!)."""
    return lgamma(n + 1) / log(2)
