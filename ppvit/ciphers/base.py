"""What every image cipher offers, and the affine map through which a Vision Transformer can be adapted to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ppvit.ciphers.keys import DEMO_KEY, Key
from ppvit.ciphers.stream import KeyStream
from ppvit.core.errors import UsageError
from ppvit.core.registry import Registry


@dataclass(frozen=True)
class AffineMap:
    """A cipher as seen by one patch position t: ``y_t = M (s_t * x_{kb[t]}[kp_t])``, values centred on their middle.

    That is gather form: ciphertext value j of block t is plain value ``kp[j]`` of block ``kb[t]``, inverted (v to
    255 - v, or 15 - v for nibbles) where ``s[j] = -1``. Values of a block are flattened as C, h, w, the order of a
    convolution's weight. The values are bytes, V = B = 3 * block_size^2 of them, or nibbles, V = 2 B: the high nibbles
    of all three colours, then the low ones.

    Attributes:
        block_permutation: kb, intp, (N,), N = number of blocks in row-major order.
        value_permutation: kp, intp, (V,), or (N, V) where every block position has its own.
        sign: s, int8, +1 or -1, in ciphertext order, of the same shape.
        matrix: M, float64, (V, V), invertible, in ciphertext order; None stands for the identity.
        nibbles: the values are nibbles, not bytes.
    """

    block_permutation: np.ndarray
    value_permutation: np.ndarray
    sign: np.ndarray
    matrix: np.ndarray | None = None
    nibbles: bool = False

    @property
    def per_position(self) -> bool:
        """Whether every block position has value permutation and signs of its own."""
        return self.value_permutation.ndim == 2

    @classmethod
    def identity(cls, blocks: int, values: int) -> AffineMap:
        """The map that changes nothing."""
        return cls(np.arange(blocks), np.arange(values), np.ones(values, np.int8))


Isometry = Literal["values", "length", "none"]

CIPHERS: Registry[type[Cipher]] = Registry("ppvit.ciphers", "cipher.name")
"""All ciphers by name. One more is a file in this folder with a :class:`Cipher` under ``@CIPHERS.register()``."""


class Cipher(ABC):
    """An image cipher with its key in place; pure array maths, no files.

    What attacks and adaptation must know of a cipher stands in its attributes, so that no other code names a cipher.
    All of it is public. A new cipher sets what is true of it; the defaults claim nothing.

    Args:
        key: the secret key; None only for a cipher that needs none.
        image_size: side H = W of the images in pixels.
        block_size: side p of a block in pixels; must divide ``image_size``.
        options: those of ``options``, which are parameters of the section ``cipher`` too.

    Attributes:
        keyed: whether there is a key at all.
        options: parameters beside key and geometry, with their defaults.
        scrambles, shuffles, inverts: what the key chooses, as far as it is that: the order of the blocks, the places of
            the values in a block, the values to be inverted (v to 255 - v).
        uniform: these choices are alike for all blocks and uniform: any order of the blocks, any order of the values of
            a block, any half of the value positions inverted. A guess is then right by a known chance.
        turns_blocks: inside a block the key does one of 96 things to the block as a whole: turns or mirrors it, inverts
            all of it or nothing, reorders its colours.
        keeps_pixels: no value leaves its pixel: the key inverts single values and may reorder the colours of a pixel.
        replaces_values: values at keyed positions of a block, the same in all blocks, go through a secret table of the
            256 values; the others stay as they are.
        published: attacks of the literature that do better than the audit's of the same name: what they reached, in
            percent, and where that stands; for verdicts and tables.
        dtype: of the ciphertext.
        lossless: whether decryption restores every bit; where not, the class says how close it comes.
        invertible: whether there is decryption at all.
        linear: before any rounding, u = x / 127.5 - 1 of an image goes through a linear map: 0 stays 0, a u becomes
            a E(u).
        permutes: values change places and nothing else, so that any function of single values may come before or after.
        keeps_blocks: every block of the ciphertext is made of one block of the image, in a way that depends neither on
            the others nor, but for the key, on the image.

    Raises:
        UsageError: the geometry or an option does not fit.
    """

    name: ClassVar[str]
    keyed: ClassVar[bool] = True
    options: ClassVar[dict[str, Any]] = {}
    scrambles: ClassVar[bool] = False
    shuffles: ClassVar[bool] = False
    inverts: ClassVar[bool] = False
    uniform: ClassVar[bool] = False
    turns_blocks: ClassVar[bool] = False
    keeps_pixels: ClassVar[bool] = False
    replaces_values: ClassVar[bool] = False
    published: ClassVar[Mapping[str, tuple[float, str]]] = {}
    dtype: np.dtype = np.dtype(np.uint8)
    lossless: bool = True
    invertible: ClassVar[bool] = True
    linear: bool = False
    permutes: bool = False
    keeps_blocks: bool = False

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        if image_size % block_size:
            raise UsageError(
                f"cipher.block_size {block_size} does not divide dataset.image_size {image_size}; choose a divisor"
            )
        self.image_size = image_size
        self.block_size = block_size
        self.blocks = (image_size // block_size) ** 2
        self.values = 3 * block_size**2
        self._key = key
        for name, default in self.options.items():
            setattr(self, name, options.pop(name, default))
        if options:
            raise UsageError(f"cipher '{self.name}' has no option {', '.join(options)}; it has {list(self.options)}")

    def __reduce__(self) -> tuple[Any, ...]:
        # to other processes the key goes alone and through a pipe: joblib puts large arrays on disk, and those here
        # are derived from the key
        options = {name: getattr(self, name) for name in self.options}
        return _made_again, (type(self), self._key, self.image_size, self.block_size, options)

    @property
    def settings(self) -> dict[str, Any]:
        """The public settings, which manifests record: they and the key id say all that must match."""
        return {"name": self.name, "block_size": self.block_size} | {name: getattr(self, name) for name in self.options}

    @property
    def key_id(self) -> str | None:
        """Id of the key, which is public; None without one."""
        return self._key.id if self.keyed and self._key else None

    @property
    def record(self) -> dict[str, Any]:
        """What manifests and models say of the cipher; nothing here is secret.

        ``isometry``, and the options with which there would be one, are there because the trainer, who has no cipher,
        must know whether an epsilon in grey levels means anything on ciphertext.
        """
        keeps = self.isometry(self.settings)
        others = {name: default for name, default in self.options.items() if getattr(self, name) != default}
        possible = keeps == "none" and self.isometry({**self.settings, **others}) != "none"
        return {
            "cipher": self.settings,
            "key_id": self.key_id,
            "demo_key": self.key_id == DEMO_KEY.id,
            "image_size": self.image_size,
            "isometry": keeps,
            "isometry_options": others if possible else {},
        }

    @property
    def facts(self) -> dict[str, bool]:
        """What manifests say beside :attr:`record`, so that the trainer, who has no cipher, knows what he may do to
        ciphertext in place of the image; see :mod:`ppvit.training.augmentation`."""
        return {
            "linear": self.linear,
            "permutes": self.permutes,
            "keeps_blocks": self.keeps_blocks,
            "one_key": not self.image_keys,
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's ciphertext: (H, W, 3), except where a cipher makes no image."""
        return (self.image_size, self.image_size, 3)

    @property
    def makes_tokens(self) -> bool:
        """Whether the ciphertext of an image is N vectors, (N, T), and no picture."""
        return len(self.shape) == 2

    @property
    def image_keys(self) -> bool:
        """Whether every image is encrypted under a sub-key of its own."""
        return False

    @classmethod
    def isometry(cls, settings: Mapping[str, Any]) -> Isometry:
        """Which distances between two images their ciphertexts keep; a trainer knows this without the key.

        Args:
            settings: the public ones, as manifests record them.

        Returns:
            ``values``: values only change places or become 255 - v, so that every norm and the range 0..255 stay;
            ``length``: Euclidean distances stay, as under a rotation, but neither other norms nor the range;
            ``none``: neither, or nothing is known.
        """
        return "none"

    @property
    @abstractmethod
    def key_space_bits(self) -> float:
        """log2 of the number of different encryptions that keys of any length could choose.

        What is really used of it is at most 256 bits, the length of a key, from which everything is derived.
        """

    @abstractmethod
    def encrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """Encrypt a batch.

        Args:
            images: uint8, (n, H, W, 3).
            ids: int64, (n,), a number for each image that no other image has, for ciphers with a key for every image;
                the others ignore it.

        Returns:
            Ciphertext, ``dtype``, (n, *shape).

        Raises:
            UsageError: images of another shape or dtype, or ids missing.
        """

    def encrypt_exactly(self, images: np.ndarray) -> np.ndarray:
        """Ciphertext before it is rounded to ``dtype``, which is what the affine map describes; see :meth:`encrypt`."""
        return self.encrypt(images)

    @abstractmethod
    def decrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """Invert :meth:`encrypt`, bit exact where ``lossless``; ciphertext and the same ids, to uint8 (n, H, W, 3)."""

    def affine_map(self) -> AffineMap | None:
        """The map that makes exact adaptation possible, or None where no map holds for all images."""
        return None

    def image_map(self, number: int) -> AffineMap | None:
        """The map of the image with that id: :meth:`affine_map`, unless every image has a key of its own."""
        return self.affine_map()

    def _stream(self, *step: str | int) -> KeyStream:
        if self._key is None:
            raise UsageError(f"cipher '{self.name}' needs a key")
        return KeyStream(self._key, (self.name, *step, self.block_size, self.image_size))

    def _check(self, images: np.ndarray, dtype: Any = np.uint8) -> None:
        expected = (self.image_size, self.image_size, 3)
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != dtype:
            raise UsageError(
                f"cipher '{self.name}' expects {np.dtype(dtype)} images of shape (n, {', '.join(map(str, expected))}), "
                f"got {images.dtype} {images.shape}"
            )

    def _check_ids(self, images: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
        if ids is None or len(ids) != len(images):
            raise UsageError(f"cipher '{self.name}' has a key for every image, so it needs one id for each")
        return np.asarray(ids, np.int64)


def _made_again(
    kind: type[Cipher], key: Key | None, image_size: int, block_size: int, options: dict[str, Any]
) -> Cipher:
    return kind(key, image_size, block_size, **options)
