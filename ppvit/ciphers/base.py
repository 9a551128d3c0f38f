"""What every image cipher offers, and the affine map through which a Vision Transformer can be adapted to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ppvit.errors import UsageError
from ppvit.keys import Key, KeyStream


@dataclass(frozen=True)
class AffineMap:
    """A cipher as seen by one patch position t: ``y_t = s * (x_{kb[t]}[kp] - 127.5) + 127.5``.

    That is gather form: ciphertext value j of block t is plain value ``kp[j]`` of block ``kb[t]``, inverted to 255 - v
    where ``s[j] = -1``. Values of a block are flattened as C, h, w, the order of a convolution's weight.

    Attributes:
        block_permutation: kb, intp, (N,), N = number of blocks in row-major order.
        value_permutation: kp, intp, (B,), B = 3 * block_size^2.
        sign: s, int8, (B,), +1 or -1, in ciphertext order.
    """

    block_permutation: np.ndarray
    value_permutation: np.ndarray
    sign: np.ndarray


class Cipher(ABC):
    """An image cipher with its key in place; pure array maths, no files.

    Args:
        key: the secret key; None only for a cipher that needs none.
        image_size: side H = W of the images in pixels.
        block_size: side p of a block in pixels; must divide ``image_size``.

    Raises:
        UsageError: the geometry does not fit.
    """

    name: ClassVar[str]
    keyed: ClassVar[bool] = True

    def __init__(self, key: Key | None, image_size: int, block_size: int) -> None:
        if image_size % block_size:
            raise UsageError(
                f"cipher.block_size {block_size} does not divide dataset.image_size {image_size}; choose a divisor"
            )
        self.image_size = image_size
        self.block_size = block_size
        self._key = key

    @property
    def settings(self) -> dict[str, str | int]:
        """The public settings, which manifests record: they and the key id say all that must match."""
        return {"name": self.name, "block_size": self.block_size}

    @abstractmethod
    def encrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """Encrypt a batch.

        Args:
            images: uint8, (n, H, W, 3).
            ids: int64, (n,), the place of each image in its data set, for ciphers with a key for every image; the
                others ignore it.

        Returns:
            Ciphertext of the same shape, uint8.

        Raises:
            UsageError: images of another shape or dtype.
        """

    @abstractmethod
    def decrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """Invert :meth:`encrypt`, bit exact; same arguments."""

    @abstractmethod
    def affine_map(self) -> AffineMap | None:
        """The map that makes exact adaptation possible, or None where the cipher is no such map."""

    def _stream(self, step: str) -> KeyStream:
        return KeyStream(self._key, (self.name, step, self.block_size, self.image_size))

    def _check(self, images: np.ndarray) -> None:
        expected = (self.image_size, self.image_size, 3)
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
            raise UsageError(
                f"cipher '{self.name}' expects uint8 images of shape (n, {', '.join(map(str, expected))}), "
                f"got {images.dtype} {images.shape}"
            )
