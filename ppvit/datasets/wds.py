"""WebDataset shards of plain images: tars in ``train/`` and ``test/`` or so named, or tars without a test split.

A sample is an image and a ``.cls`` member with its class number, under one name. Text beside them (``.txt``, ``.json``)
is not read, and anything else, such as a pickle, makes the whole shard refused. ``classes.txt`` beside the shards, or
``classnames.txt`` as CLIP benchmark writes it, names the classes, one a line. Where images carry any number of labels,
``multilabel.txt`` names them instead, and ``.cls`` has their numbers with blanks between, or nothing.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import read_bounded
from ppvit.data.decoding import IMAGE_EXTENSIONS
from ppvit.data.labels import MOST_LABELS, Label
from ppvit.datasets.holdout import HoldOut
from ppvit.datasets.source import (
    DATASETS,
    Request,
    Sample,
    Source,
    check_classes,
    shard_bytes,
)
from ppvit.datasets.strata import Strata
from ppvit.datasets.trees import Entry, is_passed_over, tar_entries
from ppvit.datasets.understood import tell
from ppvit.datasets.wds_shards import find_shards

_TEXT = ("txt", "json")
_NAMES_BYTES = 2**24  # of classes.txt
_LABELS_FILE = "multilabel.txt"
_CLASS_FILES = (_LABELS_FILE, "classes.txt", "classnames.txt")


@DATASETS.register("webdataset")
def open_webdataset(request: Request) -> Source:
    """Your own images as WebDataset shards: a tar, or train-*.tar and test-*.tar, or folders train and test of tars.

    Raises:
        UsageError: there is no path.
        PpvitError: no shards, shards of several data sets, a damaged shard, a member that is refused, or a sample
            without image or class number.
    """
    path = _require_shards(request)
    found = find_shards(path)
    shards = found.by_split
    file = _class_file(path, [shard for of_split in shards.values() for shard in of_split])
    several = file is not None and file.name == _LABELS_FILE
    scans = {split: _scan(of_split, several) for split, of_split in shards.items()}
    counts = {split: _by_class(labels) for split, (labels, _) in scans.items()}
    sizes = {split: labels.total() for split, (labels, _) in scans.items()}
    read = {split: partial(_samples, of_split, several) for split, of_split in shards.items()}
    places = {split: _told(of_split, path) for split, of_split in shards.items()}
    if "" in shards:
        held_out = _HeldOut(shards[""], scans[""][0], request, several)
        read = {split: partial(_samples, shards[""], several, held_out, split == "test") for split in ("train", "test")}
        halves = {split: held_out.labels(split == "test") for split in read}
        counts = {split: _by_class(half) for split, half in halves.items()}
        sizes = {split: half.total() for split, half in halves.items()}
        each = "rarest label of an image" if several else "class"
        places = {"train": places[""], "test": f"them too, download.holdout_fraction of each {each}"}
    used = max(max(counts[split], default=0) for split in ("train", "test")) + 1
    if not sum(sizes.values()):
        raise PpvitError(f"{path} holds shards without a sample; make them again")
    if not several and used > (samples := sum(sizes.values())):
        raise PpvitError(
            f"{path}: class {used - 1} is the highest of {samples} samples; number the classes from 0 without gaps"
        )
    if (beyond := max(counts.get("val", {}), default=0)) >= used:
        raise PpvitError(f"{path}: class {beyond} is in val only; add images of it to train or take it out of val")
    classes = _class_names(file, used)
    check_classes(classes, counts["train"], counts["test"], str(path), several)
    notes = (*found.notes, *(["images carry any number of the classes"] if several else []))
    tell(str(path), classes, counts, places, {}, notes, sizes if several else None)
    size_bytes = sum(shard_bytes(labels.total(), size) for labels, size in scans.values())
    return Source(classes, read["train"], read["test"], path.name, size_bytes, read.get("val"), several)


def _require_shards(request: Request) -> Path:
    if request.path is None:
        raise UsageError(
            "dataset.name=webdataset needs shards: set dataset.path to a tar, or a folder of train-*.tar and test-*.tar"
        )
    return request.path


vars(open_webdataset)["require"] = _require_shards


class _HeldOut:
    """Which samples of shards without a test split are held out, by class or by stratum of labels."""

    def __init__(self, shards: list[Path], labels: Counter[Label], request: Request, several: bool) -> None:
        self._shards, self._several = shards, several
        self._strata = Strata({label: n for label, n in labels.items() if isinstance(label, tuple)})
        pairs = ((self._stratum(label), _name(shard, key)) for shard, key, label in self._samples())
        self._held = HoldOut(pairs, request.test_fraction, request.seed, str(request.path))

    def _samples(self) -> Iterator[tuple[Path, str, Label]]:
        return ((shard, key, label) for shard in self._shards for key, label, _ in _grouped(shard, self._several))

    def _stratum(self, label: Label) -> str:
        return self._strata.of(label) if isinstance(label, tuple) else str(label)

    def is_test(self, shard: Path, key: str, label: Label) -> bool:
        return self._held.is_test(self._stratum(label), _name(shard, key))

    def labels(self, is_test: bool) -> Counter[Label]:
        """Images of one side by label."""
        if self._several:
            return Counter(label for shard, key, label in self._samples() if self.is_test(shard, key, label) == is_test)
        counts = self._held.test_counts if is_test else self._held.train_counts
        return Counter({int(label): images for label, images in counts.items()})


def _name(shard: Path, key: str) -> str:
    return f"{shard.name}/{key}"


def _by_class(labels: Counter[Label]) -> Counter[int]:
    """Images per class number."""
    counts: Counter[int] = Counter()
    for label, images in labels.items():
        counts.update(dict.fromkeys(label if isinstance(label, tuple) else (label,), images))
    return counts


def _told(shards: list[Path], path: Path) -> str:
    first = shards[0].relative_to(path) if path.is_dir() else path.name
    return f"{first}" if len(shards) == 1 else f"{len(shards):,} shards, such as {first}"


def _scan(shards: list[Path], several: bool) -> tuple[Counter[Label], int]:
    """Images per label and bytes of all images."""
    counts: Counter[Label] = Counter()
    size_bytes = 0
    for shard in shards:
        for _, label, image in _grouped(shard, several):
            counts[label] += 1
            size_bytes += image[1]
    return counts, size_bytes


def _class_names(file: Path | None, count: int) -> list[str]:
    if file is None:
        return [str(label) for label in range(count)]
    try:
        text = read_bounded(file, _NAMES_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PpvitError(f"{file} is not in UTF-8 ({error}); save it as such") from None
    classes = [unicodedata.normalize("NFC", name.strip()) for name in text.rstrip().split("\n")]
    if "" in classes:
        raise PpvitError(f"{file}: line {classes.index('') + 1} is empty; write the name of that class")
    if len(classes) < count:
        raise PpvitError(f"{file} names {len(classes)} classes, the shards use {count}; add the missing lines")
    return classes


def _class_file(path: Path, shards: list[Path]) -> Path | None:
    """The file of class names: beside the shards, or in a folder around them that is still of the data set.

    Raises:
        PpvitError: it is a link that leaves the data set, which may lead to any file.
    """
    root = path if path.is_dir() else path.parent
    folders = [Path(os.path.commonpath([shard.parent for shard in shards]))]
    while folders[-1] != root:
        folders.append(folders[-1].parent)
    file = next((folder / name for folder in folders for name in _CLASS_FILES if (folder / name).is_file()), None)
    if file is not None and not file.resolve().is_relative_to(root.resolve()):
        raise PpvitError(
            f"{file} links out of {root}; only images are read through such links: put a copy in its place"
        )
    return file


def _samples(
    shards: list[Path], several: bool, held_out: _HeldOut | None = None, is_test: bool = False
) -> Iterator[Sample]:
    for shard in shards:
        for key, label, (name, _, data) in _grouped(shard, several, with_images=True):
            if held_out is None or held_out.is_test(shard, key, label) == is_test:
                where = f"{shard.name}: {name}"
                yield Sample(data, IMAGE_EXTENSIONS[name.rpartition(".")[2].lower()], label, where)


def _grouped(
    shard: Path, several: bool, with_images: bool = False
) -> Iterator[tuple[str, Label, tuple[str, int, bytes]]]:
    """(key, label, (member, size, bytes)) of every sample; the bytes are empty without ``with_images``."""
    for key, members in groupby(_members(shard), lambda member: member[0]):
        image: tuple[str, int, bytes] | None = None
        label: Label | None = None
        for _, extension, entry in members:
            if extension == "cls":
                label = (_labels if several else _label)(entry, f"{shard}: {entry.name}")
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
    known = {"cls", *_TEXT, *IMAGE_EXTENSIONS}
    for entry in tar_entries(shard):
        if entry.is_folder or is_passed_over(entry.parts):
            continue
        stem, _, extension = entry.parts[-1].partition(".")
        extension = extension.lower()
        if extension not in known:
            last = extension.rpartition(".")[2]
            raise PpvitError(
                f"{shard}: the member {entry.name} is neither an image nor a .cls, .txt or .json; it was not read: "
                + (
                    "all behind the first dot is its kind to WebDataset: rename it with a single dot, or remove it"
                    if last in known
                    else "remove it, and mistrust pickles of others"
                )
            )
        yield "/".join((*entry.parts[:-1], stem)), extension, entry


def _label(entry: Entry, where: str) -> int:
    text = entry.read() if entry.size < 100 else b"far more than a number"
    if not re.fullmatch(rb"\s*\d{1,9}\s*", text):
        raise PpvitError(
            f"{where} holds {text[:20]!r}, expected is a class number counted from 0; if images carry several labels, "
            f"name the labels in {_LABELS_FILE} beside the shards, one a line"
        )
    return int(text)


def _labels(entry: Entry, where: str) -> tuple[int, ...]:
    text = entry.read() if entry.size <= 10 * MOST_LABELS else b"far more than numbers"
    if not re.fullmatch(rb"\s*(?:\d{1,9}\s+)*(?:\d{1,9})?", text):
        raise PpvitError(f"{where} holds {text[:20]!r}, expected are class numbers counted from 0 with blanks between")
    numbers = [int(number) for number in text.split()]
    if len(set(numbers)) < len(numbers):  # most likely 1 at the place of each label and 0 elsewhere
        raise PpvitError(
            f"{where} holds {text[:20]!r}, a number twice; write the numbers of the labels that it carries"
        )
    return tuple(sorted(numbers))
