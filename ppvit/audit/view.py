"""What the attacker holds, what an attack finds, and what a key decides: the words that all attacks share.

Everything public about a cipher is known to the attacker (Kerckhoffs): its name, its geometry and the weights that it
was adapted from. Only the key is secret.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppvit.adapt import Embedding
from ppvit.ciphers import AffineMap, Cipher
from ppvit.ciphers.permutation import PermutationCipher
from ppvit.errors import UsageError


@dataclass(frozen=True)
class KeySpace:
    """What the key of a cipher chooses; the rest of its :class:`AffineMap` is the identity and known to everybody.

    Attributes:
        blocks: N, number of blocks of an image.
        values: B, number of values of a block.
        scrambles: the key permutes the blocks.
        shuffles: the key permutes the values of a block.
        inverts: the key inverts half of the value positions.
    """

    blocks: int
    values: int
    scrambles: bool
    shuffles: bool
    inverts: bool

    @classmethod
    def of(cls, cipher: Cipher) -> KeySpace:
        """The key space of a cipher.

        Raises:
            UsageError: the cipher's key is no block permutation, value permutation or sign mask.
        """
        if not isinstance(cipher, PermutationCipher):
            raise UsageError(f"the audit has no attack on cipher.name '{cipher.name}' yet; leave the audit stage out")
        blocks = (cipher.image_size // cipher.block_size) ** 2
        return cls(blocks, 3 * cipher.block_size**2, cipher.scrambles, cipher.shuffles, cipher.inverts)

    @property
    def keyed(self) -> bool:
        """Whether there is any secret at all."""
        return self.scrambles or self.shuffles or self.inverts

    def guess(self, rng: np.random.Generator) -> AffineMap:
        """A uniformly random key: what an attacker who knows nothing would try."""
        sign = np.ones(self.values, np.int8)
        if self.inverts:
            sign[rng.permutation(self.values)[: self.values // 2]] = -1
        return AffineMap(
            block_permutation=rng.permutation(self.blocks) if self.scrambles else np.arange(self.blocks),
            value_permutation=rng.permutation(self.values) if self.shuffles else np.arange(self.values),
            sign=sign,
        )


@dataclass(frozen=True)
class View:
    """All that an attacker holds. Nothing here is derived from the key except the ciphertexts and the weights.

    Attributes:
        space: what the key chooses.
        block_size: side of a block in pixels.
        encrypted: the images under attack, ciphertext, uint8, (n, H, W, 3); never among the known ones.
        known_plain, known_encrypted: the pairs that known-plaintext attacks may use, uint8, (K, H, W, 3).
        known_pairs: how many of these pairs to use, one run each, ascending; the last is at most K.
        public: patch and position embedding of the public checkpoint, normalisation folded in.
        adapted: the same tensors of the model that the trainer receives.
        finetuned: the same tensors of the model that the trainer gives back, adapters merged.
        seed: of every random choice of an attack.
    """

    space: KeySpace
    block_size: int
    encrypted: np.ndarray
    known_plain: np.ndarray
    known_encrypted: np.ndarray
    known_pairs: tuple[int, ...]
    public: Embedding
    adapted: Embedding
    finetuned: Embedding
    seed: int


@dataclass(frozen=True)
class Finding:
    """What one attack recovered with one kind or amount of knowledge.

    Attributes:
        needs: what the attacker had to hold, for the verdict: "10 images and their ciphertexts".
        images: the images under attack as the attacker now sees them, uint8, (n, H, W, 3).
        key: the recovered key, or None where the attack looks for images only.
        variant: goes into the names of results, ``<attack>_<variant>_…``; empty for none.
        headline: this finding also gives the results named ``<attack>_…``; exactly one of an attack's findings does.
    """

    needs: str
    images: np.ndarray
    key: AffineMap | None = None
    variant: str = ""
    headline: bool = False


def to_blocks(images: np.ndarray, block_size: int) -> np.ndarray:
    """Cut images into blocks: uint8 (n, H, W, 3) to (n, N, B), values flattened as C, h, w."""
    count, height, width, channels = images.shape
    rows, columns = height // block_size, width // block_size
    grid = images.reshape(count, rows, block_size, columns, block_size, channels)
    return grid.transpose(0, 1, 3, 5, 2, 4).reshape(count, rows * columns, -1)


def from_blocks(blocks: np.ndarray, block_size: int) -> np.ndarray:
    """The inverse of :func:`to_blocks`, for square images."""
    count, number, _ = blocks.shape
    side = round(number**0.5)
    grid = blocks.reshape(count, side, side, 3, block_size, block_size)
    return grid.transpose(0, 1, 4, 2, 5, 3).reshape(count, side * block_size, side * block_size, 3)


def decrypt(images: np.ndarray, key: AffineMap, block_size: int) -> np.ndarray:
    """Decrypt with a recovered key, right or wrong: ``x_{kb[t]}[kp[j]] = y_t[j]``, inverted where ``s[j] = -1``.

    Args:
        images: ciphertext, uint8, (n, H, W, 3).
        key: any affine map of that geometry.
        block_size: side of a block in pixels.
    """
    cipher = to_blocks(images, block_size)
    plain = np.empty_like(cipher)
    plain[:, key.block_permutation[:, None], key.value_permutation] = np.where(key.sign < 0, 255 - cipher, cipher)
    return from_blocks(plain, block_size)
