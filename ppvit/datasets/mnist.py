"""MNIST (LeCun et al. 1998): 60,000 + 10,000 grey images of 28 x 28 pixels, in four idx files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.core.reading import open_regular
from ppvit.datasets.fetch import fetch
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.local import find
from ppvit.datasets.source import DATASETS, Request, Source, array_samples, shard_bytes

_FILE_BYTES = 2**30  # of an idx file, unpacked; those of MNIST have 45 MiB at most, of EMNIST 522 MiB
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@DATASETS.register("mnist")
def open_mnist(request: Request) -> Source:
    """70,000 handwritten digits, grey, 28 x 28 pixels (LeCun et al. 1998).

    Opened are the user's four official files, else a folder of class folders, else the download.

    Raises:
        PpvitError: a file is missing, damaged or of another kind, or cannot be fetched.
    """
    if request.path is None:
        from torchvision.datasets import MNIST  # imports torch; only the download needs it

        for name, md5 in MNIST.resources:
            fetch(tuple(mirror + name for mirror in MNIST.mirrors), request.cache / "mnist" / name, md5)
        folder = request.cache / "mnist"
    else:
        places = (
            request.path,
            request.path / "raw",
            request.path / "MNIST" / "raw",
        )  # the latter two as torchvision makes them
        found = next((place for place in places if place.is_dir() and _find(place, _FILES["train"][0])), None)
        if found is None:
            return open_imagefolder(request, expected_classes=10)
        folder = found
    splits = {split: (_read(folder, images, 3), _read(folder, labels, 1)) for split, (images, labels) in _FILES.items()}
    for split, (images, labels) in splits.items():
        if len(images) != len(labels) or labels.max(initial=0) > 9 or not len(labels):
            raise PpvitError(
                f"{folder}: the {split} files hold {len(images)} images and {len(labels)} labels that do not fit; "
                "copy them again"
            )
    train, test = (partial(array_samples, *splits[split], f"mnist {split}") for split in ("train", "test"))
    size_bytes = sum(shard_bytes(len(images), images.nbytes) for images, _ in splits.values())
    return Source([str(digit) for digit in range(10)], train, test, "MNIST idx files", size_bytes)


def _find(folder: Path, name: str) -> Path | None:
    return find(folder, name, f"{name}.gz")


def _read(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """An idx file: 0x0000, type 0x08 (uint8), number of dimensions, their sizes as big-endian uint32, the values."""
    path = _find(folder, name)
    if path is None:
        raise PpvitError(f"{folder}/{name}.gz is missing; put all four MNIST files there")
    try:
        with open_regular(path) as packed, gzip.open(packed) if path.suffix == ".gz" else packed as file:
            start = file.read(4 + 4 * dimensions)
            shape = struct.unpack(f">{dimensions}I", start[4:]) if len(start) == 4 + 4 * dimensions else ()
            size = math.prod(shape)
            # one byte more than it should have shows that there is more; nothing is read of a file that says too much
            data = file.read(size + 1) if size <= _FILE_BYTES else b""
    except (OSError, EOFError, zlib.error) as error:
        raise PpvitError(f"{path} is damaged ({error}); copy or download it again") from None
    if start[:4] != bytes((0, 0, 8, dimensions)) or len(data) != size:
        raise PpvitError(f"{path} is no whole idx file of {dimensions}-dimensional uint8; copy or download it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
