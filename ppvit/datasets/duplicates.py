"""Images that occur more than once: with the very same pixels, or looking alike, above all in test and in training.

The same pixels: 64 bits of BLAKE2b over decoded pixels, so that the same picture in two files, of two formats without
loss, or with other metadata counts. Among a million images two that differ agree with a probability of 3e-8.

Looking alike: the perceptual hash of ImageHash (``imagehash.phash``, 16 x 16 frequencies of the cosine transform, 256
bits) differs in at most ``NEAR_BITS``. docs/own_data.md has what that finds and what it finds by mistake.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ppvit.data.decoded import finite_extremes

NEAR_BITS = 32  # of 256, at most, in which the perceptual hashes of pictures that look alike differ
_SIDE = 16  # frequencies in each direction
_WORDS = _SIDE**2 // 64
_FLAT = 8  # grey levels; where a picture has less contrast its hash is of noise
_ROWS, _TILE = 64, 8192  # hashes that are compared at once: their bits stay in the processor's cache


def pixel_hash(values: npt.NDArray[Any]) -> int:
    """64 bits of the decoded pixels, their shape and type."""
    digest = hashlib.blake2b(f"{values.dtype.str} {values.shape}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(values).data)
    return int.from_bytes(digest.digest(), "little")


def look(values: npt.NDArray[Any]) -> bytes:
    """The perceptual hash of a picture, 32 bytes; none where it is all of one grey.

    Args:
        values: uint8, (H, W, 3), or values of any range, (H, W) or (H, W, 3), which are brought to 0..255.
    """
    import imagehash

    if values.dtype != np.uint8:
        low, high = finite_extremes(values)
        values = ((np.clip(values, low, high) - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    grey = Image.fromarray(values).convert("L")
    darkest, brightest = grey.getextrema()
    if brightest - darkest < _FLAT:  # type: ignore[operator]  # of one band
        return b""
    return np.packbits(imagehash.phash(grey, hash_size=_SIDE).hash).tobytes()


class Prints:
    """What is kept of the images of one split, in their order: about 50 bytes each, and the names of their files."""

    def __init__(self) -> None:
        self._pixels, self._labels, self._ends = array("Q"), array("q"), array("Q", [0])
        self._looks, self._names = bytearray(), bytearray()

    def __len__(self) -> int:
        return len(self._pixels)

    def add(self, pixels: int, looks: bytes, label: int, name: str) -> None:
        """Enter one more.

        Args:
            pixels: see :func:`pixel_hash`.
            looks: see :func:`look`.
            label: any number that stands for its label.
            name: of its file.
        """
        self._pixels.append(pixels)
        self._looks += looks or bytes(8 * _WORDS)
        self._labels.append(label)
        self._names += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._names))

    def pixels(self, start: int = 0) -> npt.NDArray[np.uint64]:
        """From one on: (n - start,)."""
        return np.array(self._pixels[start:], np.uint64)

    def looks(self, start: int = 0) -> npt.NDArray[np.uint64]:
        """From one on: (n - start, 4); zeros where there is none."""
        return np.frombuffer(bytes(self._looks[8 * _WORDS * start :]), np.uint64).reshape(-1, _WORDS)

    def labels(self) -> npt.NDArray[np.int64]:
        """(n,)"""
        return np.array(self._labels, np.int64)

    def label(self, index: int) -> int:
        """What stands for its label."""
        return self._labels[index]

    def name(self, index: int) -> str:
        """The name of its file."""
        return self._names[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Twin:
    """An earlier image that another one repeats: its number, and the bits in which they look different.

    None stands for the same pixels; pictures whose pixels differ may well look the same to the last bit.
    """

    index: int
    bits: int | None


class Known:
    """Images of earlier splits, among which those of a later one are looked for.

    Args:
        pixels: uint64, (n,).
        looks: uint64, (n, 4); zeros where there is none.
    """

    def __init__(self, pixels: npt.NDArray[np.uint64], looks: npt.NDArray[np.uint64]) -> None:
        self._order = np.argsort(pixels, kind="stable")
        self._pixels = pixels[self._order]
        self._seen = np.flatnonzero(looks.any(axis=1))
        self._looks = looks[self._seen]

    def twins(self, pixels: npt.NDArray[np.uint64], looks: npt.NDArray[np.uint64]) -> list[Twin | None]:
        """The first image with the same pixels as each of these, or else the one that looks most like it.

        Args:
            pixels: uint64, (m,).
            looks: uint64, (m, 4).
        """
        found: list[Twin | None] = [None] * len(pixels)
        if not len(self._pixels):
            return found
        place = np.minimum(np.searchsorted(self._pixels, pixels), len(self._pixels) - 1)
        same = self._pixels[place] == pixels
        for row in np.flatnonzero(same):
            found[row] = Twin(int(self._order[place[row]]), None)
        rows = np.flatnonzero(~same & looks.any(axis=1))
        index, bits = nearest(looks[rows], self._looks)
        for row, other, differ in zip(rows, index, bits, strict=True):
            if other >= 0:
                found[row] = Twin(int(self._seen[other]), int(differ))
        return found


def nearest(
    queries: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64], most: int = NEAR_BITS
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each hash the nearest of others, by the number of bits in which they differ.

    All are compared, 4e8 pairs a second: of 256 bits no part is so likely to be equal in near ones that an index would
    spare much.

    Args:
        queries: uint64, (m, 4).
        known: uint64, (n, 4).
        most: bits in which they may differ.

    Returns:
        Its index, the first of equally near ones, or -1 where none is within ``most``; and the bits, more than
        ``most`` there; int64, (m,).
    """
    best = np.full(len(queries), (most + 1) * len(known), np.int64)  # bits * n + index: fewer bits first, then order
    for row in range(0, len(queries), _ROWS):
        for start in range(0, len(known), _TILE):
            batch, tile = queries[row : row + _ROWS], known[start : start + _TILE]
            half = np.bitwise_count(batch[:, None, 0] ^ tile[:, 0]) + np.bitwise_count(batch[:, None, 1] ^ tile[:, 1])
            rows, columns = np.nonzero(half <= most)
            rest = np.bitwise_count(batch[rows, 2:] ^ tile[columns, 2:]).sum(axis=1, dtype=np.int64)
            np.minimum.at(best, row + rows, (half[rows, columns] + rest) * len(known) + start + columns)
    bits = best // max(1, len(known))
    return np.where(bits <= most, best % max(1, len(known)), -1), bits


@dataclass(frozen=True)
class Repeats:
    """Exact repetitions among images in a row.

    Attributes:
        first: the number of the first image with the same pixels as each, int64, (n,).
        two_labels: whether these pixels occur under another label too, bool, (n,).
    """

    first: npt.NDArray[np.int64]
    two_labels: npt.NDArray[np.bool_]


def repeats(pixels: npt.NDArray[np.uint64], labels: npt.NDArray[np.int64]) -> Repeats:
    """Find them: uint64, (n,), see :func:`pixel_hash`, and int64, (n,)."""
    _, first, group = np.unique(pixels, return_index=True, return_inverse=True)
    differ = labels != labels[first][group]
    mixed = np.zeros(len(first), bool)
    mixed[group[differ]] = True
    return Repeats(first[group], mixed[group])
