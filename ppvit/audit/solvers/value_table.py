"""Reading a cipher that replaces values (FFX) off pairs: which positions of a block, and which value becomes which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppvit.audit.view import from_blocks, to_blocks


@dataclass(frozen=True)
class ValueTable:
    """What pairs say of an FFX cipher.

    Attributes:
        replaced: which positions of a block go through the table, bool, (B,).
        plain_of: the plain value of every ciphertext value at those positions, uint8, (256,).
    """

    replaced: np.ndarray
    plain_of: np.ndarray

    @classmethod
    def of(cls, plain: np.ndarray, encrypted: np.ndarray) -> ValueTable:
        """From blocks of images and their ciphertexts, uint8, (k, N, B) each.

        A position is replaced when any of its values is. Of values that no pair shows nothing is known.
        """
        replaced = (plain != encrypted).any(axis=(0, 1))
        plain_of = np.full(256, 127, np.uint8)  # never seen: the middle is the smallest error
        seen_plain, seen_cipher = plain[..., replaced].ravel(), encrypted[..., replaced].ravel()
        plain_of[seen_cipher] = seen_plain
        return cls(replaced, plain_of)

    def decrypt(self, images: np.ndarray, block_size: int) -> np.ndarray:
        """uint8, (n, H, W, 3) to the same."""
        blocks = to_blocks(images, block_size)
        return from_blocks(np.where(self.replaced, self.plain_of[blocks], blocks), block_size)
