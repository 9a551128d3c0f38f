"""Data sets in idx files (LeCun et al. 1998): a file of images and one of labels for each split.

torchvision's readers are not used: they want the files unpacked, and believe what a header says of its size.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.core.reading import open_regular
from ppvit.datasets.fetch import md5_of
from ppvit.datasets.local import find
from ppvit.datasets.source import Source, array_samples, check_classes, note, shard_bytes, warn
from ppvit.datasets.trees import entries

_FILE_BYTES = 2**30  # of an idx file, unpacked; those of MNIST have 45 MiB at most, of EMNIST 522 MiB

Reader = Callable[[str, int], np.ndarray]
"""gives the array of an idx file by the file's name, and the number of dimensions it must have"""


@dataclass(frozen=True)
class Idx:
    """A data set in idx files.

    Attributes:
        read: reads one file.
        names: images and labels of each split.
        classes: names in order of label number.
        first_label: the number of the first class.
        transposed: whether the files hold every image with rows and columns exchanged.
    """

    read: Reader
    names: dict[str, tuple[str, str]]
    classes: list[str]
    first_label: int = 0
    transposed: bool = False

    def source(self, where: str, description: str) -> Source:
        """Read all files.

        Raises:
            PpvitError: naming ``where``; a file is missing, damaged or of another kind, or one does not fit the other.
        """
        splits = {split: self._arrays(split, where) for split in ("train", "test")}
        counts = [dict(enumerate(np.bincount(labels).tolist())) for _, labels in splits.values()]
        check_classes(self.classes, counts[0], counts[1], where)
        origin = description.split(" idx")[0]
        train, test = (partial(array_samples, *splits[split], f"{origin} {split}") for split in splits)
        size_bytes = sum(shard_bytes(len(images), images.nbytes) for images, _ in splits.values())
        return Source(self.classes, train, test, description, size_bytes)

    def _arrays(self, split: str, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Images, uint8 (n, H, W), and class numbers, uint8 (n,)."""
        images, labels = (self.read(name, dims) for name, dims in zip(self.names[split], (3, 1), strict=True))
        numbers = labels - np.uint8(self.first_label)  # one below the first becomes 255
        if len(images) != len(numbers) or numbers.max(initial=0) >= len(self.classes) or not len(numbers):
            raise PpvitError(
                f"{where}: the {split} files hold {len(images)} images and {len(labels)} labels that do not fit; "
                "copy them again"
            )
        return images.swapaxes(1, 2) if self.transposed else images, numbers


def folder_of(path: Path, kind: str, name: str) -> Path | None:
    """Where the files lie: at the path, or where torchvision or the archive puts them below it."""
    places = (path, path / "raw", path / kind / "raw", path / "gzip")
    return next((place for place in places if place.is_dir() and _find(place, name)), None)


def from_folder(folder: Path, name: str, dimensions: int) -> np.ndarray:
    path = _find(folder, name)
    if path is None:
        raise PpvitError(f"{folder}/{name}.gz is missing; put all four files there")
    with open_regular(path) as file:
        return _idx(file, path.suffix == ".gz", dimensions, str(path))


def from_zip(archive: Path, name: str, dimensions: int) -> np.ndarray:
    for entry in entries(archive):
        if entry.parts[-1] == f"{name}.gz":
            return _idx(io.BytesIO(entry.read()), True, dimensions, f"{archive}: {entry.name}")
    raise PpvitError(f"{archive} has no {name}.gz; copy or download it again")


def compared(folder: Path, md5s: dict[str, str | None]) -> str:
    """What the files are to be called: those of published checksums are compared with them, by packed name."""
    paths = {name: path for name in md5s if (path := _find(folder, name.removesuffix(".gz")))}
    other = [path for name, path in paths.items() if path.suffix == ".gz" and md5s[name] not in (None, md5_of(path))]
    if other:
        warn(f"{other[0]} differs from the official file; results may not be comparable")
        return "idx files, not the official ones"
    if any(path.suffix != ".gz" or md5s[name] is None for name, path in paths.items()):
        note(f"{folder}: no checksum is published of the unpacked files; they are taken as they are")
    return "idx files"


def _find(folder: Path, name: str) -> Path | None:
    return find(folder, name, f"{name}.gz")


def _idx(file: IO[bytes], packed: bool, dimensions: int, where: str) -> np.ndarray:
    """An idx file: 0x0000, type 0x08 (uint8), number of dimensions, their sizes as big-endian uint32, the values."""
    try:
        with gzip.open(file) if packed else file as whole:
            start = whole.read(4 + 4 * dimensions)
            shape = struct.unpack(f">{dimensions}I", start[4:]) if len(start) == 4 + 4 * dimensions else ()
            size = math.prod(shape)
            # one byte more than it should have shows that there is more; nothing is read of a file that says too much
            data = whole.read(size + 1) if size <= _FILE_BYTES else b""
    except (OSError, EOFError, zlib.error) as error:
        raise PpvitError(f"{where} is damaged ({error}); copy or download it again") from None
    if start[:4] != bytes((0, 0, 8, dimensions)) or len(data) != size:
        raise PpvitError(f"{where} is no whole idx file of {dimensions}-dimensional uint8; copy or download it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
