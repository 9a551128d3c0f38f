"""How the five data sets of FGVC tell classes and splits: in the files of their publishers, and in lists of VPT."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.datasets.listed import Labels, safe_name, shown, text_of
from ppvit.datasets.matlab import variables

Read = Callable[[str], tuple[bytes, str]]
"""Contents of a file below the data set's folder, and how errors call it; a PpvitError where it is missing"""


@dataclass(frozen=True)
class Layout:
    """Splits, by the images' names below the data set's folder, and names of classes in order of their numbers."""

    splits: dict[str, Labels]
    classes: list[str]


def birds(read: Read) -> Layout:
    """CUB-200-2011 (Wah et al. 2011) and NABirds (Van Horn et al. 2015): four lists by the number of an image.

    Classes are those that occur, in order of their numbers: of NABirds the 555 leaves of a tree of 1,011.
    """
    (paths, _), (numbers, where) = _pairs(read, "images.txt"), _pairs(read, "image_class_labels.txt")
    (names, named), (sides, told) = _pairs(read, "classes.txt"), _pairs(read, "train_test_split.txt")
    if unknown := sorted(set(numbers.values()) - names.keys()):
        raise PpvitError(f"{where} has class {shown(unknown[0])}, which {named} does not name; copy the data set again")
    used = sorted(set(numbers.values()), key=lambda number: (len(number), number))
    labels = {number: label for label, number in enumerate(used)}
    splits: dict[str, Labels] = {"train": {}, "test": {}}
    for image, path in paths.items():
        if image not in numbers or sides.get(image) not in ("0", "1"):
            lacking = where if image not in numbers else told
            raise PpvitError(f"{lacking} says nothing valid of image {shown(image)}; copy the data set again")
        split = "train" if sides[image] == "1" else "test"
        splits[split][safe_name(f"images/{path}", where)] = labels[numbers[image]]
    return Layout(splits, _distinct([names[number] for number in used], used))


def flowers(read: Read) -> Layout:
    """Oxford Flowers 102 (Nilsback and Zisserman 2008): class numbers from 1 by image, three lists of images from 1."""
    data, where = read("imagelabels.mat")
    numbers = _whole(variables(data, where, "labels")[0], where)
    data, told = read("setid.mat")
    ids = dict(zip(("train", "val", "test"), variables(data, told, "trnid", "valid", "tstid"), strict=True))
    splits: dict[str, Labels] = {}
    for split, found in ids.items():
        images = _whole(found, told)
        if images.size and not 1 <= images.min() <= images.max() <= len(numbers):
            raise PpvitError(f"{told} has images beyond the {len(numbers):,} of {where}; copy the data set again")
        splits[split] = {f"jpg/image_{image:05d}.jpg": int(numbers[image - 1]) - 1 for image in images.tolist()}
    return Layout(splits, _numbered(splits, where))


def dogs(read: Read) -> Layout:
    """Stanford Dogs (Khosla et al. 2011): two lists of files with class numbers from 1; folders name the classes."""
    splits: dict[str, Labels] = {}
    where = ""
    for split in ("train", "test"):
        data, where = read(f"{split}_list.mat")
        files, found = variables(data, where, "file_list", "labels")
        splits[split] = _labelled("Images", [str(file) for file in np.atleast_1d(files)], found, where)
    folders = _folders(splits, len(_numbered(splits, where)))
    return Layout(splits, [name.partition("-")[2] or name for name in folders] or _numbered(splits, where))


def cars(read: Read) -> Layout:
    """Stanford Cars (Krause et al. 2013), as torchvision has it: a development kit and the labels of test images."""
    data, where = read("devkit/cars_meta.mat")
    classes = [str(name) for name in np.atleast_1d(variables(data, where, "class_names")[0])]
    splits: dict[str, Labels] = {}
    for split, name in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        data, where = read(name)
        rows = np.atleast_1d(variables(data, where, "annotations")[0])
        if not all(isinstance(row, dict) and {"fname", "class"} <= row.keys() for row in rows):
            raise PpvitError(f"{where}: annotations lack file names or classes; is it the file with labels?")
        found = [row["class"] for row in rows]
        splits[split] = _labelled(f"cars_{split}", [str(row["fname"]) for row in rows], found, where)
    if len(_numbered(splits, where)) > len(classes):
        raise PpvitError(f"{where} has more classes than the {len(classes)} of cars_meta.mat; copy the data set again")
    return Layout(splits, classes)


def lists_of_vpt(read: Read, there: Callable[[str], bool]) -> Layout:
    """VPT's splits (Jia et al. 2022): ``train.json``, ``val.json`` and ``test.json``, a class number by image.

    Classes are numbered in the order of the numbers that occur. Images lie in a folder of the data set, or beside.

    Args:
        read: gives the lists.
        there: whether there is an image of this name.
    """
    lists: dict[str, dict[str, int]] = {}
    where = ""
    for split in ("train", "val", "test"):
        data, where = read(f"{split}.json")
        lists[split] = _object(data, where)
    used = sorted({number for numbers in lists.values() for number in numbers.values()})
    labels = {number: label for label, number in enumerate(used)}
    first = safe_name(next(iter(lists["train"])), where)
    folder = next((each for each in ("", "images/", "Images/", "jpg/") if there(f"{each}{first}")), "")
    splits = {
        split: {safe_name(f"{folder}{name}", where): labels[number] for name, number in numbers.items()}
        for split, numbers in lists.items()
    }
    if any(len(splits[split]) != len(numbers) for split, numbers in lists.items()):
        raise PpvitError(f"{where} or a list beside it has an image in two spellings; copy the lists again")
    return Layout(splits, _folders(splits, len(used)) or [str(number) for number in used])


def _object(data: bytes, where: str) -> dict[str, int]:
    """A JSON object of class numbers by image."""

    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        found = json.loads(text_of(data, where), object_pairs_hook=unrepeated)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise PpvitError(f"{where} is not valid JSON ({reason}); copy the lists again") from None
    wrong = not isinstance(found, dict) or not found
    if wrong or not all(type(number) is int and 0 <= number < 2**31 for number in found.values()):
        raise PpvitError(
            f"{where} is no list of VPT, which is one JSON object of class numbers by image; copy it again"
        )
    numbers: dict[str, int] = found
    return numbers


def _pairs(read: Read, name: str) -> tuple[dict[str, str], str]:
    """Lines of a key, a blank and a value."""
    data, where = read(name)
    pairs: dict[str, str] = {}
    for number, line in enumerate(text_of(data, where).splitlines(), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        if not value or key in pairs:
            wrong = "has no value after a blank" if not value else "stands there twice"
            raise PpvitError(f"{where}, line {number}: {shown(key)} {wrong}; copy the data set again")
        pairs[key] = value.strip()
    if not pairs:
        raise PpvitError(f"{where} is empty; copy the data set again")
    return pairs, where


def _whole(found: Any, where: str) -> np.ndarray:
    """Whole numbers of a variable, int64 (n,)."""
    numbers = np.atleast_1d(np.asarray(found))
    if numbers.ndim != 1 or numbers.dtype.kind not in "uif" or not np.all(numbers == np.trunc(numbers)):
        raise PpvitError(f"{where} has something else than whole numbers in a row; copy it again")
    return numbers.astype(np.int64)


def _labelled(folder: str, files: list[str], found: Any, where: str) -> Labels:
    """Class numbers by file; those in the variable count from 1."""
    numbers = _whole(found, where)
    if len(files) != len(numbers):
        raise PpvitError(f"{where} has {len(files):,} files and {len(numbers):,} labels; copy it again")
    labels = {
        safe_name(f"{folder}/{file}", where): label - 1 for file, label in zip(files, numbers.tolist(), strict=True)
    }
    if len(labels) < len(files):
        raise PpvitError(f"{where} has a file twice; copy it again")
    return labels


def _numbered(splits: dict[str, Labels], where: str) -> list[str]:
    """The published numbers as names of classes that have none."""
    numbers = {number for labels in splits.values() for number in labels.values()}
    if not numbers or min(numbers) < 0 or max(numbers) >= 2**16:
        raise PpvitError(f"{where} has no class numbers from 1; copy it again")
    return [str(number + 1) for number in range(max(numbers) + 1)]


def _folders(splits: dict[str, Labels], classes: int) -> list[str]:
    """The folders of images as names of classes, where every class has one of its own; else none."""
    found: dict[int, set[str]] = {}
    for labels in splits.values():
        for name, label in labels.items():
            found.setdefault(label, set()).add(name.rpartition("/")[0].rpartition("/")[2])
    names = [min(found[label]) for label in sorted(found)]
    alone = all(len(folders) == 1 for folders in found.values())
    return names if alone and "" not in names and len(found) == len(set(names)) == classes else []


def _distinct(names: list[str], numbers: Iterable[str]) -> list[str]:
    """Names, with numbers where two are the same; CUB has its numbers in front of them."""
    bare = [re.sub(r"^\d+\.", "", name).replace("_", " ") for name in names]
    return [name if bare.count(name) == 1 else f"{name} ({number})" for name, number in zip(bare, numbers, strict=True)]
