"""Which folders or files are the training, validation and test images, told by the meaning of their names.

``Training``, ``seg_train`` and ``cifar10-train-000.tar`` mean the same; ``training_shoes`` beside ``boots`` is a class.
A name counts alone only where nothing but such a word is in it; as a part of a longer one it needs a counterpart, as
``seg_train`` has in ``seg_test``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from ppvit.core.errors import PpvitError
from ppvit.datasets.class_names import nearly

_MEANINGS = {
    **dict.fromkeys(("train", "training", "trainset", "trainingset", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "validationset", "dev", "devset", "eval"), "val"),
    **dict.fromkeys(("test", "tests", "testing", "testset", "testingset"), "test"),
}
# words that say nothing about what images show
_EMPTY = {"set", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "split", "splits", "folder"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")  # without numbers: train2017, 2_test
_WHOLE: frozenset[str] = frozenset()  # rest of a name in which nothing but a split is meant
_SHOWN = 6  # folders of a level that an error lists

Path = tuple[str, ...]


@lru_cache(2**12)
def split_of(name: str) -> tuple[str | None, frozenset[str]]:
    """The split that a name means, or None, and the words in it that mean something else."""
    words = {word.lower() for word in _WORD.findall(name)}
    meanings = {_MEANINGS[word] for word in words if word in _MEANINGS}
    rest = frozenset(words - _MEANINGS.keys() - _EMPTY)
    return (meanings.pop() if len(meanings) == 1 else None), rest


@dataclass
class Folder:
    """A folder of images: how many lie in it, how many below it, and the folders in it that hold any."""

    own: int = 0
    total: int = 0
    inner: dict[str, Folder] = field(default_factory=dict)

    @classmethod
    def of(cls, images: Counter[Path]) -> Folder:
        """The tree of folders, from the number of images that lie directly in each."""
        root = cls()
        for path, count in images.items():
            folder = root
            folder.total += count
            for name in path:
                folder = folder.inner.setdefault(name, cls())
                folder.total += count
            folder.own += count
        return root

    def at(self, path: Path) -> Folder:
        """The folder of that path below this one."""
        folder = self
        for name in path:
            folder = folder.inner[name]
        return folder


@dataclass(frozen=True)
class Layout:
    """What a tree of folders was understood as.

    Attributes:
        root: the folders around, which are no part of an image's name.
        classes: class folder -> split (``train``, ``val``, ``test``, or "" where there are none) and class name.
        folders: split -> the folder it lies in, as it is told to the user.
        notes: what was decided that the folders do not say.
    """

    root: Path
    classes: dict[Path, tuple[str, str]]
    folders: dict[str, str]
    notes: tuple[str, ...] = ()

    def locate(self, folders: Path) -> tuple[str, str] | None:
        """(split or "", class) of images in that folder of the tree, None where they belong to neither."""
        places = (self.classes.get(folders[:depth]) for depth in self._depths)
        return next((place for place in places if place), None)

    @cached_property
    def _depths(self) -> list[int]:
        return sorted({len(folder) for folder in self.classes})


def find_layout(images: Counter[Path], where: str) -> Layout:
    """Find splits and classes.

    Args:
        images: number of images that lie directly in each folder.
        where: the data set, named in errors.

    Raises:
        PpvitError: there are no class folders, or it is not clear which folders are splits; tells what was found.
    """
    tree = Folder.of(images)
    root = _unwrapped(tree, ())
    finder = _Finder(tree, where)
    if splits := finder.splits_in(root, strict=True):
        return finder.layout(root, splits)
    inner = {path: found for path in _below(tree, root) if (found := finder.splits_in(path))}
    if inner:
        return finder.layout_of_inner(root, inner)
    if not tree.at(root).inner:
        raise PpvitError(f"{where}: the images lie in no class folders; sort them into one folder per class")
    copy = finder.copy_in(root)
    classes = tree.at(root).inner.keys() - {copy}
    notes = (f"{copy} holds the same folders once more and is left out",) if copy else ()
    return Layout(root, {(*root, name): ("", name) for name in sorted(classes)}, {"": "/".join(root)}, notes)


def _and_more(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _unwrapped(tree: Folder, path: Path, split: str = "") -> Path:
    """Down from a folder as long as there is one folder in it, and folders in that.

    Of a split also where there are none: ``test/test/1.jpg`` has no class called test.
    """
    folder = tree.at(path)
    while len(folder.inner) == 1:
        ((name, only),) = folder.inner.items()
        again = split and path and (name == path[-1] or split_of(name) == (split, _WHOLE))
        if not only.inner and not again:
            break
        path, folder = (*path, name), only
    return path


def _below(tree: Folder, path: Path) -> Iterable[Path]:
    for name, inner in tree.at(path).inner.items():
        if inner.inner:
            yield (*path, name)
            yield from _below(tree, (*path, name))


class _Finder:
    def __init__(self, tree: Folder, where: str) -> None:
        self._tree, self._where = tree, where

    def splits_in(self, path: Path, strict: bool = False) -> dict[str, Path]:
        """Folders in ``path`` that are splits, with training and others among them; none where there are none.

        Args:
            path: a folder.
            strict: refuse what may or may not be meant as splits.
        """
        groups = self._groups(path)
        full = [rest for rest, group in groups.items() if "train" in group and len(group) > 1]
        if not full:
            if strict:
                self._require_no_splits(path, groups)
            return {}
        rest = _WHOLE if _WHOLE in full else full[0]
        names = [name for name in self._tree.at(path).inner if split_of(name)[0] is None or split_of(name)[1] != rest]
        twice = next((each for each in groups[rest].values() if len(each) > 1), None)
        if twice:
            self._refuse(path, f"both {twice[0]} and {twice[1]} may be one split")
        if rest != _WHOLE:
            stranger = next((name for name in names if not split_of(name)[1] & rest), None)
            flat = all(not self._classes_of(split, (*path, name)) for split, (name,) in groups[rest].items())
            if len(full) > 1 or stranger is not None or flat:
                self._refuse(path, f"{groups[rest]['train'][0]} may be a split or a class")
        splits = {split: (*path, name) for split, (name,) in groups[rest].items()}
        classes = self._classes_of("train", splits["train"])
        if class_too := next((name for name in names if name in classes), None):
            self._refuse(path, f"{class_too} lies beside {splits['train'][-1]} and in it")
        return splits

    def copy_in(self, path: Path) -> str | None:
        """The folder that holds all folders once more beside which it lies, as archives have that were packed twice."""
        level = self._tree.at(path).inner
        for name in level:
            others, inside = level.keys() - {name}, self._classes_of("", (*path, name))
            if len(others) > 1 and inside == others:
                return name
            if len(both := sorted(others & inside)) > 1:
                self._refuse(path, f"{both[0]} and {both[1]} lie beside {name} and in it")
        return None

    def _groups(self, path: Path) -> dict[frozenset[str], dict[str, list[str]]]:
        """Names of folders that mean a split, by the rest of their words and by split."""
        groups: dict[frozenset[str], dict[str, list[str]]] = {}
        for name in self._tree.at(path).inner:
            split, rest = split_of(name)
            if split:
                groups.setdefault(rest, {}).setdefault(split, []).append(name)
        return groups

    def _classes_of(self, split: str, path: Path) -> set[str]:
        return set(self._tree.at(_unwrapped(self._tree, path, split)).inner)

    def _require_no_splits(self, path: Path, groups: dict[frozenset[str], dict[str, list[str]]]) -> None:
        """Refuse folders that may be splits though none of them has a counterpart."""
        level = self._tree.at(path).inner
        if any(len(group) > 1 for group in groups.values()):
            self._refuse(path, "there is no folder of training images beside the others")
        trains = [name for group in groups.values() for name in group.get("train", [])]
        others = [name for group in groups.values() for split in ("val", "test") for name in group.get(split, [])]
        for train in trains:
            classes = self._classes_of("train", (*path, train))
            if split_of(train)[1] == _WHOLE and len(classes) > 1 and len(level) > 1:
                self._refuse(path, f"{train} holds folders, as a split does, but there is no test or val beside it")
            if other := next((name for name in others if classes & self._classes_of("test", (*path, name))), None):
                self._refuse(path, f"{train} and {other} hold folders of the same names")

    def layout(self, root: Path, splits: dict[str, Path]) -> Layout:
        """Class folders of splits; ``val`` stands in for a test split that there is not.

        Where nothing but training images is sorted into classes, as in competitions, there are no splits.
        """
        insides = {split: _unwrapped(self._tree, path, split) for split, path in splits.items()}
        classes = {split: set(self._tree.at(path).inner) for split, path in insides.items()}
        told = {split: "/".join(path) for split, path in splits.items()}
        if not classes["train"]:
            raise PpvitError(
                f"{self._where}: {told['train']}/ holds images but no class folders; "
                f"sort them into {told['train']}/<class>/ or take them away"
            )
        labelled = [split for split in ("train", "val", "test") if classes.get(split, set()) & classes["train"]]
        notes = []
        for split in sorted(told.keys() - labelled):
            if len(labelled) == 1 and (unknown := {name for name in classes[split] if name.lower() not in _EMPTY}):
                raise PpvitError(
                    f"{self._where}: {told[split]}/ has none of the class folders of {told['train']}/; sort its images "
                    f"into {told[split]}/<class>/ or take them away{nearly(min(unknown), classes['train'])}"
                )
            notes.append(f"{told[split]} has none of the classes and is left out")
        if len(labelled) == 1:
            root = insides["train"]
            return Layout(
                root, {(*root, name): ("", name) for name in sorted(classes["train"])}, {"": "/".join(root)}, (*notes,)
            )
        renamed = {split: split for split in labelled}
        if "test" not in labelled:
            renamed["val"] = "test"
            notes.append(f"{told['val']} is used as the test split, since no other is sorted into classes")
        return Layout(
            root,
            {
                (*insides[split], name): (renamed[split], name)
                for split in labelled
                for name in self._tree.at(insides[split]).inner
            },
            {renamed[split]: "/".join(insides[split]) for split in labelled},
            tuple(notes),
        )

    def layout_of_inner(self, root: Path, inner: dict[Path, dict[str, Path]]) -> Layout:
        """Where split folders lie deeper: in each class, or in one of several folders."""
        level = self._tree.at(root).inner
        flat = all(not self._tree.at(split).inner for splits in inner.values() for split in splits.values())
        if flat and inner.keys() == {(*root, name) for name in level}:
            return self._layout_in_classes(root, inner)
        if len(inner) > 1 or flat:
            first, *more = ("/".join(path) for path in inner)
            told = f"{first} and {more[0]} have splits each" if more else f"{first} has splits, and others have not"
            self._refuse(root, told)
        ((path, splits),) = inner.items()
        return self.layout(path, splits)

    def _layout_in_classes(self, root: Path, inner: dict[Path, dict[str, Path]]) -> Layout:
        kinds = {split for splits in inner.values() for split in splits}
        stands_in = {} if "test" in kinds else {"val": "test"}
        classes = {
            folder: (stands_in.get(split, split), path[-1])
            for path, splits in inner.items()
            for split, folder in splits.items()
        }
        folders = {
            stands_in.get(split, split): "/".join((*root, "<class>", splits[split][-1]))
            for splits in inner.values()
            for split in splits
        }
        notes = ("val is used as the test split, since there is no other",) if stands_in else ()
        return Layout(root, classes, folders, notes)

    def _refuse(self, path: Path, why: str) -> None:
        level = self._tree.at(path).inner
        found = [
            f"{name}/ ({each.total:,} images" + (f" in {len(each.inner):,} folders)" if each.inner else ")")
            for name, each in sorted(level.items())
        ]
        raise PpvitError(
            f"{'/'.join((self._where, *path))}: it is not clear which folders are splits and which are classes: {why}; "
            f"found {_and_more(found)}; name the splits train, val and test, take away what is neither, "
            "or set dataset.path to the folder that holds the classes"
        )
