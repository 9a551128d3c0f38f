"""Pixel-based encryption: every value of every pixel is inverted or not, and colours may change places pixel by pixel.

Sources: `pe` Sirichotedumrong, Kinoshita and Kiya, "Pixel-based image encryption without key management for
privacy-preserving deep neural networks", IEEE Access 2019; `ffx` AprilPyone and Kiya, "Block-wise image transformation
with secret key for adversarially robust defense", IEEE TIFS 2021 (FFX).
"""

from __future__ import annotations

from math import log2
from typing import Any, ClassVar

import numpy as np

from ppvit.ciphers.base import CIPHERS, AffineMap, Cipher
from ppvit.ciphers.etc import COLOUR_ORDERS, require_scope
from ppvit.ciphers.gather import GatherCipher, log2_factorial
from ppvit.ciphers.keys import Key


@CIPHERS.register()
class Pe(GatherCipher):
    """Every value of every pixel is inverted or not, v to 255 - v, and the colours of a pixel may change places.

    One key for all images (``key_scope: shared``) or one for each (``image``; nothing adapts to that). Key space of one
    image 2^(3 H W), times 6^(H W) with colour order.
    """

    name = "pe"
    options: ClassVar[dict[str, Any]] = {"key_scope": "shared", "colour_order": True}
    key_scope: str
    colour_order: bool
    inverts = True
    keeps_pixels = True

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        require_scope(self.name, self.key_scope, ("shared", "image"))

    @property
    def image_keys(self) -> bool:
        return self.key_scope == "image"

    def _make_map(self, *image: str | int) -> AffineMap:
        pixels = self.block_size**2
        sign = 1 - 2 * self._stream("invert", *image).choices(2, self.blocks * self.values)
        order = np.zeros((self.blocks, pixels), np.intp)
        if self.colour_order:
            order = self._stream("colour", *image).choices(6, order.size).reshape(order.shape)
        permutation = COLOUR_ORDERS[order].transpose(0, 2, 1) * pixels + np.arange(pixels)  # (N, 3, p^2)
        shape = (self.blocks, self.values)
        return AffineMap(np.arange(self.blocks), permutation.reshape(shape), sign.reshape(shape).astype(np.int8))

    @property
    def key_space_bits(self) -> float:
        return self.image_size**2 * (3 + (log2(6) if self.colour_order else 0))


@CIPHERS.register()
class Ffx(Cipher):
    """Half of the values of a block, the same ones in all blocks, are replaced by a secret table of the 256 values.

    A table is not affine, so nothing adapts to it. Key space C(B, B/2) 256! for the B values of a block.
    """

    name = "ffx"
    replaces_values = True
    keeps_blocks = True

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        self._table = self._stream("values").permutation(256).astype(np.uint8)
        self._inverse = np.argsort(self._table).astype(np.uint8)
        in_block = self._stream("positions").half_mask(self.values).reshape(3, block_size, block_size)
        side = image_size // block_size
        self._mask = np.tile(in_block.transpose(1, 2, 0), (side, side, 1))

    def encrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        self._check(images)
        return np.where(self._mask, self._table[images], images)

    def decrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        self._check(images)
        return np.where(self._mask, self._inverse[images], images)

    @property
    def key_space_bits(self) -> float:
        half = self.values // 2
        positions = log2_factorial(self.values) - log2_factorial(half) - log2_factorial(self.values - half)
        return positions + log2_factorial(256)
