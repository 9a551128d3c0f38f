"""Ciphertext whose values repeat: each is stored once, beside a layout that says where it stands.

An image that `nearest` enlarges by a whole number f has every pixel f x f times. A cipher that moves values, or maps
each of them by itself, the same way in every image, keeps these repeats: at other places, but the same ones in all
images. The layout of them is public: whoever holds some dozens of ciphertexts sees which places always agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import read_bounded
from ppvit.data import npy

if TYPE_CHECKING:  # the trainer, who reads ciphertext, loads no cipher
    from ppvit.ciphers import Cipher

NAME = "layout.npy"
_PROBES = 16  # images of noise: two places that differ in some image agree in all of these by a chance of 2^-128


@dataclass(frozen=True)
class Layout:
    """Where the values of a ciphertext repeat.

    Attributes:
        places: which of the stored values stands at each place of the flattened ciphertext, int32, (V,).
        first: the place where each of them stands first, intp, (U,).
    """

    places: npt.NDArray[np.int32]
    first: npt.NDArray[np.intp]

    @property
    def distinct(self) -> int:
        """Values that are stored of an image, U."""
        return len(self.first)

    def packed(self, ciphertext: np.ndarray, where: str) -> np.ndarray:
        """The values of one image's ciphertext, each once, (U,).

        Raises:
            PpvitError: they do not repeat as the layout says.
        """
        flat = ciphertext.reshape(-1)
        values = flat[self.first]
        if not np.array_equal(values[self.places], flat):
            raise PpvitError(
                f"{where}: its ciphertext does not repeat as that of other images, so it was not enlarged by nearest "
                "by the same whole number; set encrypt.repeated_values=stored"
            )
        return values

    def unpacked(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of :meth:`packed`."""
        return values[self.places].reshape(shape)

    def write(self, folder: Path) -> None:
        """Write it into the folder of a split."""
        with open(folder / NAME, "wb") as file:
            np.lib.format.write_array(file, self.places, version=(1, 0), allow_pickle=False)


def read_layout(folder: Path, distinct: int, values: int) -> Layout:
    """The layout beside shards, checked.

    Args:
        folder: of the split.
        distinct: U, as the manifest says.
        values: V of a ciphertext.

    Raises:
        PpvitError: it is missing, too large, or no layout of such values.
    """
    path = folder / NAME
    try:
        places = npy.array_of(read_bounded(path, 4 * values + 2**16), (values,), np.dtype(np.int32))
    except FileNotFoundError:
        raise PpvitError(f"{path} is missing; run the stage that writes it: dvc repro encrypt") from None
    except ValueError as error:
        raise PpvitError(f"{path}: {error}; make it again: dvc repro --force encrypt") from None
    found, first = np.unique(places, return_index=True)
    if not np.array_equal(found, np.arange(distinct)):
        raise PpvitError(
            f"{path} does not use the {distinct} stored values, each; make it again: dvc repro --force encrypt"
        )
    return Layout(places, first)


def find_layout(cipher: Cipher, sample: np.ndarray, ids: np.ndarray) -> Layout:
    """Where ciphertext of images repeats that are enlarged as these are.

    Args:
        cipher: with its key.
        sample: some of the images, uint8, (n, H, W, 3), from which it is seen by how much they were enlarged.
        ids: of so many images that there is one for each probe, see :meth:`ppvit.ciphers.Cipher.encrypt`.

    Raises:
        UsageError: no value repeats: the images are not enlarged so, or the cipher does not keep it.
    """
    factor = enlargement(sample)
    side = cipher.image_size // factor
    noise = np.random.default_rng(0).integers(0, 256, (_PROBES, side, side, 3), np.uint8)
    ciphertext = cipher.encrypt(noise.repeat(factor, 1).repeat(factor, 2), ids[:_PROBES])
    columns = np.ascontiguousarray(ciphertext.reshape(_PROBES, -1).T)
    _, first, places = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    # numbered as they stand in the ciphertext: by their values in the probes, which anybody can make, the numbers
    # would tell where the plain pixels went
    order = np.argsort(first)
    layout = Layout(np.argsort(order)[places.reshape(-1)].astype(np.int32), first[order])
    if 2 * layout.distinct > len(layout.places):
        why = f"cipher {cipher.name} does not keep repeats" if factor > 1 else "the images are not enlarged"
        raise UsageError(
            f"encrypt.repeated_values once: {why} (encrypt.resize_filter nearest, by a whole number), so that "
            f"{layout.distinct:,} of {len(layout.places):,} values differ; set encrypt.repeated_values=stored"
        )
    return layout


def enlargement(images: np.ndarray) -> int:
    """The largest whole number by which `nearest` may have enlarged all of some square images, (n, S, S, 3)."""
    size = images.shape[1]
    for factor in (number for number in range(size, 1, -1) if size % number == 0):
        small = images[:, ::factor, ::factor]
        if np.array_equal(small.repeat(factor, 1).repeat(factor, 2), images):
            return factor
    return 1
