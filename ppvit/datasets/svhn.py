"""SVHN (Netzer et al. 2011) and USPS (Hull 1994), which torchvision reads once their checksums are verified."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.datasets.fetch import fetch, verified
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.local import find
from ppvit.datasets.source import Request, Sample, Source, array_samples, enter, note, shard_bytes

_OFFICIAL = {"svhn": "SVHN", "usps": "USPS"}
_IMAGE_BYTES = {"svhn": 32 * 32 * 3, "usps": 16 * 16}
_IMAGES = {"svhn": 73_257 + 26_032, "usps": 7_291 + 2_007}


def open_digits_of_numbers(request: Request) -> Source:
    """Open the user's two official files, else a folder of class folders, else the download.

    Raises:
        PpvitError: a file is missing or not the official one, or cannot be fetched.
    """
    import torchvision.datasets  # knows addresses, checksums and formats; imports torch

    official = getattr(torchvision.datasets, _OFFICIAL[request.name])
    files = {split: official.split_list[split] for split in ("train", "test")}
    if request.path is None:
        folder = request.cache / request.name
        for url, name, md5 in files.values():
            fetch((url,), folder / name, md5)
    else:
        names = [name for _, name, _ in files.values()]
        found = find(request.path, *names)
        if found is None:
            return open_imagefolder(request, expected_classes=10)
        folder = found.parent
        for _, name, md5 in files.values():
            verified(folder / name, md5)
    if request.name == "svhn":
        note("the extra training images of svhn (extra_32x32.mat) are not used")
    read = partial(_samples, official, folder)
    size_bytes = shard_bytes(_IMAGES[request.name], _IMAGES[request.name] * _IMAGE_BYTES[request.name])
    digits = [str(digit) for digit in range(10)]
    described = f"{_OFFICIAL[request.name]}, official files"
    return Source(digits, partial(read, "train"), partial(read, "test"), described, size_bytes)


def _samples(official: Any, folder: Path, split: str) -> Iterator[Sample]:
    if official.__name__ == "SVHN":
        found = official(str(folder), split=split)  # compares the checksum once more
        images, labels = found.data.transpose(0, 2, 3, 1), found.labels  # (n, 32, 32, 3)
    else:
        found = official(str(folder), train=split == "train")
        images, labels = found.data, found.targets  # (n, 16, 16)
    yield from array_samples(np.ascontiguousarray(images), labels, f"{official.__name__} {split}")


enter(
    "svhn",
    open_digits_of_numbers,
    "House numbers (Netzer et al. 2011): 73,257 + 26,032 colour images of 32 px, 10 classes, non-commercial use only.",
    brings_val=False,
)
enter(
    "usps",
    open_digits_of_numbers,
    "Digits of postal codes (Hull 1994): 7,291 + 2,007 grey images of 16 px, 10 classes; licence not stated.",
    brings_val=False,
)
