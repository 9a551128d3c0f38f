"""Any folder, tar or zip of images sorted into class folders.

Layouts, each with any folders around it, and split folders recognised by meaning (:mod:`ppvit.datasets.splits`)::

    train/<class>/**.jpg  test/<class>/**.jpg     and val/, which stands in for test/ where there is none
    <class>/train/**.jpg  <class>/test/**.jpg
    <class>/**.jpg                                test is held out, stratified (download.holdout_fraction, dataset.seed)

Classes are numbered in the order of their sorted names. Whatever lies deeper in a class folder belongs to the class.
Images are known by their endings, and where a name has none by their first bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import open_regular
from ppvit.data import decoding
from ppvit.data.tar_index import IMAGE_BYTES
from ppvit.datasets.class_names import nearly
from ppvit.datasets.holdout import HoldOut
from ppvit.datasets.local import only_archive
from ppvit.datasets.source import (
    DATASETS,
    Request,
    Sample,
    Source,
    check_classes,
    shard_bytes,
    warn,
)
from ppvit.datasets.splits import Layout, find_layout, split_of
from ppvit.datasets.trees import ARCHIVE_ENDINGS, Entry, entries, is_archive
from ppvit.datasets.understood import note_on_links, tell

_MOST_FOLDERS = 2**20
_MOST_ENDINGS = 50  # of which a file is looked into
_NAMED = 5  # links, folders or endings that a message lists
_ENDING_LETTERS = 12
_SPLITS_ALONE = {split_of(name) for name in ("train", "val", "test")}
# what lies beside images without being meant as any
_TEXTS = frozenset(
    ("txt", "json", "xml", "csv", "tsv", "md", "rst", "yaml", "yml", "toml", "ini", "cfg", "log", "html", "htm", "py")
)


@dataclass
class _Survey:
    """What one look at all names gives; its size grows with the number of folders, not of images."""

    images: Counter[tuple[str, ...]] = field(default_factory=Counter)  # by the folders they lie in
    folders: set[tuple[str, ...]] = field(default_factory=set)
    others: Counter[tuple[tuple[str, ...], str]] = field(default_factory=Counter)  # by folders and ending
    other_example: str = ""
    starts: dict[str, str | None] = field(default_factory=dict)  # by ending, what one of them begins like
    linked: list[str] = field(default_factory=list)  # folders that are links
    dangling: list[str] = field(default_factory=list)  # the first of them
    dangling_count: int = 0
    size_bytes: int = 0


@DATASETS.register("imagefolder")
def open_imagefolder(request: Request, expected_classes: int | None = None) -> Source:
    """Your own images: a folder, tar or zip that holds a folder for each class, or train and test folders of such.

    What was understood is printed: splits, classes, numbers of images, and what is left out.

    Args:
        request: ``path`` is the folder or archive, or a folder with nothing but one archive in it.
        expected_classes: refuse any other number of classes, for data sets that are known by name.

    Raises:
        UsageError: there is no path, or it is a file of another kind.
        PpvitError: the layout has no two classes or is not clear, a class lacks images in one split, most files of a
            folder are no images that are read, links lead to nothing, or the archive is damaged.
    """
    if request.path is None:
        raise UsageError(
            "dataset.name=imagefolder needs images: set dataset.path to class folders or an archive of them"
        )
    path = only_archive(request.path)
    if path.is_file() and not is_archive(path):
        raise UsageError(f"dataset.path: {path} is neither a folder nor a tar or zip archive")
    survey = _survey(path)
    layout = find_layout(survey.images, str(path))
    _require_readable(survey, layout, path)
    counts, left_out = _count(survey, layout)
    held_out = None
    places = dict(layout.folders)
    if "" in counts:
        whole, place = counts.pop(""), layout.folders[""] or "class folders"
        counts |= {"train": whole, "test": whole}
        if len(whole) > 1:  # otherwise check_classes says what is wrong
            held_out = HoldOut(_class_and_name(path, layout), request.test_fraction, request.seed, str(path))
            counts = {"train": held_out.train_counts, "test": held_out.test_counts}
        places = {"train": place, "test": "them too, download.holdout_fraction of each class"}
    classes = sorted({*counts["train"], *counts["test"]})
    if expected_classes not in (None, len(classes)):
        raise PpvitError(
            f"{path}: {request.name} has {expected_classes} classes, {len(classes)} class folders were found; "
            "for a data set of your own set dataset.name=imagefolder"
        )
    labels = {name: label for label, name in enumerate(classes)}
    if unknown := sorted(counts.get("val", {}).keys() - labels.keys()):
        raise PpvitError(
            f"{path}: class missing in train: '{unknown[0]}'; add images of it or take it out of val"
            f"{nearly(unknown[0], classes)}"
        )
    by_label = {split: {labels[name]: n for name, n in of_split.items()} for split, of_split in counts.items()}
    check_classes(classes, by_label["train"], by_label["test"], where=str(path))
    tell(str(path), classes, by_label, places, left_out, [*layout.notes, *note_on_links(survey.linked)])
    _warn(survey, layout, path)
    read = partial(_samples, path, layout, labels, held_out)
    size_bytes = shard_bytes(survey.images.total(), survey.size_bytes)
    val = partial(read, "val") if "val" in counts else None
    return Source(classes, partial(read, "train"), partial(read, "test"), path.name, size_bytes, val)


def _samples(
    path: Path, layout: Layout, labels: dict[str, int], held_out: HoldOut | None, wanted: str
) -> Iterator[Sample]:
    for entry, extension in _images(path):
        place = layout.locate(entry.parts[:-1])
        if place is None:
            continue
        split, class_name = place
        if held_out:
            split = "test" if held_out.is_test(class_name, _inner_name(entry, layout)) else "train"
        if split == wanted:
            yield Sample(entry.read(), extension, labels[class_name], entry.name)


def _images(path: Path) -> Iterator[tuple[Entry, str]]:
    for entry in entries(path):
        if not entry.is_folder:
            file, extension = _known(entry)
            if extension is not None:
                yield file, extension


def _known(entry: Entry) -> tuple[Entry, str | None]:
    """A file, to be read instead of what was given, and the extension under which it is kept if it is an image."""
    name = entry.parts[-1]
    if not decoding.has_no_ending(name) or entry.dangling:
        return entry, decoding.image_extension(name)
    return _known_by_start(entry)


def _known_by_start(entry: Entry) -> tuple[Entry, str | None]:
    if not 0 < entry.size <= IMAGE_BYTES:  # links in archives have no bytes
        return entry, None
    if entry.path is None:  # of an archive, which is not read back and forth
        data = entry.read()
        return replace(entry, read=lambda: data), decoding.extension_by_start(data)
    try:
        with open_regular(entry.path) as file:
            return entry, decoding.extension_by_start(file.read(decoding.START_BYTES))
    except OSError as error:
        raise PpvitError(f"{entry.path} cannot be read ({error.strerror}); check its permissions") from None


def _inner_name(entry: Entry, layout: Layout) -> str:
    # without the folders around, so that an archive splits as its folder does
    return "/".join(entry.parts[len(layout.root) :])


def _class_and_name(path: Path, layout: Layout) -> Iterator[tuple[str, str]]:
    for entry, _ in _images(path):
        place = layout.locate(entry.parts[:-1])
        if place is not None:
            yield place[1], _inner_name(entry, layout)


def _survey(path: Path) -> _Survey:
    survey = _Survey()
    for entry in entries(path):
        if entry.dangling:
            survey.dangling_count += 1
            survey.dangling += [entry.name] if survey.dangling_count <= _NAMED else []
        elif entry.is_folder:
            survey.folders.add(entry.parts)
            survey.linked += [entry.name] if entry.is_linked_folder else []
        elif _known(entry)[1] is not None:
            survey.images[entry.parts[:-1]] += 1
            survey.size_bytes += entry.size
        elif entry.parts[-1] != "README.md":
            ending = _ending(entry.parts[-1])
            survey.others[entry.parts[:-1], ending] += 1
            unseen = ending not in survey.starts and len(survey.starts) < _MOST_ENDINGS
            if entry.path and unseen and ending.startswith(".") and ending[1:] not in _TEXTS:
                survey.starts[ending] = _known_by_start(entry)[1]
            survey.other_example = survey.other_example or entry.name
        if len(survey.images) + len(survey.folders) + len(survey.others) > _MOST_FOLDERS:
            raise PpvitError(
                f"{path} holds more than {_MOST_FOLDERS:,} folders; sort the images into one for each class"
            )
    if survey.dangling:
        told = _listed(survey.dangling, survey.dangling_count)
        raise PpvitError(
            f"{path}: {survey.dangling_count} links lead to nothing ({told}); "
            "bring back what they point to (dvc checkout, git annex get), or remove them"
        )
    if not survey.images:
        others = f" but {_by_ending(survey.others)}" if survey.others else ""
        packed = any(f"x{ending}".endswith(ARCHIVE_ENDINGS) for _, ending in survey.others)
        raise PpvitError(
            f"{path} holds no images that are read{others}; expected are class folders of images, or train and test "
            f"folders of them{', so unpack the archives in it' if packed else ''}{_misnamed(survey, survey.others)}"
        )
    return survey


def _ending(name: str) -> str:
    stem, _, ending = name.rpartition(".")
    return f".{ending.lower()[:_ENDING_LETTERS]}" if stem and not decoding.has_no_ending(name) else "without ending"


def _misnamed(survey: _Survey, others: Mapping[tuple[tuple[str, ...], str], int]) -> str:
    """What to do about files that begin like images and are named otherwise; raw photographs begin like TIFF."""
    begun = {(ending, survey.starts.get(ending) or "tif") for _, ending in others}
    found = sorted((ending, start) for ending, start in begun if start != "tif")
    return "".join(f"; files named {ending} begin like {start}: rename them so" for ending, start in found[:_NAMED])


def _by_ending(others: Mapping[tuple[tuple[str, ...], str], int]) -> str:
    """``.dng: 37, .mov: 12``, the most frequent first."""
    endings: Counter[str] = Counter()
    for (_, ending), count in others.items():
        endings[ending] += count
    return _listed([f"{ending}: {count}" for ending, count in endings.most_common(_NAMED)], len(endings))


def _listed(first: list[str], count: int) -> str:
    return ", ".join(first) + (f" and {count - len(first)} more" if count > len(first) else "")


def _require_readable(survey: _Survey, layout: Layout, path: Path) -> None:
    """Refuse a class, or a split, of which most files are no images that are read."""
    parents = {folder[:-1] for folder in layout.classes}
    images: Counter[tuple[str, ...]] = Counter()
    for folders, count in survey.images.items():
        for depth in range(1, len(folders) + 1):
            images[folders[:depth]] += count
    unread: dict[tuple[str, ...], Counter[tuple[tuple[str, ...], str]]] = {}
    for (folders, ending), count in survey.others.items():
        for depth in range(1, len(folders) + 1):
            folder = folders[:depth]
            meant = folder[:-1] in parents or (split_of(folder[-1]) in _SPLITS_ALONE and not images[folder])
            if meant and ending[1:] not in _TEXTS:
                unread.setdefault(folder, Counter())[folders, ending] += count
    for folder, others in sorted(unread.items()):
        if others.total() > images[folder]:
            raise PpvitError(
                f"{path}: of the files in {'/'.join(folder)}, {images[folder]} are images that are read and "
                f"{others.total()} are not ({_by_ending(others)}); convert these to JPEG or PNG, or take them away"
                f"{_misnamed(survey, others)}"
            )


def _count(survey: _Survey, layout: Layout) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Images by split and class, and of no class by the outermost folder that has nothing but such."""
    counts: dict[str, dict[str, int]] = {split: {} for split in layout.folders}
    left_out: Counter[str] = Counter()
    used = {folder[:depth] for folder in layout.classes for depth in range(len(folder))}
    for folders, images in survey.images.items():
        if place := layout.locate(folders):
            split, name = place
            counts[split][name] = counts[split].get(name, 0) + images
        else:
            depth = next((depth for depth in range(len(folders) + 1) if folders[:depth] not in used), len(folders))
            left_out["/".join(folders[:depth]) or "no folder"] += images
    return counts, left_out


def _alike_inside(survey: _Survey, layout: Layout) -> set[str]:
    """Names of folders, two or more, that lie in every class folder, with all of its images; else none."""
    inside: dict[tuple[str, ...], set[str]] = {tuple(folder): set() for folder in layout.classes}
    for folders in survey.images:
        for depth in range(len(folders) + 1):
            if folders[:depth] in inside:
                inside[folders[:depth]].add(folders[depth] if depth < len(folders) else "")
    sets = [names for names in inside.values() if names]
    alike = len(sets) > 1 and all(names == sets[0] for names in sets) and "" not in sets[0] and len(sets[0]) > 1
    return sets[0] if alike else set()


def _warn(survey: _Survey, layout: Layout, path: Path) -> None:
    if survey.others:
        endings = _by_ending(survey.others)
        warn(
            f"{path}: {survey.others.total()} files that are no images were ignored ({endings}), "
            f"such as {survey.other_example}"
        )
    if alike := _alike_inside(survey, layout):
        warn(
            f"{path}: every class folder holds the folders {_listed(sorted(alike)[:_NAMED], len(alike))}, and all "
            "images in them are of the class; if these are the classes, name the folders around them train and test; "
            "if one holds masks or copies, take it out"
        )
    parents = {folder[:-1] for folder in layout.classes}
    filled = {folders[:depth] for folders in survey.images for depth in range(len(folders) + 1)}
    empty = sorted("/".join(folder) for folder in survey.folders if folder[:-1] in parents and folder not in filled)
    for folder in empty[:_NAMED]:
        warn(f"{path}: the folder {folder} holds no images and is no class")
    if len(empty) > _NAMED:
        warn(f"{path}: {len(empty) - _NAMED} more folders hold no images and are no classes")
