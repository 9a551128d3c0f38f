"""What every data set gives: labelled images one at a time, as the bytes their owner has; and the registry of names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from ppvit.core.errors import PpvitError, printable
from ppvit.core.registry import Registry
from ppvit.data import decoding, images
from ppvit.data.decoding import image_extension
from ppvit.data.tar_index import IMAGE_BYTES
from ppvit.datasets.class_names import check_names


@dataclass(frozen=True)
class Sample:
    """One image: encoded bytes, their extension, a label in ``range(len(classes))``, and where it came from."""

    image: bytes
    extension: str
    label: int
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


DATASETS: Registry[Callable[[Request], Source]] = Registry("ppvit.datasets", "dataset.name")
"""What opens each data set, by name. One more is a file in this folder with a function under ``@DATASETS.register``."""


def warn(message: str) -> None:
    """Tell the user something that does not stop the work."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def shard_bytes(images: int, image_bytes: int) -> int:
    """About how much disk ``images`` images of ``image_bytes`` in all take as tar members, with label and origin."""
    return image_bytes + images * 6 * 512  # three headers, three paddings


def check_header(image: bytes, where: str) -> None:
    """Refuse bytes that do not begin like an image, or like one of more than 2^28 pixels; none is decoded.

    Raises:
        PpvitError: naming ``where``.
    """
    if not image:
        raise PpvitError(f"{where} is empty; remove it or put the image back")
    if len(image) > IMAGE_BYTES:
        raise PpvitError(f"{where} has {len(image):,} bytes, more than {IMAGE_BYTES:,}; remove or convert it")
    try:
        decoding.check_header(image, image_extension(where))
    except UnidentifiedImageError:
        raise PpvitError(f"{where} is not an image, whatever its name says; remove or convert it") from None
    except Exception as error:  # Pillow's readers name none of those that a damaged header ends in
        raise PpvitError(
            f"{where} cannot be read as an image ({decoding.reason(error)}); remove or convert it"
        ) from None


def array_samples(arrays: Iterable[np.ndarray], labels: Iterable[int], origin: str) -> Iterator[Sample]:
    """Samples of arrays, as PNG: each image uint8, (H, W) or (H, W, 3); ``origin`` gets the image's number appended."""
    for number, (image, label) in enumerate(zip(arrays, labels, strict=True)):
        yield Sample(images.encode_png(image), "png", int(label), f"{origin}[{number}]")


def check_classes(classes: list[str], train: Mapping[int, int], test: Mapping[int, int], where: str) -> None:
    """Refuse splits that cannot be trained on or would be scored wrongly.

    Args:
        classes: names; label numbers are their positions.
        train: images per label number; labels without an image may be left out.
        test: the same of the test split.
        where: the source, named in the error.

    Raises:
        PpvitError: fewer than two classes, a class that one of the splits lacks, or names that cannot be printed or
            told apart.
    """
    if len(classes) < 2:
        found = f"only '{classes[0]}'" if classes else "none"
        raise PpvitError(f"{where}: at least two classes are needed, found {found}; give every class its own folder")
    check_names(classes, where)
    for label, name in enumerate(classes):
        if not train.get(label) and not test.get(label):
            raise PpvitError(f"{where}: class {label} ('{name}') has no image; number the classes from 0 without gaps")
        if not train.get(label):
            raise PpvitError(f"{where}: class missing in train: '{name}'; add images of it or take it out of test")
        if not test.get(label):
            raise PpvitError(f"{where}: class missing in test: '{name}'; add images of it or take it out of train")
