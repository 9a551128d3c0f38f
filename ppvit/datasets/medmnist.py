"""MedMNIST v2 (Yang et al., Scientific Data 2023): 2D medical images at 28, 64, 128 or 224 pixels, one npz file each.

``<flag>`` is the 28 pixel file, ``<flag>_224`` the large one. The official train and test splits are used,
``val`` is not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ppvit.core.errors import PpvitError
from ppvit.datasets.fetch import fetch, md5_of
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.local import find
from ppvit.datasets.medmnist_info import INFO, SIZES
from ppvit.datasets.npz import rows, shape_and_dtype
from ppvit.datasets.source import (
    DATASETS,
    Request,
    Sample,
    Source,
    array_samples,
    check_classes,
    shard_bytes,
    warn,
)

_URL = "https://zenodo.org/records/10519652/files/{}.npz?download=1"
_MOST_IMAGES = 2**24  # of a split
_NAMES = {f"{flag}_{size}" if size != 28 else flag: (flag, size) for size in SIZES for flag in INFO}

DATASETS.refuse(
    "its images have several labels each", *(f"chestmnist{suffix}" for suffix in ("", "_64", "_128", "_224"))
)
DATASETS.refuse(
    "it holds volumes, not images",
    *(
        f"{organ}mnist3d{suffix}"
        for organ in ("organ", "nodule", "adrenal", "fracture", "vessel", "synapse")
        for suffix in ("", "_64")
    ),
)


@DATASETS.register(*_NAMES)
def open_medmnist(request: Request) -> Source:
    """Medical images of MedMNIST v2, 28 pixels wide or as the name says, with its official train and test images.

    Opened are the user's npz file, else a folder of class folders, else the official download.

    Raises:
        PpvitError: the file is no MedMNIST npz of this data set, or cannot be fetched.
    """
    flag, size = _NAMES[request.name]
    info = INFO[flag]
    if request.path is None:
        path = fetch((_URL.format(request.name),), request.cache / f"{request.name}.npz", info.md5[size])
        official = True
    else:
        own = request.path if request.path.suffix == ".npz" else find(request.path, f"{request.name}.npz")
        if own is None:
            return open_imagefolder(request, expected_classes=len(info.classes))
        path, official = own, md5_of(own) == info.md5[size]
        if not official:
            warn(
                f"{path} differs from the official {request.name}.npz (MD5 {info.md5[size]}); "
                "results may not be comparable"
            )
    return _from_npz(path, list(info.classes), f"{request.name}.npz{'' if official else ', not the official file'}")


def _from_npz(path: Path, classes: list[str], description: str) -> Source:
    labels = {split: _labels(path, split, len(classes)) for split in ("train", "test")}
    check_classes(classes, Counter(labels["train"]), Counter(labels["test"]), str(path))
    size_bytes = sum(shard_bytes(len(labels[split]), _image_bytes(path, split, len(labels[split]))) for split in labels)
    train, test = (
        partial(_samples, path, split, labels[split], f"{path.name} {split}_images") for split in ("train", "test")
    )
    return Source(classes, train, test, description, size_bytes)


def _samples(path: Path, split: str, labels: list[int], origin: str) -> Iterator[Sample]:
    return array_samples(rows(path, f"{split}_images"), labels, origin)


def _labels(path: Path, split: str, classes: int) -> list[int]:
    shape, dtype = shape_and_dtype(path, f"{split}_labels")
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise PpvitError(
            f"{path}: {split}_labels has shape {shape}; only one label an image is supported, shape (n,) or (n, 1)"
        )
    if shape[0] > _MOST_IMAGES:
        raise PpvitError(f"{path}: {split}_labels has {shape[0]:,} labels, more than {_MOST_IMAGES:,}")
    if dtype.kind not in "ui":
        raise PpvitError(f"{path}: {split}_labels is {dtype}; labels must be whole numbers")
    labels = [int(row.reshape(())) for row in rows(path, f"{split}_labels")]
    for number, label in enumerate(labels):
        if not 0 <= label < classes:
            raise PpvitError(
                f"{path}: {split}_labels[{number}] is {label}, expected 0 to {classes - 1}; is this the right file?"
            )
    return labels


def _image_bytes(path: Path, split: str, expected: int) -> int:
    shape, dtype = shape_and_dtype(path, f"{split}_images")
    if dtype != "uint8" or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        raise PpvitError(f"{path}: {split}_images is {dtype} {shape}; expected is uint8 (n, H, W) or (n, H, W, 3)")
    if shape[0] != expected:
        raise PpvitError(f"{path}: {shape[0]} {split}_images but {expected} {split}_labels; copy or download it again")
    return math.prod(shape)
