"""WebDataset shards of plain images: ``train-*.tar`` and ``test-*.tar``, or tars without a test split.

A sample is an image and a ``.cls`` member with its class number, under one name. Text beside them (``.txt``, ``.json``)
is not read, and anything else, such as a pickle, makes the whole shard refused. ``classes.txt`` beside the shards names
the classes, one a line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import read_bounded
from ppvit.data.decoding import IMAGE_EXTENSIONS
from ppvit.datasets.holdout import HoldOut
from ppvit.datasets.source import (
    DATASETS,
    Request,
    Sample,
    Source,
    check_classes,
    check_header,
    shard_bytes,
    warn,
)
from ppvit.datasets.trees import Entry, tar_entries

_TEXT = ("txt", "json")
_NAMES_BYTES = 2**24  # of classes.txt
_SHARD = re.compile(r".*\.(tar|tar\.gz|tgz)")
_SPLIT = re.compile(r"(?:.*[-_.])?(train|test|val|valid|validation)[-_.].*")


@DATASETS.register("webdataset")
def open_webdataset(request: Request) -> Source:
    """Your own images as WebDataset shards: a tar, or a folder of train-*.tar and test-*.tar.

    Raises:
        UsageError: there is no path.
        PpvitError: no shards, a damaged shard, a member that is refused, or a sample without image or class number.
    """
    if request.path is None:
        raise UsageError(
            "dataset.name=webdataset needs shards: set dataset.path to a tar, or a folder of train-*.tar and test-*.tar"
        )
    shards = _shards(request.path)
    scans = {split: _scan(of_split) for split, of_split in shards.items()}
    if "" in shards:
        held_out = HoldOut(_class_and_name(shards[""]), request.test_fraction, request.seed, str(request.path))
        counts = [
            Counter({int(k): n for k, n in split.items()}) for split in (held_out.train_counts, held_out.test_counts)
        ]
        train, test = (partial(_samples, shards[""], held_out, is_test) for is_test in (False, True))
    else:
        counts = [scans["train"][0], scans["test"][0]]
        train, test = (partial(_samples, shards[split]) for split in ("train", "test"))
    used = max(max(split, default=0) for split in counts) + 1
    if used > (samples := sum(images.total() for images, _ in scans.values())):
        raise PpvitError(
            f"{request.path}: class {used - 1} is the highest of {samples} samples; number the classes from 0 without "
            "gaps"
        )
    classes = _class_names(request.path, used)
    check_classes(classes, counts[0], counts[1], where=str(request.path))
    size_bytes = sum(shard_bytes(images.total(), size) for images, size in scans.values())
    return Source(classes, train, test, request.path.name, size_bytes)


def _shards(path: Path) -> dict[str, list[Path]]:
    """Shards by split; a single split "" if the names tell none."""
    paths = [path] if path.is_file() else sorted(path.glob("*.t*"))
    shards: dict[str, list[Path]] = {}
    for shard in paths:
        if _SHARD.fullmatch(shard.name):
            match = _SPLIT.fullmatch(shard.name) if path.is_dir() else None
            shards.setdefault(match[1] if match else "", []).append(shard)
    if not shards:
        raise PpvitError(f"{path} holds no shards; expected are files such as train-000000.tar and test-000000.tar")
    test = next((split for split in ("test", "val", "valid", "validation") if split in shards), None)
    if test is None:
        return {"": sorted(shard for of_split in shards.values() for shard in of_split)}
    if "train" not in shards:
        raise PpvitError(f"{path} holds {test} shards but no train shards; add train-*.tar")
    unused = [shard.name for split in shards if split not in ("train", test) for shard in shards[split]]
    if unused:
        warn(
            f"{path}: {len(unused)} shards belong neither to train nor to {test} and were ignored, such as {unused[0]}"
        )
    return {"train": shards["train"], "test": shards[test]}


def _class_and_name(shards: list[Path]) -> Iterator[tuple[str, str]]:
    for shard in shards:
        for key, label, _ in _grouped(shard):
            yield str(label), f"{shard.name}/{key}"


def _scan(shards: list[Path]) -> tuple[Counter[int], int]:
    """Images per class number and bytes of all images."""
    counts: Counter[int] = Counter()
    size_bytes = 0
    for shard in shards:
        for _, label, image in _grouped(shard):
            counts[label] += 1
            size_bytes += image[1]
    return counts, size_bytes


def _class_names(path: Path, count: int) -> list[str]:
    file = (path if path.is_dir() else path.parent) / "classes.txt"
    if not file.is_file():
        return [str(label) for label in range(count)]
    try:
        classes = read_bounded(file, _NAMES_BYTES).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise PpvitError(f"{file} is not in UTF-8 ({error}); save it as such") from None
    classes = [name.strip() for name in classes if name.strip()]
    if len(classes) < count:
        raise PpvitError(f"{file} names {len(classes)} classes, the shards use {count}; add the missing lines")
    return classes


def _samples(shards: list[Path], held_out: HoldOut | None = None, is_test: bool = False) -> Iterator[Sample]:
    for shard in shards:
        for key, label, (name, _, data) in _grouped(shard, with_images=True):
            if held_out is None or held_out.is_test(str(label), f"{shard.name}/{key}") == is_test:
                where = f"{shard.name}: {name}"
                check_header(data, where)
                yield Sample(data, IMAGE_EXTENSIONS[name.rpartition(".")[2].lower()], label, where)


def _grouped(shard: Path, with_images: bool = False) -> Iterator[tuple[str, int, tuple[str, int, bytes]]]:
    """(key, class number, (member, size, bytes)) of every sample; the bytes are empty without ``with_images``."""
    for key, members in groupby(_members(shard), lambda member: member[0]):
        image, label = None, None
        for _, extension, entry in members:
            if extension == "cls":
                label = _label(entry, f"{shard}: {entry.name}")
            elif extension in IMAGE_EXTENSIONS:
                if image:
                    raise PpvitError(f"{shard}: sample {key} has two images; keep one of {image[0]} and {entry.name}")
                image = (entry.name, entry.size, entry.read() if with_images else b"")
        if image is None or label is None:
            raise PpvitError(
                f"{shard}: sample {key} has no {'image' if image is None else '.cls'}; make the shard again"
            )
        yield key, label, image


def _members(shard: Path) -> Iterator[tuple[str, str, Entry]]:
    for entry in tar_entries(shard):
        if entry.is_folder:
            continue
        stem, _, extension = entry.parts[-1].partition(".")
        extension = extension.lower()
        if extension not in ("cls", *_TEXT, *IMAGE_EXTENSIONS):
            raise PpvitError(
                f"{shard}: the member {entry.name} is neither an image nor a .cls, .txt or .json; it was not read: "
                "remove it, and mistrust pickles of others"
            )
        yield "/".join((*entry.parts[:-1], stem)), extension, entry


def _label(entry: Entry, where: str) -> int:
    text = entry.read() if entry.size < 100 else b"far more than a number"
    if not re.fullmatch(rb"\s*\d{1,9}\s*", text):
        raise PpvitError(f"{where} holds {text[:20]!r}, expected is a class number counted from 0")
    return int(text)
