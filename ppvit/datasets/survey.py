"""One look at all names of a tree of images: what is an image, what is not, which links lead where.

What cannot be used is refused, and what looks mistaken is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ppvit.core.errors import PpvitError
from ppvit.core.reading import open_regular
from ppvit.data import decoding
from ppvit.data.tar_index import IMAGE_BYTES
from ppvit.datasets.source import warn
from ppvit.datasets.splits import Layout, split_of
from ppvit.datasets.trees import ARCHIVE_ENDINGS, Entry, entries

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
class Survey:
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


def survey_of(path: Path) -> Survey:
    """Look at all names of a folder or archive.

    Raises:
        PpvitError: it holds no images, too many folders, or links to nothing; or is damaged.
    """
    survey = Survey()
    for entry in entries(path):
        if entry.dangling:
            survey.dangling_count += 1
            survey.dangling += [entry.name] if survey.dangling_count <= _NAMED else []
        elif entry.is_folder:
            survey.folders.add(entry.parts)
            survey.linked += [entry.name] if entry.is_linked_folder else []
        elif known(entry)[1] is not None:
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


def _misnamed(survey: Survey, others: Mapping[tuple[tuple[str, ...], str], int]) -> str:
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


def require_readable(survey: Survey, layout: Layout, path: Path) -> None:
    """Refuse a class, or a split, of which most files are no images that are read.

    Raises:
        PpvitError: names the folder, and counts the files in it by ending.
    """
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


def known(entry: Entry) -> tuple[Entry, str | None]:
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


def _alike_inside(survey: Survey, layout: Layout) -> set[str]:
    """Names of folders, two or more, that lie in every class folder, with all of its images; else none."""
    inside: dict[tuple[str, ...], set[str]] = {tuple(folder): set() for folder in layout.classes}
    for folders in survey.images:
        for depth in range(len(folders) + 1):
            if folders[:depth] in inside:
                inside[folders[:depth]].add(folders[depth] if depth < len(folders) else "")
    sets = [names for names in inside.values() if names]
    alike = len(sets) > 1 and all(names == sets[0] for names in sets) and "" not in sets[0] and len(sets[0]) > 1
    return sets[0] if alike else set()


def warn_of(survey: Survey, layout: Layout, path: Path) -> None:
    """Tell of files that are no images, folders that may be meant as classes, and classes without images."""
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
