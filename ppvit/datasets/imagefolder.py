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
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ppvit.core.errors import PpvitError, UsageError
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
)
from ppvit.datasets.splits import Layout, find_layout
from ppvit.datasets.survey import Survey, known, require_readable, survey_of, warn_of
from ppvit.datasets.trees import Entry, entries, is_archive
from ppvit.datasets.understood import note_on_links, tell


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
    path = only_archive(_require_images(request))
    survey = survey_of(path)
    layout = find_layout(survey.images, str(path))
    require_readable(survey, layout, path)
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
    warn_of(survey, layout, path)
    read = partial(_samples, path, layout, labels, held_out)
    size_bytes = shard_bytes(survey.images.total(), survey.size_bytes)
    val = partial(read, "val") if "val" in counts else None
    return Source(classes, partial(read, "train"), partial(read, "test"), path.name, size_bytes, val)


def _require_images(request: Request) -> Path:
    if request.path is None:
        raise UsageError(
            "dataset.name=imagefolder needs images: set dataset.path to class folders or an archive of them"
        )
    if request.path.is_file() and not is_archive(request.path):
        raise UsageError(f"dataset.path: {request.path} is neither a folder nor a tar or zip archive")
    return request.path


vars(open_imagefolder)["require"] = _require_images


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
            file, extension = known(entry)
            if extension is not None:
                yield file, extension


def _inner_name(entry: Entry, layout: Layout) -> str:
    # without the folders around, so that an archive splits as its folder does
    return "/".join(entry.parts[len(layout.root) :])


def _class_and_name(path: Path, layout: Layout) -> Iterator[tuple[str, str]]:
    for entry, _ in _images(path):
        place = layout.locate(entry.parts[:-1])
        if place is not None:
            yield place[1], _inner_name(entry, layout)


def _count(survey: Survey, layout: Layout) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
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
