"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32 x 32 pixels."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.core.reading import read_bounded
from ppvit.datasets.fetch import fetch, verified
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.local import find
from ppvit.datasets.source import Request, Sample, Source, array_samples, enter, shard_bytes

_FILES = {  # archive, and the folder inside
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python"),
}
_FILE_BYTES = 2**28  # of an official file; the largest has 148 MiB
_SIZE_BYTES = shard_bytes(60_000, 60_000 * 32 * 32 * 3)


def open_cifar(request: Request) -> Source:
    """Open the user's official archive or what it unpacks to, else a folder of class folders, else the download.

    The official files are pickles, so they are read only if their MD5 is the one that torchvision knows.

    Raises:
        PpvitError: a file is not the official one, or cannot be fetched.
    """
    archive_name, folder_name = _FILES[request.name]
    if request.path is None:
        official = _official(request.name)
        fetched = fetch((official.url,), request.cache / archive_name, official.tgz_md5)
        return _source(official, partial(_extract, fetched, folder_name))
    folder, archive = find(request.path, folder_name), find(request.path, archive_name)
    if folder is not None and folder.is_dir():
        return _source(_official(request.name), partial(_read, folder))
    if archive is None:
        return open_imagefolder(request, expected_classes=int(request.name.removeprefix("cifar")))
    official = _official(request.name)
    verified(archive, official.tgz_md5)
    return _source(official, partial(_extract, archive, folder_name))


def _official(name: str) -> Any:
    from torchvision.datasets import CIFAR10, CIFAR100  # knows addresses and checksums; imports torch

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]


def _source(official: Any, read: Callable[[str], bytes]) -> Source:
    classes = _unpickle(read(official.meta["filename"]), official.meta["md5"], official.meta["filename"])[
        official.meta["key"]
    ]
    train, test = (partial(_samples, files, read) for files in (official.train_list, official.test_list))
    return Source(classes, train, test, official.filename, _SIZE_BYTES)


def _samples(files: list[list[str]], read: Callable[[str], bytes]) -> Iterator[Sample]:
    for name, md5 in files:
        batch = _unpickle(read(name), md5, name)
        images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (n, 32, 32, 3)
        yield from array_samples(images, batch.get("labels") or batch["fine_labels"], name)


def _unpickle(data: bytes, md5: str, name: str) -> dict[str, Any]:
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise PpvitError(
            f"{name} is not the official CIFAR file (MD5 {md5}) and was not read; copy or download it again"
        )
    found: dict[str, Any] = pickle.loads(data, encoding="latin1")
    return found


def _read(folder: Path, name: str) -> bytes:
    try:
        return read_bounded(folder / name, _FILE_BYTES)
    except OSError as error:
        raise PpvitError(
            f"{folder / name} cannot be read ({error.strerror}); unpack the official archive again"
        ) from None


def _extract(archive: Path, folder_name: str, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"{folder_name}/{name}")
        return file.read() if file else b""  # the archive is verified by its MD5, so the member is there


for _name in _FILES:
    _classes = _name.removeprefix("cifar")
    enter(
        _name,
        open_cifar,
        f"Photographs (Krizhevsky 2009): 50,000 + 10,000 colour images, 32 px, {_classes} classes, licence not stated.",
        brings_val=False,
    )
