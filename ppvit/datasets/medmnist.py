"""MedMNIST v2 (Yang et al., Scientific Data 2023): medical images and volumes at 28 to 224 pixels, one npz file each.

``<flag>.npz`` is the 28 pixel file, ``<flag>_224.npz`` the large one; ``dataset.source_size`` chooses. The official
splits are kept. An image of ChestMNIST carries any number of its labels; the grades of RetinaMNIST are taken as
classes; of volumes, ``dataset.slices`` takes the middle slice or all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.labels import Label
from ppvit.datasets.fetch import fetch, md5_of
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.local import find
from ppvit.datasets.medmnist_info import INFO, Info
from ppvit.datasets.npz import array_names, rows, shape_and_dtype
from ppvit.datasets.source import (
    DATASETS,
    Request,
    Sample,
    Source,
    array_samples,
    check_classes,
    counted,
    enter,
    shard_bytes,
    warn,
)
from ppvit.datasets.understood import tell

_URL = "https://zenodo.org/records/10519652/files/{}.npz?download=1"
_MOST_IMAGES = 2**24  # of a split


def open_medmnist(request: Request) -> Source:
    """Open the user's npz file, else a folder of class folders, else the official download.

    Raises:
        UsageError: volumes are asked for without slices, a size that is not published, or one of several files at hand.
        PpvitError: the file is no MedMNIST npz of this data set, or cannot be fetched.
    """
    info = INFO[request.name]
    _require_choices(request)
    own = None if request.path is None else _own(request, info, request.path)
    if request.path is not None and own is None:
        return open_imagefolder(request, expected_classes=len(info.classes))
    if own is None:
        size = request.source_size or 28
        name = _file_name(request.name, size)
        path, official = fetch((_URL.format(name[:-4]),), request.cache / name, info.md5[size]), True
    else:
        path, official = own, md5_of(own) in info.md5.values()
        if not official:
            size = request.source_size or next((s for s in info.md5 if path.name == _file_name(request.name, s)), 28)
            warn(
                f"{path} differs from the official {_file_name(request.name, size)} (MD5 {info.md5[size]}); "
                "results may not be comparable"
            )
    name = path.name if official else f"{request.name}.npz, not the official file"
    axis = request.slice_axis if _is_volumes(request.name) else None
    return _File(path, info, axis, request.slices == "all", request.source_size).source(name)


def _require_choices(request: Request) -> None:
    info = INFO[request.name]
    if request.source_size and request.source_size not in info.md5:
        sizes = ", ".join(map(str, info.md5))
        raise UsageError(f"dataset.source_size: {request.name} is published at {sizes} px; choose one of these")
    if _is_volumes(request.name) and request.slices == "none":
        raise UsageError(
            f"dataset.name={request.name} holds volumes, not images; "
            "set dataset.slices=middle for the middle slice of each, or all"
        )


def _is_volumes(flag: str) -> bool:
    return flag.endswith("3d")


def _file_name(flag: str, size: int) -> str:
    return f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz"


def _own(request: Request, info: Info, path: Path) -> Path | None:
    """The npz file at the user's path; None where there is none of this data set."""
    if path.suffix == ".npz":
        return path
    found = {size: file for size in info.md5 if (file := find(path, _file_name(request.name, size)))}
    if not found:
        return None
    if request.source_size:
        if request.source_size not in found:
            raise PpvitError(
                f"{path} has no {_file_name(request.name, request.source_size)} but {found[min(found)].name}; "
                "put it there, or set dataset.source_size to 0"
            )
        return found[request.source_size]
    if len(found) > 1:
        raise UsageError(
            f"{path} has {request.name} at {', '.join(map(str, found))} px; set dataset.source_size to one of these"
        )
    return next(iter(found.values()))


@dataclass(frozen=True)
class _File:
    path: Path
    info: Info
    axis: int | None  # of volumes: along which they are sliced
    every_slice: bool
    size: int  # that was asked for, or 0

    def source(self, description: str) -> Source:
        """The splits of the file; ``val`` only if it is there, as in every official one."""
        present = array_names(self.path)
        splits = [s for s in ("train", "val", "test") if s != "val" or {"val_images", "val_labels"} & present]
        labels = {split: self._labels(split) for split in splits}
        shapes = {split: self._image_shape(split, len(labels[split])) for split in splits}
        if self.axis is not None and self.every_slice:
            labels = {s: [each for each in labels[s] for _ in range(shapes[s][self.axis])] for s in splits}
        several, classes = self.info.kind == "labels", list(self.info.classes)
        counts = {split: counted(labels[split]) for split in splits}
        check_classes(classes, counts["train"], counts["test"], str(self.path), several)
        grades = "its grades are ordered; they are learned and scored as classes"
        places = {split: f"{split}_images{self._sliced}" for split in splits}
        images = {split: len(labels[split]) for split in splits} if several else None
        tell(str(self.path), classes, counts, places, {}, [grades] if self.info.kind == "grades" else [], images)
        read = {split: partial(self._samples, split, labels[split]) for split in splits}
        size_bytes = sum(shard_bytes(len(labels[s]), len(labels[s]) * self._slice_bytes(shapes[s])) for s in splits)
        return Source(classes, read["train"], read["test"], description, size_bytes, read.get("val"), several)

    def _samples(self, split: str, labels: Sequence[Label]) -> Iterator[Sample]:
        return array_samples(self._images(split), labels, f"{self.path.name} {split}_images{self._sliced}")

    @property
    def _sliced(self) -> str:
        if self.axis is None:
            return ""
        return f", {'all slices' if self.every_slice else 'the middle slice'} along axis {self.axis}"

    def _images(self, split: str) -> Iterator[np.ndarray]:
        for array in rows(self.path, f"{split}_images"):
            if self.axis is None:
                yield array
                continue
            slices = np.moveaxis(array, self.axis, 0)  # (slices, H, W)
            yield from slices if self.every_slice else slices[len(slices) // 2 :][:1]

    def _slice_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) if self.axis is None else math.prod(shape) // shape[self.axis]

    def _labels(self, split: str) -> Sequence[Label]:
        name, path, classes, several = f"{split}_labels", self.path, len(self.info.classes), self.info.kind == "labels"
        shape, dtype = shape_and_dtype(path, name)
        if several and shape[1:] != (classes,):
            raise PpvitError(f"{path}: {name} has shape {shape}; expected is a 0 or 1 of each label, (n, {classes})")
        if not several and shape[1:] not in ((), (1,)):
            raise PpvitError(
                f"{path}: {name} has shape {shape}; only one label an image is supported, shape (n,) or (n, 1)"
            )
        if shape[0] > _MOST_IMAGES:
            raise PpvitError(f"{path}: {name} has {shape[0]:,} labels, more than {_MOST_IMAGES:,}")
        if dtype.kind not in "ui":
            raise PpvitError(f"{path}: {name} is {dtype}; labels must be whole numbers")
        labels: list[Label] = []
        highest = 1 if several else classes - 1
        for number, row in enumerate(rows(path, name)):
            wrong = row[(row < 0) | (row > highest)]
            if wrong.size:
                raise PpvitError(
                    f"{path}: {name}[{number}] is {wrong.flat[0]}, expected 0 to {highest}; is this the right file?"
                )
            labels.append(tuple(np.flatnonzero(row).tolist()) if several else int(row.reshape(())))
        return labels

    def _image_shape(self, split: str, expected: int) -> tuple[int, ...]:
        """Shape of an image or volume of the split, whose array is checked."""
        shape, dtype = shape_and_dtype(self.path, f"{split}_images")
        said = f"{self.path}: {split}_images is {dtype} {shape}"
        if self.axis is not None:
            if dtype != "uint8" or len(shape) != 4 or not all(shape[1:]):
                raise PpvitError(f"{said}; expected are volumes, uint8 (n, D, H, W)")
        elif dtype != "uint8" or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
            raise PpvitError(f"{said}; expected is uint8 (n, H, W) or (n, H, W, 3)")
        if shape[0] != expected:
            raise PpvitError(
                f"{self.path}: {shape[0]} {split}_images but {expected} {split}_labels; copy or download it again"
            )
        if self.size and self.size != shape[1]:
            sides = f"{shape[1]} x {shape[2]} px"
            raise PpvitError(
                f"{self.path}: {split}_images has images of {sides}, dataset.source_size is {self.size}; set it to 0"
            )
        return shape[1:]


def _says(flag: str, info: Info) -> str:
    counts = " + ".join(f"{count:,}" for count in info.counts)
    kind = "volumes" if _is_volumes(flag) else "images"
    return f"MedMNIST, {info.shows}: {counts} {kind}, {len(info.classes)} {info.kind}, {info.licence}."


for _flag, _info in INFO.items():
    enter(
        _flag,
        open_medmnist,
        _says(_flag, _info),
        reads=("source_size", *(("slices", "slice_axis") if _is_volumes(_flag) else ())),
        require=_require_choices,
    )
    for _size in _info.md5:
        if _size != 28:
            DATASETS.refuse(
                f"its size is a parameter of its own: set dataset.name={_flag} and dataset.source_size={_size}",
                f"{_flag}_{_size}",
            )
