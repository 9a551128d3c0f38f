"""What the attacker holds, what an attack finds, and what a key decides: the words that all attacks share.

Everything public about a cipher is known to the attacker (Kerckhoffs): its name, its geometry and the weights that it
was adapted from. Only the key is secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ppvit.audit.amount import Amount
from ppvit.ciphers import AffineMap, Cipher
from ppvit.ciphers.gather import FlatMap, split_nibbles
from ppvit.ciphers.keys import SECRET_BYTES, Key
from ppvit.data.images import displayable

if TYPE_CHECKING:  # attacks on pictures alone need no torch
    from ppvit.adaptation.embedding import Embedding

_GUESSES_OF_CHANCE = 16  # pairs of random keys whose agreement is chance, for ciphers without a closed form


@dataclass(frozen=True)
class KeySpace:
    """A cipher as its attacker knows it: everything but the key.

    Attributes:
        make: the cipher under any key, such as one of the attacker's own.
        blocks: N, number of blocks of an image.
        values: V, number of values of a block: bytes, or nibbles where the cipher permutes nibbles.
        scrambles, shuffles, inverts: as of :class:`ppvit.ciphers.Cipher`.
        mapped: the cipher is one affine map for all images, so there is a key to recover in that form.
        per_position: every block position has value permutation and signs of its own.
        nibbles: the values are nibbles.
        dense: the values of a block go through a matrix.
    """

    make: Callable[[Key], Cipher]
    blocks: int
    values: int
    scrambles: bool
    shuffles: bool
    inverts: bool
    mapped: bool = True
    per_position: bool = False
    nibbles: bool = False
    dense: bool = False

    @classmethod
    def of(cls, cipher: Cipher) -> KeySpace:
        """The key space of a cipher; its key does not enter."""
        options = {name: getattr(cipher, name) for name in cipher.options}

        def make(key: Key) -> Cipher:
            return type(cipher)(key, cipher.image_size, cipher.block_size, **options)

        form = make(Key(bytes(SECRET_BYTES))).affine_map()
        return cls(
            make,
            cipher.blocks,
            cipher.values if form is None else form.value_permutation.shape[-1],
            cipher.scrambles,
            cipher.shuffles,
            cipher.inverts,
            mapped=form is not None,
            per_position=form is not None and form.per_position,
            nibbles=form is not None and form.nibbles,
            dense=form is not None and form.matrix is not None,
        )

    def __getstate__(self) -> dict[str, Any]:
        # without what is cached: to a cluster keys go as their ids, and the key of the example is in nobody's key ring
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @cached_property
    def example(self) -> Cipher:
        """The cipher under a key that is nobody's, for what is the same under all keys."""
        return self.make(Key(bytes(SECRET_BYTES)))

    @property
    def keyed(self) -> bool:
        """Whether there is any secret at all."""
        return self.example.keyed

    @property
    def top(self) -> int:
        """The largest value: inversion takes v to ``top - v``."""
        return 15 if self.nibbles else 255

    @property
    def inverts_half(self) -> bool:
        """Whether every key inverts exactly half of the values, and not each of them or not."""
        return self.example.uniform

    @cached_property
    def scale(self) -> float:
        """c of a matrix c Q with Q orthogonal; 1 where there is no matrix."""
        form = self.example.affine_map()
        if form is None or form.matrix is None:
            return 1.0
        return float(np.linalg.norm(form.matrix) / len(form.matrix) ** 0.5)

    def own_cipher(self, rng: np.random.Generator) -> Cipher:
        """The cipher under a uniformly random key: what an attacker can make."""
        return self.make(Key(rng.bytes(SECRET_BYTES)))

    def guess(self, rng: np.random.Generator) -> AffineMap:
        """A uniformly random key's map: what an attacker who knows nothing would try; of the identity if unmapped."""
        affine = self.own_cipher(rng).affine_map()
        return affine if affine is not None else AffineMap.identity(self.blocks, self.values)

    @cached_property
    def right_by_chance(self) -> tuple[float, float, float]:
        """How many entries of block permutation, value permutation and signs a guess gets right on average."""
        if self.example.uniform:
            return (1.0, 1.0, self.values / 2)  # one of a permutation whatever its length, half of the signs
        rng = np.random.default_rng(0)
        nothing = AffineMap.identity(self.blocks, self.values)  # the best guess where much stays in place
        agreement = np.zeros((2, 3))
        for _ in range(_GUESSES_OF_CHANCE):
            key = self.guess(rng)
            for row, other in enumerate((self.guess(rng), nothing)):
                for column, part in enumerate(("block_permutation", "value_permutation", "sign")):
                    agreement[row, column] += np.count_nonzero(getattr(key, part) == getattr(other, part))
        return tuple((agreement.max(axis=0) / _GUESSES_OF_CHANCE).tolist())


@dataclass(frozen=True)
class View:
    """All that an attacker holds. Nothing here is derived from the key except ciphertexts and weights.

    Attributes:
        space: the cipher.
        block_size: side of a block in pixels.
        encrypted: the images under attack, ciphertext, (n, H, W, 3) or tokens (n, N, T); never among the others.
        seed: of every random choice of an attack.
        image_size: side H = W of the plain images.
        views: k, pictures of each training image that the trainer holds. Arrays of training images have view 0 of all
            first, then view 1, and so on.
        known_plain, known_encrypted: the pairs that known-plaintext attacks may use, of K images, uint8 (k K, H, W, 3),
            and their ciphertexts.
        known_pairs: how many of these pairs to use, one run each, ascending; the last is at most K.
        pooled: more ciphertexts under the same key, for attacks that have nothing else, k of each image.
        pooled_images: how many of these images to use, one run each, ascending; the last is at most their number.
        public_plain: plain images of the same kind, uint8 (m, H, W, 3), none of which is under attack.
        candidates: plain images, uint8 (c, H, W, 3), among which those under attack lie, in unknown order.
        oracle: encrypts images of the attacker's choice under the secret key: uint8 (n, H, W, 3) to ciphertext.
        public, adapted, finetuned: patch and position embedding of the public checkpoint, normalisation folded in, of
            the model that the trainer receives, and of the one that it gives back, adapters merged; None where the
            model has none.
        training_steps: optimiser steps of attacks that train a network.
    """

    space: KeySpace
    block_size: int
    encrypted: np.ndarray
    seed: int
    image_size: int
    known_plain: np.ndarray | None = None
    known_encrypted: np.ndarray | None = None
    known_pairs: tuple[int, ...] = ()
    pooled: np.ndarray | None = None
    pooled_images: tuple[int, ...] = ()
    public_plain: np.ndarray | None = None
    candidates: np.ndarray | None = None
    oracle: Callable[[np.ndarray], np.ndarray] | None = None
    public: Embedding | None = None
    adapted: Embedding | None = None
    finetuned: Embedding | None = None
    training_steps: int = 300
    views: int = 1

    def amounts(self, images: Iterable[int]) -> Iterator[Amount]:
        """What an attacker may use of so many training images: the first view of each, then all views of them."""
        return (Amount(count, views) for count in images for views in sorted({1, self.views}))

    def part(self, held: np.ndarray, amount: Amount) -> np.ndarray:
        """That amount of ``known_plain``, ``known_encrypted`` or ``pooled``."""
        by_view = held.reshape(self.views, -1, *held.shape[1:])
        return by_view[: amount.views, : amount.images].reshape(-1, *held.shape[1:])

    @property
    def pictures(self) -> np.ndarray:
        """The images under attack as whoever has only the ciphertext sees them: uint8, (n, H, W, 3)."""
        shown = displayable(self.encrypted)
        if shown.shape[1:3] == (self.image_size, self.image_size):
            return shown
        return np.full((len(shown), self.image_size, self.image_size, 3), 127, np.uint8)  # tokens are no picture


@dataclass(frozen=True)
class Finding:
    """What one attack recovered with one kind or amount of knowledge.

    Attributes:
        needs: what the attacker had to hold, for the verdict: "10 images and their ciphertexts".
        images: the first m images under attack as the attacker now sees them, uint8, (m, H, W, 3).
        key: the recovered key, or None where the attack looks for images only.
        variant: goes into the names of results, ``<attack>_<variant>_…``; empty for none.
        headline: this finding also gives the results named ``<attack>_…``; exactly one of an attack's findings does.
        free: what nothing tells the attacker, in words, such as "flips of the whole picture"; images are then scored
            after ``align`` and the key at the best of its ``equivalents``.
        align: (images, plain) to the variant of the images nearest to the plain ones.
        equivalents: all keys that say the same as one.
        trivial: what could be shown without any ciphertext, uint8, (m, H, W, 3), such as a mean image: no attack may
            count as one that does no better.
        placement: intp, (m, N), the ciphertext block put at each cell of each image, for scores of the block order.
        outlines: edges are what the attack is after: their correlation with the true ones is a figure of its own.
        identifies: the images are candidates: the score is the share of them that is the image under attack.
        scores: further figures, name -> value.
        says: a sentence for the verdict, where the usual one does not fit.
        applies: False where the attack could not be made; see :func:`not_attacked`.
        strength: 0 .. 1, where it follows neither from images nor from key.
    """

    needs: str
    images: np.ndarray
    key: AffineMap | None = None
    variant: str = ""
    headline: bool = False
    free: str = ""
    align: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    equivalents: Callable[[AffineMap], Iterable[AffineMap]] | None = None
    trivial: np.ndarray | None = None
    placement: np.ndarray | None = None
    outlines: bool = False
    identifies: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    says: str = ""
    strength: float | None = None
    applies: bool = True


def not_attacked(why: str) -> Finding:
    """What an attack yields that cannot be made on this cipher: no figure, since none was measured.

    Args:
        why: ends the sentence "Not attacked, which is no evidence of safety: ".
    """
    says = f"Not attacked, which is no evidence of safety: {why}"
    return Finding("", np.empty((0, 0, 0, 3), np.uint8), headline=True, says=says, applies=False)


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
    """Decrypt with a recovered key, right or wrong: ``x_{kb[t]}[kp_t] = s_t M^-1 y_t``, values centred.

    Args:
        images: ciphertext, (n, H, W, 3).
        key: any affine map of that geometry.
        block_size: side of a block in pixels.

    Returns:
        uint8, (n, H, W, 3).
    """
    if key.matrix is None:
        return FlatMap.of(key, images.shape[1], block_size).decrypt(images)
    centred = (to_blocks(images, block_size).astype(np.float64) - 127.5) @ np.linalg.inv(key.matrix).T
    plain = np.empty_like(centred)
    plain[:, key.block_permutation[:, None], key.value_permutation] = centred * key.sign
    return from_blocks(np.clip(np.round(plain + 127.5), 0, 255).astype(np.uint8), block_size)


def to_values(images: np.ndarray, block_size: int, space: KeySpace) -> np.ndarray:
    """The values that a cipher moves: (n, H, W, 3) to (n, N, V), bytes or nibbles."""
    return to_blocks(split_nibbles(images) if space.nibbles else images, block_size)


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The orthogonal matrix nearest to ``matrix`` (Procrustes, Schönemann 1966).

    Of ``Y^T X`` it is the Q for which ``Y`` is most like ``X Q^T``; with fewer rows than columns only their span is
    determined, and the rest of Q is arbitrary.
    """
    left, _, right = np.linalg.svd(matrix)
    return np.asarray(left @ right)
