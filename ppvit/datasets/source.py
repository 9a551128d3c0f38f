"""What every data set gives: labelled images one at a time, as the bytes their owner has; and the registry of names."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppvit.core.errors import PpvitError, UsageError, printable
from ppvit.core.nearest import closest
from ppvit.core.registry import Registry
from ppvit.data import images
from ppvit.data.labels import Label
from ppvit.datasets.class_names import check_names, nearly


@dataclass(frozen=True)
class Sample:
    """One image: encoded bytes, their extension, a label in ``range(len(classes))``, and where it came from.

    The label of a multi-label data set is a tuple of class numbers in ascending order, possibly empty.
    """

    image: bytes
    extension: str
    label: Label
    origin: str


@dataclass(frozen=True)
class Source:
    """A data set; each call of ``train``, ``test`` or ``val`` starts again at the first image."""

    classes: list[str]
    train: Callable[[], Iterator[Sample]]
    test: Callable[[], Iterator[Sample]]
    description: str
    """where the images came from; the same text on every machine"""
    size_bytes: int
    """about how much disk the raw shards take; see :func:`shard_bytes`"""
    val: Callable[[], Iterator[Sample]] | None = None
    """the official validation split, where there is one: kept beside the others; nothing is trained or scored on it"""
    multilabel: bool = False
    """whether an image carries any number of the classes, and ``Sample.label`` is a tuple, instead of exactly one"""


@dataclass(frozen=True)
class Request:
    """What a data set is asked for."""

    name: str
    path: Path | None
    """the user's own folder or file; None when there is none and the data set has to be fetched"""
    cache: Path
    """where downloads are kept"""
    test_fraction: float
    seed: int
    source_size: int = 0
    """side in pixels of the published file, where there are several; 0 takes the file at hand, or the smallest"""
    slices: str = "none"
    """of volumes: ``middle`` or ``all`` slices; ``none`` refuses them"""
    slice_axis: int = 0
    """of volumes: along which of the three axes they are sliced"""
    subset: str = ""
    """which part of a data set that consists of several; empty takes the usual or only one"""
    image_column: str = ""
    """of tables: where the images are; empty finds the only such column"""
    label_column: str = ""
    """of tables: where the labels are; empty finds the only such column"""


CHOICES = ("source_size", "slices", "slice_axis", "subset", "image_column", "label_column")
"""Fields of a request, and parameters of the section ``dataset``, that only some data sets read."""

DATASETS: Registry[Callable[[Request], Source]] = Registry("ppvit.datasets", "dataset.name")
"""What opens each data set, by name. One more is a file in this folder with a function under ``@DATASETS.register``."""


def enter(
    name: str,
    opener: Callable[[Request], Source],
    says: str,
    reads: tuple[str, ...] = (),
    require: Callable[[Request], object] | None = None,
    brings_val: bool = True,
) -> None:
    """Register one of several data sets that are opened alike.

    Args:
        name: of the data set.
        opener: what opens it.
        says: the sentence on it in ``ppvit list datasets``: what is seen, images, classes, licence.
        reads: those of ``CHOICES`` that it reads.
        require: refuses a request for what it does not have, such as a choice, or to be fetched; reads no images.
        brings_val: False where what is fetched has no validation images; a user's own files may.
    """

    def open_named(request: Request) -> Source:
        return opener(request)

    open_named.__doc__ = says
    vars(open_named).update(reads=reads, require=require, brings_val=brings_val)
    DATASETS.register(name)(open_named)


def require_subset(request: Request, subsets: Collection[str]) -> None:
    """Refuse a ``dataset.subset`` that a data set does not have; empty is its usual one.

    Raises:
        UsageError: names those that there are, and the nearest.
    """
    if request.subset and request.subset not in subsets:
        raise UsageError(
            f"dataset.subset: {request.name} has {', '.join(subsets)}, but no '{request.subset}'"
            f"{closest(request.subset, subsets)}"
        )


def no_val_to_train_on(name: str) -> UsageError:
    """That ``dataset.own_val`` asks for validation images of a data set that brings none."""
    return UsageError(
        f"dataset.own_val=train: {name} brings no validation images; set it back to val, and dataset.val_fraction=0 to "
        "train on all images"
    )


def note(message: str) -> None:
    """Tell the user what was understood or chosen."""
    print(f"note: {printable(message)}", file=sys.stderr)


def warn(message: str) -> None:
    """Tell the user something that does not stop the work."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def shard_bytes(images: int, image_bytes: int) -> int:
    """About how much disk ``images`` images of ``image_bytes`` in all take as tar members, with label and origin."""
    return image_bytes + images * 6 * 512  # three headers, three paddings


def array_samples(arrays: Iterable[np.ndarray], labels: Iterable[Label], origin: str) -> Iterator[Sample]:
    """Samples of arrays, as PNG: each image uint8, (H, W) or (H, W, 3); ``origin`` gets the image's number appended."""
    for number, (image, label) in enumerate(zip(arrays, labels, strict=True)):
        number_or_numbers = label if isinstance(label, tuple) else int(label)  # of numpy's numbers, Python's
        yield Sample(images.encode_png(image), "png", number_or_numbers, f"{origin}[{number}]")


def counted(labels: Iterable[Label]) -> Counter[int]:
    """Images per class number; an image of several labels counts for each of them."""
    return Counter(number for label in labels for number in (label if isinstance(label, tuple) else (label,)))


def check_classes(
    classes: list[str], train: Mapping[int, int], test: Mapping[int, int], where: str, multilabel: bool = False
) -> None:
    """Refuse splits that cannot be trained on or would be scored wrongly.

    Args:
        classes: names; label numbers are their positions.
        train: images per label number, see :func:`counted`; labels without an image may be left out.
        test: the same of the test split.
        where: the source, named in the error.
        multilabel: whether an image may carry any number of labels. One label is enough then, and a label that a split
            lacks is a warning: what cannot be measured of it is said with the results.

    Raises:
        PpvitError: fewer than two classes, a class that one of the splits lacks, or names that cannot be printed or
            told apart.
    """
    if multilabel and not classes:
        raise PpvitError(f"{where}: at least one label is needed, found none; name the labels")
    if len(classes) < 2 and not multilabel:
        found = f"only '{classes[0]}'" if classes else "none"
        raise PpvitError(f"{where}: at least two classes are needed, found {found}; give every class its own folder")
    check_names(classes, where)
    for label, name in enumerate(classes):
        in_train, in_test = train.get(label), test.get(label)
        if multilabel and not (in_train and in_test):
            split, what = ("test", "scored") if in_train else ("train", "learned")
            warn(f"{where}: no {split} image carries '{name}', so that it cannot be {what}")
        elif not in_train and not in_test:
            raise PpvitError(f"{where}: class {label} ('{name}') has no image; number the classes from 0 without gaps")
        elif not in_train:
            raise PpvitError(
                f"{where}: class missing in train: '{name}'; add images of it or take it out of test"
                f"{nearly(name, classes)}"
            )
        elif not in_test:
            raise PpvitError(
                f"{where}: class missing in test: '{name}'; add images of it or take it out of train"
                f"{nearly(name, classes)}"
            )
