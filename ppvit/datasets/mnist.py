"""MNIST (LeCun et al. 1998): 60,000 + 10,000 grey images of 28 x 28 pixels, in four idx files."""

from __future__ import annotations

import gzip
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.datasets.fetch import fetch
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.local import find
from ppvit.datasets.source import DATASETS, Request, Source, array_samples, shard_bytes

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
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise PpvitError(f"{path} is damaged ({error}); copy or download it again") from None
    start = 4 + 4 * dimensions
    is_idx = len(data) >= start and data[:4] == bytes((0, 0, 8, dimensions))
    shape = tuple(int(side) for side in np.frombuffer(data[4:start], ">u4")) if is_idx else ()
    if not is_idx or len(data) != start + math.prod(shape):
        raise PpvitError(f"{path} is no whole idx file of {dimensions}-dimensional uint8; copy or download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
