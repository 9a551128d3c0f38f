"""Data sets of images as Hugging Face `datasets` keeps them on a disk.

:mod:`ppvit.datasets.hub_folders` finds the files of each split, :mod:`ppvit.datasets.hub_tables` reads them, and
:mod:`ppvit.datasets.hub_labels` makes class numbers of what stands in the label column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, UsageError, printable
from ppvit.core.nearest import closest
from ppvit.data import decoding
from ppvit.data.labels import Label
from ppvit.datasets import hub_tables
from ppvit.datasets.holdout import HoldOut
from ppvit.datasets.hub_folders import ENDINGS, parts
from ppvit.datasets.hub_labels import labels_of
from ppvit.datasets.hub_tables import Column, columns_of
from ppvit.datasets.source import (
    DATASETS,
    Request,
    Sample,
    Source,
    check_classes,
    counted,
    shard_bytes,
)
from ppvit.datasets.strata import Strata
from ppvit.datasets.understood import tell

_LABEL_NAMES = ("label", "labels", "class", "classes", "category", "target")
_IMAGE_NAMES = ("image", "img")
_LABEL_KINDS = ("whole", "text", "several whole", "several text", "several broken")
_NO_ROW: Any = object()


def open_huggingface(request: Request) -> Source:
    """A data set of the Hugging Face hub on your disk: its folder of parquet files, of save_to_disk, or one file.

    Args:
        request: ``path`` is the folder or file. ``subset`` chooses a configuration, ``image_column`` and
            ``label_column`` the columns, where there are several.

    Raises:
        UsageError: there is no path, or several configurations or columns to choose from.
        PpvitError: files are missing or damaged, or their labels do not fit.
    """
    found = parts(_require_tables(request), request.subset)
    columns = [columns_of(file, found.card) for files in found.splits.values() for file in files]
    image = _chosen(columns, ("image",), request.image_column, "image", _IMAGE_NAMES, found.root)
    label = _chosen(columns, _LABEL_KINDS, request.label_column, "label", _LABEL_NAMES, found.root)
    classes, labels, notes = labels_of(found.splits, label, found.root)
    splits = {split: _Rows(found.root, files, image.name, labels[split]) for split, files in found.splits.items()}
    assigned, places, more = _assigned(splits, found.root, request)
    counts = {split: rows.counts() for split, rows in assigned.items()}
    several = label.kind.startswith("several")
    check_classes(classes, counts["train"], counts["test"], str(found.root), several)
    images = {split: rows.rows() - rows.missing() for split, rows in assigned.items()}
    told = (*found.notes, *notes, *more)
    tell(str(found.root), classes, counts, places, {}, told, images if several else None)
    size_bytes = sum(rows.size_bytes() for rows in assigned.values())
    read = {split: rows.samples for split, rows in assigned.items()}
    described = f"{found.root.name}, column {label.name}"
    return Source(classes, read["train"], read["test"], described, size_bytes, read.get("val"), several)


def _require_tables(request: Request) -> Path:
    if request.path is None:
        raise UsageError(
            "dataset.name=huggingface needs a data set: set dataset.path to its folder of parquet files, "
            "as snapshot_download and `hf download` make it"
        )
    if request.path.is_file() and request.path.suffix.lower() not in ENDINGS:
        raise UsageError(f"dataset.path: {request.path} is neither a folder nor a .parquet or .arrow file")
    return request.path


def _chosen(
    columns: Sequence[dict[str, Column]],
    kinds: tuple[str, ...],
    asked: str,
    what: str,
    usual: tuple[str, ...],
    root: Path,
) -> Column:
    """The column of images or of labels, which all files must have."""
    first = columns[0]
    there = ", ".join(printable(name) for name in first)
    candidates = [column for column in first.values() if column.kind in kinds]
    if asked:
        candidates = [column for column in candidates if column.name == asked]
    elif what == "label":  # numbers may be anything, unless they stand for classes or are called labels
        candidates = [column for column in candidates if column.names] or [
            column for column in candidates if column.name.lower() in usual
        ]
    if len(candidates) > 1:
        candidates = [column for column in candidates if column.name.lower() in usual] or candidates
    if len(candidates) != 1:
        meant = [name for name in first if (name == asked if asked else name.lower() in usual)]
        if candidates:
            wrong = f"{', '.join(printable(column.name) for column in candidates)} could all be the {what}s"
        elif meant:
            lacks = "no images" if what == "image" else "neither whole numbers nor text"
            wrong = f"{printable(meant[0])} holds {lacks}"
        else:
            wrong = f"there is no column {printable(asked)}" if asked else f"no column holds {what}s"
        near = closest(asked, map(printable, first)) if asked and not meant else ""
        raise UsageError(f"dataset.{what}_column: {root}: {wrong}; set it to one of {there}{near}")
    for each in columns:
        if each.get(candidates[0].name) != candidates[0]:
            raise PpvitError(
                f"{root}: the column {printable(candidates[0].name)} is not the same in all files; "
                "keep files of one data set there"
            )
    return candidates[0]


@dataclass(frozen=True)
class _Rows:
    """Rows of some files, each with its label; None leaves a row out."""

    root: Path
    files: list[Path]
    image_column: str
    labels: list[list[Label | None]]  # of each file

    def samples(self) -> Iterator[Sample]:
        for file, labels in zip(self.files, self.labels, strict=True):
            images = hub_tables.images(file, self.image_column)
            for number, (label, image) in enumerate(zip_longest(labels, images, fillvalue=_NO_ROW)):
                if label is _NO_ROW or image is _NO_ROW:
                    raise PpvitError(f"{file} changed while it was read; run again once nothing writes it")
                if label is not None:
                    yield _sample(image, label, self._name(file, number))

    def place(self) -> str:
        """Where the rows are, for the user."""
        name = self.files[0].relative_to(self.root).as_posix()
        return name if len(self.files) == 1 else f"{len(self.files)} files, such as {name}"

    def rows(self) -> int:
        return sum(map(len, self.labels))

    def missing(self) -> int:
        return sum(label is None for labels in self.labels for label in labels)

    def counts(self) -> Counter[int]:
        return counted(label for labels in self.labels for label in labels if label is not None)

    def size_bytes(self) -> int:
        return shard_bytes(self.rows(), sum(file.stat().st_size for file in self.files))

    def divided(self, test_fraction: float, seed: int) -> tuple[_Rows, _Rows]:
        """Train and held-out test rows, stratified by class, of several labels by the rarest."""
        strata = Strata(Counter(label for label, _ in self.named() if isinstance(label, tuple)))
        named = [(strata.of(label) if isinstance(label, tuple) else str(label), name) for label, name in self.named()]
        held_out = HoldOut(named, test_fraction, seed, str(self.root))
        is_test = iter([held_out.is_test(*each) for each in named])
        chosen = [[label is not None and next(is_test) for label in labels] for labels in self.labels]
        train, test = (
            [
                [label if in_test is wanted else None for label, in_test in zip(*of_file, strict=True)]
                for of_file in zip(self.labels, chosen, strict=True)
            ]
            for wanted in (False, True)
        )
        return replace(self, labels=train), replace(self, labels=test)

    def named(self) -> Iterator[tuple[Label, str]]:
        """Label and name of every row that has a label."""
        for file, labels in zip(self.files, self.labels, strict=True):
            yield from ((label, self._name(file, number)) for number, label in enumerate(labels) if label is not None)

    def _name(self, file: Path, number: int) -> str:
        return f"{file.relative_to(self.root).as_posix()}[{number}]"


def _sample(image: Any, label: Label, where: str) -> Sample:
    """Of ``struct<bytes, path>``, or of the bytes alone; an image that is missing is an empty one."""
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    if data is None and path:
        raise PpvitError(
            f"{where} holds no image but the path {printable(str(path))}; "
            "write the images into the table, as push_to_hub does"
        )
    data = data or b""
    return Sample(data, decoding.extension_of(data, str(path)), label, where)


def _assigned(
    splits: dict[str, _Rows], root: Path, request: Request
) -> tuple[dict[str, _Rows], dict[str, str], list[str]]:
    """Train, test and perhaps val, of the splits that carry labels; where each comes from, and what is to be said."""
    labelled = {split: of for split, of in splits.items() if of.missing() < of.rows()}
    notes = [f"the {split} split carries no labels and is not used" for split in splits if split not in labelled]
    for split, of in labelled.items():
        if of.missing():
            told = f"{of.missing():,} of {of.rows():,} images{' of ' * bool(split)}{split}"
            notes.append(f"{told} have no label and are left out")
    if not labelled:
        raise PpvitError(f"{root}: no image has a label; set dataset.label_column to another column")
    places = {split: of.place() for split, of in labelled.items()}
    if len(labelled) == 1:
        ((split, only),) = labelled.items()
        train, test = only.divided(request.test_fraction, request.seed)
        each = "rarest label of an image" if any(isinstance(label, tuple) for label, _ in only.named()) else "class"
        held_out = {"train": places[split], "test": f"them too, download.holdout_fraction of each {each}"}
        return {"train": train, "test": test}, held_out, notes
    if "train" not in labelled:
        raise PpvitError(f"{root}: there is no train split but {' and '.join(labelled)}; download it as well")
    if "test" not in labelled:
        labelled["test"], places["test"] = labelled.pop("val"), places.pop("val")
        notes.append("val is used as the test split, since there is no other")
    return labelled, places, notes


DATASETS.register("huggingface")(open_huggingface)
vars(open_huggingface).update(reads=("subset", "image_column", "label_column"), require=_require_tables)
