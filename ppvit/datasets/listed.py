"""Images that lists name, as benchmarks publish their splits: the files of a tree looked at once, and read by name.

Names in lists are compared with those of the tree and never opened as paths, so that no list leads out of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ppvit.core.errors import PpvitError
from ppvit.data import decoding
from ppvit.datasets.class_names import check_names
from ppvit.datasets.source import Sample, Source, counted, shard_bytes, warn
from ppvit.datasets.survey import known
from ppvit.datasets.trees import entries
from ppvit.datasets.understood import tell

LIST_BYTES = 2**25  # of a list or another file that tells splits
_ALL_LISTS_BYTES = 2**28
_MOST_FILES = 2**22
_SHOWN = 60  # letters of a name in a message
_NAMED = 3  # classes or files in a message

Labels = dict[str, int]
"""Class numbers of the images of a split by name"""


@dataclass
class Tree:
    """What lies in folders and archives, as if they were unpacked side by side.

    Attributes:
        paths: the folders and archives; of a name in several of them the first counts.
        sizes: bytes of every file by name, -1 for links to nothing.
        twice: names that an archive holds more than once.
        texts: contents of the files that were asked for.
    """

    paths: Sequence[Path]
    sizes: dict[str, int] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)
    texts: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Sequence[Path], wanted: Iterable[str]) -> Tree:
        """Look at all names, and keep what is in the files called as one of ``wanted``, wherever they lie.

        Raises:
            PpvitError: a wanted file is a link or too large, there are too many files, or see
                :func:`ppvit.datasets.trees.entries`.
        """
        tree, wanted = cls(paths), set(wanted)
        for path in paths:
            before = set(tree.sizes)
            for entry in entries(path):
                if entry.is_folder or entry.name in before:
                    continue
                if entry.name in tree.sizes:
                    tree.twice.add(entry.name)
                tree.sizes[entry.name] = -1 if entry.dangling else entry.size
                if entry.parts[-1] in wanted:
                    if entry.dangling or (entry.path is not None and entry.path.is_symlink()):
                        raise PpvitError(f"{path}: {entry.name} is a link, which lists must not be; copy the file")
                    if entry.size > LIST_BYTES:
                        raise PpvitError(f"{path}: {entry.name} has {entry.size:,} bytes, more than {LIST_BYTES:,}")
                    tree.texts[entry.name] = entry.read()
                    if sum(map(len, tree.texts.values())) > _ALL_LISTS_BYTES:
                        raise PpvitError(f"{path} has lists of more than {_ALL_LISTS_BYTES:,} bytes; keep one data set")
                if len(tree.sizes) > _MOST_FILES:
                    raise PpvitError(f"{path} has more than {_MOST_FILES:,} files; set dataset.path to one data set")
        return tree

    @property
    def where(self) -> str:
        """How messages call it."""
        return str(self.paths[0])

    def roots(self, *markers: str) -> list[tuple[str, ...]]:
        """The folders that hold all of these files, sorted."""
        found = {tuple(name.split("/")[:-1]) for name in self.texts}
        return sorted(root for root in found if all("/".join((*root, marker)) in self.texts for marker in markers))


def parsed_list(data: bytes, where: str, classes: int) -> Labels:
    """Images and class numbers of a list, a line an image: its path below the list's folder, a blank, the number.

    Args:
        data: UTF-8; empty lines are passed over.
        where: the list, named in errors.
        classes: numbers are below.

    Raises:
        PpvitError: the line is no such pair, names a file twice or one outside the folder, or has another number.
    """
    labels: Labels = {}
    for number, line in enumerate(text_of(data, where).splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.rstrip().rpartition(" ")
        at = f"{where}, line {number}"
        if not path.strip() or not re.fullmatch(r"[0-9]{1,9}", label):
            raise PpvitError(f"{at}: {shown(line)} is no path with a class number after a blank; repair the list")
        if int(label) >= classes:
            raise PpvitError(
                f"{at}: class {int(label)}, but classes are 0 to {classes - 1}; is this the right data set?"
            )
        name = safe_name(path.strip(), at)
        if name in labels:
            raise PpvitError(f"{at}: {shown(name)} stands there twice; repair the list")
        labels[name] = int(label)
    if not labels:
        raise PpvitError(f"{where} lists no images; copy it again")
    return labels


def text_of(data: bytes, where: str) -> str:
    """The text of a list.

    Raises:
        PpvitError: it is no UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PpvitError(f"{where} is no text in UTF-8; copy it again") from None


def safe_name(path: str, at: str) -> str:
    """A path of a list in the spelling of :class:`Tree`.

    Raises:
        PpvitError: it leads out of the folder.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\\" in path or re.match(r"[A-Za-z]:", path) or not parts:
        raise PpvitError(f"{at}: {shown(path)} is no path inside the data set, with forward slashes; repair the list")
    return unicodedata.normalize("NFC", "/".join(parts))


def shown(text: str) -> str:
    """A piece of a list as messages quote it."""
    return ascii(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


def open_listed(
    tree: Tree,
    splits: Mapping[str, Labels],
    classes: Sequence[str],
    description: str,
    published: Mapping[str, int],
    notes: Sequence[str] = (),
) -> Source:
    """The data set that lists make of a tree.

    Args:
        tree: the images.
        splits: ``train``, ``test`` and perhaps ``val``, by the names that files have in the tree.
        classes: names.
        description: where the images came from.
        published: how many images the published splits have; others are warned of.
        notes: what was decided, told to the user.

    Raises:
        PpvitError: a listed file is missing, no image, in the tree twice or in two splits; train has one class only, or
            test lacks one.
    """
    for split, labels in splits.items():
        _require_files(tree, split, labels)
    _require_apart(splits, tree.where)
    check_names(classes, tree.where)
    counts = {split: counted(labels.values()) for split, labels in splits.items()}
    _check_counts(tree.where, classes, counts)
    sizes = {split: len(labels) for split, labels in splits.items()}
    if sizes != published:
        warn(
            f"{tree.where}: {_sum(sizes)} images, the published splits have {_sum(published)}; results may not be "
            "comparable"
        )
    places = {split: "its list" for split in splits}
    tell(tree.where, classes, counts, places, {}, notes)
    images = sum(sizes.values())
    stored = sum(tree.sizes[name] for labels in splits.values() for name in labels)
    read = {split: partial(_samples, tree.paths, labels) for split, labels in splits.items()}
    return Source(list(classes), read["train"], read["test"], description, shard_bytes(images, stored), read.get("val"))


def _require_files(tree: Tree, split: str, labels: Labels) -> None:
    missing = [name for name in labels if tree.sizes.get(name, -1) < 0]
    if missing:
        raise PpvitError(
            f"{tree.where}: {len(missing):,} of the {len(labels):,} images that {split} lists are not there, such as "
            f"{shown(missing[0])}; unpack or copy the data set again"
        )
    if twice := sorted(tree.twice & labels.keys()):
        raise PpvitError(f"{tree.where} holds {shown(twice[0])} twice; unpack it and set dataset.path to the folder")
    for name in labels:
        file = name.rpartition("/")[2]
        if not decoding.has_no_ending(file) and decoding.image_extension(file) is None:
            raise PpvitError(f"{tree.where}: {shown(name)}, which {split} lists, is no image that is read")


def _require_apart(splits: Mapping[str, Labels], where: str) -> None:
    seen: dict[str, str] = {}
    for split, labels in splits.items():
        for name in labels:
            if name in seen:
                raise PpvitError(f"{where}: {shown(name)} is listed in {seen[name]} and in {split}; repair the lists")
            seen[name] = split


def _check_counts(where: str, classes: Sequence[str], counts: Mapping[str, Counter[int]]) -> None:
    """Refuse what cannot be trained on or scored; warn of classes that train lacks, as the 800 of SUN397's 397 do."""
    if len(counts["train"]) < 2:
        raise PpvitError(f"{where}: train lists {len(counts['train'])} class, and at least two are needed")
    lacking = {
        split: [name for number, name in enumerate(classes) if number not in found] for split, found in counts.items()
    }
    if lacking["test"]:
        raise PpvitError(f"{where}: test lists no image of class '{lacking['test'][0]}'; copy the data set again")
    if train := lacking["train"]:
        named = ", ".join(f"'{name}'" for name in train[:_NAMED])
        more = f" and {len(train) - _NAMED} more" if len(train) > _NAMED else ""
        warn(f"{where}: without an image in train, which cannot be learned: {named}{more} of {len(classes)} classes")


def _sum(sizes: Mapping[str, int]) -> str:
    return " + ".join(f"{sizes[split]:,} {split}" for split in ("train", "val", "test") if split in sizes)


def _samples(paths: Sequence[Path], labels: Labels) -> Iterator[Sample]:
    """The listed images as they lie in the tree."""
    left = dict(labels)
    for path in paths:
        for entry in entries(path):
            if not entry.is_folder and entry.name in left:
                label = left.pop(entry.name)
                file, extension = known(entry)
                if extension is None:
                    raise PpvitError(f"{path}: {shown(entry.name)} is no image that is read; take it out of the lists")
                yield Sample(file.read(), extension, label, entry.name)
            if not left:
                return
    if left:
        raise PpvitError(f"{paths[0]}: {shown(min(left))} vanished while the data set was read; run again")
