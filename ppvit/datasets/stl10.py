"""STL-10 (Coates et al. 2011): 5,000 + 8,000 colour images of 96 x 96 pixels; its unlabelled images are not used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ppvit.core.reading import read_bounded
from ppvit.data.tar_index import IMAGE_BYTES
from ppvit.datasets.fetch import fetch, verified
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.local import find
from ppvit.datasets.source import DATASETS, Request, Sample, Source, array_samples, note, shard_bytes
from ppvit.datasets.trees import tar_entries

_CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
_FILES = {split: (f"{split}_X.bin", f"{split}_y.bin") for split in ("train", "test")}


@DATASETS.register("stl10")
def open_stl10(request: Request) -> Source:
    """Photographs (Coates et al. 2011): 5,000 + 8,000 colour images of 96 px, 10 classes, licence not stated.

    Opened are the user's official archive or what it unpacks to, else a folder of class folders, else the download.

    Raises:
        PpvitError: a file is missing or not the official one, or cannot be fetched.
    """
    from torchvision.datasets import STL10  # knows address and checksums; imports torch

    if request.path is None:
        read = partial(_from_archive, fetch((STL10.url,), request.cache / STL10.filename, STL10.tgz_md5))
    elif (folder := _unpacked(request.path, STL10.base_folder)) is not None:
        md5s = dict([*STL10.train_list, *STL10.test_list])
        for name in (name for names in _FILES.values() for name in names):
            verified(folder / name, md5s[name])
        read = partial(_from_folder, folder)
    elif (archive := find(request.path, STL10.filename)) is not None:
        read = partial(_from_archive, verified(archive, STL10.tgz_md5))
    else:
        return open_imagefolder(request, expected_classes=len(_CLASSES))
    note("the 100,000 unlabelled images of stl10 are not used")
    train, test = (partial(_samples, read, split) for split in _FILES)
    return Source(_CLASSES, train, test, "STL-10, official files", shard_bytes(13_000, 13_000 * 96 * 96 * 3))


vars(open_stl10)["brings_val"] = False


def _unpacked(path: Path, base_folder: str) -> Path | None:
    folders = (path, path / base_folder)
    return next((folder for folder in folders if (folder / _FILES["train"][0]).is_file()), None)


def _from_folder(folder: Path, names: tuple[str, str]) -> list[bytes]:
    return [read_bounded(folder / name, IMAGE_BYTES) for name in names]


def _from_archive(archive: Path, names: tuple[str, str]) -> list[bytes]:
    found: dict[str, bytes] = {}
    for entry in tar_entries(archive):  # verified, so the members are there
        if entry.parts[-1] in names:
            found[entry.parts[-1]] = entry.read()
        if len(found) == len(names):  # before the 2.8 GB without labels
            break
    return [found[name] for name in names]


def _samples(read: Callable[[tuple[str, str]], list[bytes]], split: str) -> Iterator[Sample]:
    images, labels = read(_FILES[split])
    # every image is red, green, blue, each column by column
    pixels = np.frombuffer(images, np.uint8).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # (n, 96, 96, 3)
    yield from array_samples(pixels, (np.frombuffer(labels, np.uint8) - 1).tolist(), f"STL-10 {split}")
