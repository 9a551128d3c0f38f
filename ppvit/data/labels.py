"""Labels of images, multi-class or multi-label: how they are written, kept in memory, counted and stratified.

Multi-class: every image is of one class, whose number is its label. Multi-label: every image carries any number of the
classes, none included. What a model's logits mean for either is in :mod:`ppvit.models.tasks`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ppvit.core.errors import PpvitError

TaskName = Literal["multiclass", "multilabel"]
# a class number; multi-label: class numbers in ascending order, possibly none
Label = int | tuple[int, ...]
_NUMBER = rb"(?:0|[1-9][0-9]{0,8})"  # without zeros in front, so that no label has a longer text than all classes
MOST_LABELS = 2**12  # of a multi-label data set; a byte for each of them is kept an image


@dataclass(frozen=True)
class Labelling(ABC):
    """How the labels of a data set are told.

    Attributes:
        classes: C; class numbers are below.
        task: as manifests and records name it.
    """

    classes: int
    task: ClassVar[TaskName]

    @property
    @abstractmethod
    def text_bytes(self) -> int:
        """How long the text of a label may be."""

    @abstractmethod
    def text(self, label: Any) -> str:
        """A label as ``.cls`` members have it: of one row of :meth:`empty`, or a :data:`Label`."""

    @abstractmethod
    def parsed(self, text: bytes, where: str) -> Any:
        """The inverse of :meth:`text`: what a row of :meth:`empty` is set to.

        Raises:
            PpvitError: names ``where``.
        """

    @abstractmethod
    def empty(self, images: int) -> npt.NDArray[Any]:
        """Memory for the labels of so many images, zeros."""

    @abstractmethod
    def targets(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Labels as training takes them: int64 (n,), or float32 (n, C) of 0 and 1."""

    @abstractmethod
    def strata(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The stratum of every image, (n,): a fraction of a data set is that fraction of each."""

    @abstractmethod
    def counts(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Images of every class, (C,)."""


@dataclass(frozen=True)
class ClassNumbers(Labelling):
    """Multi-class: class numbers, int64 (n,); a stratum is a class, and the text its number."""

    task = "multiclass"

    @property
    def text_bytes(self) -> int:
        return 20

    def text(self, label: Any) -> str:
        return str(int(label))

    def parsed(self, text: bytes, where: str) -> int:
        if not re.fullmatch(rb"[0-9]{1,9}", text):
            raise PpvitError(f"{where}: .cls holds {text[:20]!r}, not a class number; make the shard again")
        return _below(int(text), self.classes, where)

    def empty(self, images: int) -> npt.NDArray[np.int32]:
        return np.zeros(images, np.int32)

    def targets(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return labels.astype(np.int64, copy=False)

    def strata(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return labels.astype(np.int64, copy=False)

    def counts(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.bincount(labels, minlength=self.classes)


@dataclass(frozen=True)
class LabelSets(Labelling):
    """Multi-label: which classes an image carries, bool (n, C).

    The text is the class numbers in ascending order with a blank between two, as in ``0 3 11``; empty for an image that
    carries none. Reading ends in an error at anything else, such as a number twice.

    The stratum of an image is the rarest of its classes (of equally rare ones the first), or C where it carries none:
    the first choice of iterative stratification (Sechidis et al., 2011, "On the stratification of multi-label data"). A
    stratum a combination of classes would leave most combinations of many classes with a single image.
    """

    task = "multilabel"

    @property
    def text_bytes(self) -> int:
        return len(self.text(range(self.classes)))

    def text(self, label: Any) -> str:
        numbers = np.flatnonzero(label) if isinstance(label, np.ndarray) else label
        return " ".join(str(int(number)) for number in numbers)

    def parsed(self, text: bytes, where: str) -> npt.NDArray[np.bool_]:
        carried = np.zeros(self.classes, bool)
        if not re.fullmatch(rb"(?:%b(?: %b)*)?" % (_NUMBER, _NUMBER), text):
            raise PpvitError(
                f"{where}: .cls holds {text[:20]!r}, not class numbers with a blank between two; make the shard again"
            )
        numbers = [_below(int(number), self.classes, where) for number in text.split()]
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            raise PpvitError(f"{where}: the class numbers in .cls do not ascend; make the shard again")
        carried[numbers] = True
        return carried

    def empty(self, images: int) -> npt.NDArray[np.bool_]:
        return np.zeros((images, self.classes), bool)

    def targets(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return labels.astype(np.float32)

    def strata(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        strata = np.full(len(labels), self.classes, np.int64)
        counts = self.counts(labels)
        for number in sorted(
            range(self.classes), key=lambda each: (-counts[each], -each)
        ):  # the rarest has the last word
            strata[labels[:, number]] = number
        return strata

    def counts(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        counts: npt.NDArray[np.int64] = labels.sum(axis=0, dtype=np.int64)
        return counts


_KINDS: dict[TaskName, type[Labelling]] = {kind.task: kind for kind in (ClassNumbers, LabelSets)}


def labelling_of(task: TaskName, classes: int) -> Labelling:
    """How a data set of so many classes is labelled."""
    return _KINDS[task](classes)


def recorded(task: TaskName) -> Mapping[str, TaskName]:
    """What manifests and records say of the task: nothing where it is multi-class, as those of before."""
    return {} if task == ClassNumbers.task else {"task": task}


def _below(number: int, classes: int, where: str) -> int:
    if number >= classes:
        raise PpvitError(f"{where} has class {number}, the manifest says {classes} classes; make the shard again")
    return number
