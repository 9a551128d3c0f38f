"""Any folder, tar or zip of images sorted into class folders.

Layouts, each with up to two more folders around it::

    train/<class>/**.jpg  test/<class>/**.jpg     val/ or valid/ stands in for test/ where there is none
    <class>/**.jpg                                test is held out, stratified (download.holdout_fraction, dataset.seed)

Classes are numbered in the order of their sorted names. Whatever lies deeper in a class folder belongs to the class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.decoding import IMAGE_EXTENSIONS, image_extension
from ppvit.datasets.holdout import HoldOut
from ppvit.datasets.local import only_archive
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
from ppvit.datasets.trees import Entry, entries, is_archive

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")  # the first that exists is the test split
_MOST_WRAPPERS = 2
_MOST_FOLDERS = 2**20


@dataclass
class _Survey:
    """What one look at all names gives; its size grows with the number of folders, not of images."""

    images: Counter[tuple[str, ...]] = field(default_factory=Counter)  # by the outermost folders they lie in
    folders: set[tuple[str, ...]] = field(default_factory=set)
    others: int = 0
    other_example: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class _Layout:
    depth: int  # of the folders around
    splits: dict[str, str]  # folder name -> "train" or "test"; empty: class folders only

    def locate(self, folders: tuple[str, ...]) -> tuple[str, str] | None:
        """(split or "", class) of images in that folder of the tree, None where they belong to neither."""
        folders = folders[self.depth :]
        if not self.splits:
            return ("", folders[0]) if folders else None
        if len(folders) < 2 or folders[0] not in self.splits:
            return None
        return self.splits[folders[0]], folders[1]


@DATASETS.register("imagefolder")
def open_imagefolder(request: Request, expected_classes: int | None = None) -> Source:
    """Your own images: a folder, tar or zip that holds a folder for each class, or train and test folders of such.

    Args:
        request: ``path`` is the folder or archive, or a folder with nothing but one archive in it.
        expected_classes: refuse any other number of classes, for data sets that are known by name.

    Raises:
        UsageError: there is no path, or it is a file of another kind.
        PpvitError: the layout has no two classes, a class lacks images in one split, or the archive is damaged.
    """
    if request.path is None:
        raise UsageError(
            "dataset.name=imagefolder needs images: set dataset.path to class folders or an archive of them"
        )
    path = only_archive(request.path)
    if path.is_file() and not is_archive(path):
        raise UsageError(f"dataset.path: {path} is neither a folder nor a tar or zip archive")
    survey = _survey(path)
    layout = _layout(survey, path)
    _warn(survey, layout, path)
    counts = _count(survey, layout)
    held_out = None
    train: dict[str, int] = counts["train"]
    test: dict[str, int] = counts["test"]
    if not layout.splits:
        train = test = counts[""]
        if len(train) > 1:  # otherwise check_classes says what is wrong
            held_out = HoldOut(_class_and_name(path, layout), request.test_fraction, request.seed, str(path))
            train, test = held_out.train_counts, held_out.test_counts
    classes = sorted({*train, *test})
    if expected_classes not in (None, len(classes)):
        raise PpvitError(
            f"{path}: {request.name} has {expected_classes} classes, {len(classes)} class folders were found; "
            "for a data set of your own set dataset.name=imagefolder"
        )
    labels = {name: label for label, name in enumerate(classes)}
    by_label = [{labels[name]: count for name, count in split.items()} for split in (train, test)]
    check_classes(classes, by_label[0], by_label[1], where=str(path))
    read = partial(_samples, path, layout, labels, held_out)
    size_bytes = shard_bytes(survey.images.total(), survey.size_bytes)
    return Source(classes, partial(read, "train"), partial(read, "test"), path.name, size_bytes)


def _samples(
    path: Path, layout: _Layout, labels: dict[str, int], held_out: HoldOut | None, wanted: str
) -> Iterator[Sample]:
    for entry in _images(path):
        place = layout.locate(entry.parts[:-1])
        if place is None:
            continue
        split, class_name = place
        if held_out:
            split = "test" if held_out.is_test(class_name, _inner_name(entry, layout)) else "train"
        if split == wanted:
            image = entry.read()
            check_header(image, f"{path}: {entry.name}")
            yield Sample(image, image_extension(entry.parts[-1]) or "", labels[class_name], entry.name)


def _images(path: Path) -> Iterator[Entry]:
    return (entry for entry in entries(path) if not entry.is_folder and image_extension(entry.parts[-1]))


def _inner_name(entry: Entry, layout: _Layout) -> str:
    # without the folders around, so that an archive splits as its folder does
    return "/".join(entry.parts[layout.depth :])


def _class_and_name(path: Path, layout: _Layout) -> Iterator[tuple[str, str]]:
    for entry in _images(path):
        place = layout.locate(entry.parts[:-1])
        if place is not None:
            yield place[1], _inner_name(entry, layout)


def _survey(path: Path) -> _Survey:
    survey = _Survey()
    for entry in entries(path):
        if entry.is_folder:
            survey.folders.add(entry.parts[: _MOST_WRAPPERS + 2])
        elif image_extension(entry.parts[-1]):
            survey.images[entry.parts[:-1][: _MOST_WRAPPERS + 2]] += 1
            survey.size_bytes += entry.size
        elif entry.parts[-1] != "README.md":
            survey.others += 1
            survey.other_example = survey.other_example or entry.name
        if len(survey.images) + len(survey.folders) > _MOST_FOLDERS:
            raise PpvitError(
                f"{path} holds more than {_MOST_FOLDERS:,} folders; sort the images into one for each class"
            )
    if not survey.images:
        endings = ", ".join(sorted(IMAGE_EXTENSIONS))
        raise PpvitError(
            f"{path} holds no images ({endings}); "
            "expected are class folders of images, or train and test folders of them"
        )
    return survey


def _layout(survey: _Survey, path: Path) -> _Layout:
    depth = 0
    while depth < _MOST_WRAPPERS and _is_wrapper(survey, depth):
        depth += 1
    tops = sorted({folders[depth] for folders in survey.images if len(folders) > depth})
    lower = {top.lower(): top for top in tops}
    train = next((lower[name] for name in _TRAIN if name in lower), None)
    test = next((lower[name] for name in _TEST if name in lower), None)
    if train is None or test is None:
        if not tops:
            raise PpvitError(f"{path}: the images lie in no class folders; sort them into one folder per class")
        return _Layout(depth, {})
    layout = _Layout(depth, {train: "train", test: "test"})
    for split in (train, test):
        if not any(len(folders) > depth + 1 and folders[depth] == split for folders in survey.images):
            raise PpvitError(
                f"{path}: {split}/ holds images but no class folders; sort them into {split}/<class>/ or take them away"
            )
    return layout


def _is_wrapper(survey: _Survey, depth: int) -> bool:
    """Whether all images lie in one folder at this depth, and in two or more folders somewhere below it."""
    tops = {folders[depth : depth + 1] for folders in survey.images}
    return len(tops) == 1 and () not in tops and any(len(folders) > depth + 1 for folders in survey.images)


def _count(survey: _Survey, layout: _Layout) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {"": Counter(), "train": Counter(), "test": Counter()}
    for folders, images in survey.images.items():
        place = layout.locate(folders)
        if place:
            counts[place[0]][place[1]] += images
    return counts


def _warn(survey: _Survey, layout: _Layout, path: Path) -> None:
    if survey.others:
        warn(f"{path}: {survey.others} files that are no images were ignored, such as {survey.other_example}")
    outside = sum(n for folders, n in survey.images.items() if layout.locate(folders) is None)
    if outside:
        where = (
            f"outside {' and '.join(layout.splits)} or in no class folder" if layout.splits else "in no class folder"
        )
        warn(f"{path}: {outside} images that lie {where} were ignored")
    class_depth = layout.depth + (2 if layout.splits else 1)
    filled = {folders[:class_depth] for folders in survey.images}
    for folder in sorted(survey.folders):
        is_class = len(folder) == class_depth and (not layout.splits or folder[layout.depth] in layout.splits)
        if is_class and folder not in filled:
            warn(f"{path}: the folder {'/'.join(folder)} holds no images and is no class")
