"""Every block vector times a secret random orthogonal matrix, the same for all blocks.

Source: random orthogonal transforms for privacy-preserving learning, as in Maekawa, Kawamura, Kinoshita and Kiya,
"Privacy-preserving SVM computing in the encrypted domain".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ppvit.ciphers.base import CIPHERS, AffineMap, Cipher, Isometry
from ppvit.ciphers.keys import Key
from ppvit.core.errors import UsageError

_UNIT = 2.0**-24  # entries of the matrix are multiples of it, so that sums of products with pixels are exact
_QUANTISED_SCALE = 0.25  # of 16,000 values of white blocks, which have the largest, one is beyond 4 * 127.5


@CIPHERS.register()
class Orthogonal(Cipher):
    """The values of a block are turned by a secret random rotation or reflection, the same for all blocks.

    ``y = c Q (x - 127.5) + 127.5`` for every block x of B values; Q is Haar distributed. Key space: B (B - 1) / 2 real
    numbers.

    A value of y is at most 127.5 sqrt(B) from the middle. Under a key drawn without knowledge of the image it is a
    coordinate of a random direction: at most 127.5 times a standard normal number, for any image.

    ``storage: float32`` and ``float16`` (c = 1) hold all of that and decrypt bit exactly. ``float16`` moves values by
    some hundredths of a grey level, which ``adapt`` measures in logits. ``storage: uint8`` (c = 1/4, rounded, clipped
    beyond 4 standard deviations) loses about 1.2 grey levels (root mean square), and adaptation is as exact as that.

    Sums are exact whatever their order, because the entries of Q are rounded to multiples of 2^-24: batch and threads
    do not change a byte of the ciphertext. Between machines Q itself could differ where its last bits in float64, which
    depend on the linear algebra library, decide that rounding; that was not seen.
    """

    name = "orthogonal"
    options: ClassVar[dict[str, Any]] = {"storage": "float32"}
    storage: str
    linear = True
    keeps_blocks = True

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        if self.storage not in ("float32", "float16", "uint8"):
            raise UsageError(f"cipher.storage '{self.storage}' must be float32, float16 or uint8")
        self.dtype = np.dtype(self.storage)
        self.lossless = self.storage != "uint8"
        self._scale = 1.0 if self.lossless else _QUANTISED_SCALE

    @classmethod
    def isometry(cls, settings: Mapping[str, Any]) -> Isometry:
        return "none" if settings["storage"] == "uint8" else "length"  # uint8 rounds and clips

    @cached_property
    def _matrix(self) -> np.ndarray:
        gaussian = self._stream("matrix").normal(self.values**2).reshape(self.values, self.values)
        q, r = np.linalg.qr(gaussian)
        q *= np.sign(np.diag(r))  # without it QR's own convention would bias the distribution (Mezzadri 2007)
        return np.round(q / _UNIT) * _UNIT

    def encrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        exact = self.encrypt_exactly(images)
        if self.lossless:
            return exact.astype(self.dtype)
        return np.clip(np.round(exact), 0, 255).astype(np.uint8)

    def encrypt_exactly(self, images: np.ndarray) -> np.ndarray:
        self._check(images)
        # 2 x - 255 are integers, and so are the entries of Q in units of 2^-24: at most 2^42 in all, exact in float64
        doubled = 2 * self._to_blocks(images).astype(np.float64) - 255
        return self._from_blocks(doubled @ self._matrix.T) * (self._scale / 2) + 127.5

    def decrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        self._check(images, self.dtype)
        centred = (self._to_blocks(images).astype(np.float64) - 127.5) / self._scale
        plain = self._from_blocks(centred @ self._inverse.T) + 127.5
        return np.clip(np.round(plain), 0, 255).astype(np.uint8)

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.inv(self._matrix)  # of the rounded matrix, not just its transpose

    def _to_blocks(self, images: np.ndarray) -> np.ndarray:
        side, p = self.image_size // self.block_size, self.block_size
        grid = images.reshape(len(images), side, p, side, p, 3)
        return grid.transpose(0, 1, 3, 5, 2, 4).reshape(len(images), self.blocks, self.values)

    def _from_blocks(self, blocks: np.ndarray) -> np.ndarray:
        side, p = self.image_size // self.block_size, self.block_size
        grid = blocks.reshape(len(blocks), side, side, 3, p, p)
        return grid.transpose(0, 1, 4, 2, 5, 3).reshape(len(blocks), *self.shape)

    def affine_map(self) -> AffineMap:
        identity = AffineMap.identity(self.blocks, self.values)
        return AffineMap(
            identity.block_permutation, identity.value_permutation, identity.sign, self._matrix * self._scale
        )

    @property
    def key_space_bits(self) -> float:
        # real numbers; at the 24 bits that are kept of each
        return 24 * self.values * (self.values - 1) / 2
