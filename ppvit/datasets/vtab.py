"""VTAB-1k (Zhai et al. 2020, arXiv 1910.04867): 19 tasks of 800 training and 200 validation images, and all of test.

Opened is the archive that papers on fine-tuning share (made for NOAH, Zhang et al. 2022, also used by SSF and
RepAdapter): a folder a task with ``train800.txt``, ``val200.txt``, ``train800val200.txt`` and ``test.txt``, whose lines
are a path and a class number. Which images these are follows from the order in a version of TensorFlow Datasets, so
that no other source gives the same thousand; none is fetched. Numbers of classes and test images: second-hand, as
papers print them.

Many papers take ``val200.txt`` to choose settings and train the last model on all 1,000: ``dataset.own_val=train``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ppvit.core.errors import PpvitError, UsageError
from ppvit.datasets.listed import Labels, Tree, open_listed, parsed_list
from ppvit.datasets.local import only_archive
from ppvit.datasets.source import Request, Source, enter, warn

LISTS = {"train": "train800.txt", "val": "val200.txt", "both": "train800val200.txt", "test": "test.txt"}
_AROUND = ("vtab-1k", "vtab")  # the folder of all tasks


@dataclass(frozen=True)
class Task:
    """One of the 19.

    Attributes:
        group: of the benchmark, whose means are taken of the groups or of all tasks.
        shows: what is seen.
        folders: what the task's folder is called in the archive, and in others' copies of it.
        classes: names in order of their numbers, or how many, which are named by their numbers.
        test: test images.
    """

    group: Literal["natural", "specialised", "structured"]
    shows: str
    folders: tuple[str, ...]
    classes: int | tuple[str, ...]
    test: int

    @property
    def names(self) -> list[str]:
        if isinstance(self.classes, int):
            return [str(number) for number in range(self.classes)]
        return list(self.classes)


_DISTANCES = ("below 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "from 10")
TASKS = {
    "cifar100": Task("natural", "photographs of 32 px", ("cifar", "cifar100"), 100, 10_000),
    "caltech101": Task("natural", "objects", ("caltech101",), 102, 6_084),
    "dtd": Task("natural", "textures", ("dtd",), 47, 1_880),
    "flowers102": Task("natural", "flowers", ("oxford_flowers102", "flowers102"), 102, 6_149),
    "pets": Task("natural", "cats and dogs", ("oxford_iiit_pet", "oxford_pet", "pets"), 37, 3_669),
    "svhn": Task("natural", "house numbers", ("svhn",), 10, 26_032),
    "sun397": Task("natural", "scenes", ("sun397",), 397, 21_750),
    "camelyon": Task("specialised", "lymph nodes", ("patch_camelyon", "camelyon"), ("no tumour", "tumour"), 32_768),
    "eurosat": Task("specialised", "land from a satellite", ("eurosat",), 10, 5_400),
    "resisc45": Task("specialised", "land from the air", ("resisc45",), 45, 6_300),
    "retinopathy": Task(
        *("specialised", "eyes with graded retinopathy", ("diabetic_retinopathy", "retinopathy")),
        *(tuple(f"grade {grade}" for grade in range(5)), 42_670),
    ),
    "clevr_count": Task(
        *("structured", "rendered objects, their number", ("clevr_count",)),
        *(tuple(f"{count} objects" for count in range(3, 11)), 15_000),
    ),
    "clevr_dist": Task(
        "structured", "rendered objects, the distance of the nearest", ("clevr_dist",), _DISTANCES, 15_000
    ),
    "dmlab": Task("structured", "mazes, distance and kind of the object", ("dmlab",), 6, 22_735),
    "kitti": Task(
        *("structured", "streets, the distance of the nearest vehicle", ("kitti", "kitti_dist")),
        *(("below 8 m", "8 to 20 m", "beyond 20 m", "no vehicle"), 711),
    ),
    "dsprites_loc": Task("structured", "shapes, where they lie", ("dsprites_loc",), 16, 73_728),
    "dsprites_ori": Task("structured", "shapes, how they are turned", ("dsprites_ori",), 16, 73_728),
    "smallnorb_azi": Task("structured", "toys, their azimuth", ("smallnorb_azi",), 18, 12_150),
    "smallnorb_ele": Task("structured", "toys, their elevation", ("smallnorb_ele",), 9, 12_150),
}


def open_vtab(request: Request) -> Source:
    """Open a task of the prepared archive: its folder, the folder of all tasks, or a tar or zip of either.

    Raises:
        UsageError: there is no path.
        PpvitError: lists or images are missing, wrong, or of another task.
    """
    name, task = request.name, TASKS[request.name.removeprefix("vtab_")]
    path = _narrowed(only_archive(_require_archive(request)), task)
    tree = Tree.of([path], LISTS.values())
    root = _root(tree, task, name)
    lists = {
        kind: _rooted(root, parsed_list(data, f"{tree.where}: {file}", len(task.names)))
        for kind, file in LISTS.items()
        if (data := tree.texts.get("/".join((*root, file)))) is not None
    }
    splits, published, notes = _splits(lists, tree.where, task)
    description = f"VTAB-1k {name.removeprefix('vtab_')}, prepared archive"
    return open_listed(tree, splits, task.names, description, published, notes)


def _require_archive(request: Request) -> Path:
    if request.path is None:
        task = TASKS[request.name.removeprefix("vtab_")]
        raise UsageError(
            f"dataset.name={request.name} is not fetched: set dataset.path to the prepared archive of VTAB-1k, "
            f"unpacked or not, with {task.folders[0]}/{LISTS['train']}"
        )
    return request.path


def _narrowed(path: Path, task: Task) -> Path:
    """The folder of the task, so that those of the 18 others are not walked through."""
    if not path.is_dir():
        return path
    folders = (path / around / folder for around in ("", *_AROUND) for folder in task.folders)
    return next((folder for folder in folders if folder.is_dir()), path)


def _root(tree: Tree, task: Task, name: str) -> tuple[str, ...]:
    """The folder with the lists of the task."""
    found = [root for root in tree.roots(LISTS["test"]) if tree.texts.keys() & _all_lists(root)]
    called = {root: root[-1] if root else tree.paths[0].name.split(".")[0] for root in found}
    own = [root for root in found if called[root] in task.folders]
    others = {folder for other in TASKS.values() if other is not task for folder in other.folders}
    unknown = [root for root in found if called[root] not in others]
    if len(own or unknown) == 1:
        return (own or unknown)[0]
    if not found:
        raise PpvitError(
            f"{tree.where} has no {LISTS['test']} with {LISTS['train']} and {LISTS['val']}, or {LISTS['both']}, beside "
            f"it; {name} needs these lists"
        )
    there = ", ".join(sorted(set(called.values())))
    raise PpvitError(f"{tree.where} has lists of {there}; {name} needs one folder {task.folders[0]}, set dataset.path")


def _all_lists(root: tuple[str, ...]) -> set[str]:
    return {"/".join((*root, LISTS[kind])) for kind in ("train", "both")}


def _rooted(root: tuple[str, ...], labels: Labels) -> Labels:
    return {"/".join((*root, name)): label for name, label in labels.items()}


def _splits(lists: dict[str, Labels], where: str, task: Task) -> tuple[dict[str, Labels], dict[str, int], list[str]]:
    """Splits, how many images the published ones have, and what is told of the choice."""
    if "train" in lists and "val" in lists:
        if "both" in lists and _counts(lists["both"]) != _counts(lists["train"]) + _counts(lists["val"]):
            warn(
                f"{where}: {LISTS['both']} has other classes than {LISTS['train']} with {LISTS['val']}; it is not used"
            )
        order = ("train", "val", "test")
        return {split: lists[split] for split in order}, {"train": 800, "val": 200, "test": task.test}, []
    if "both" not in lists:
        raise PpvitError(f"{where} has {LISTS['train']} without {LISTS['val']}; copy the data set again")
    note = f"without {LISTS['train']} and {LISTS['val']}, dataset.val_fraction of all 1,000 images is held out"
    return {"train": lists["both"], "test": lists["test"]}, {"train": 1_000, "test": task.test}, [note]


def _counts(labels: Labels) -> Counter[int]:
    return Counter(labels.values())


def _says(task: Task) -> str:
    return (
        f"VTAB-1k, {task.group}, {task.shows}: 800 + 200 + {task.test:,} images, {len(task.names)} classes, "
        f"by dataset.path, licence of the task's own source."
    )


for _name, _task in TASKS.items():
    enter(f"vtab_{_name}", open_vtab, _says(_task), require=_require_archive)
