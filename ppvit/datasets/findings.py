"""What `download` finds about the images of a data set: which are kept, figures, and all of it in rows for a list."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ppvit.config import Dataset
from ppvit.data.decoded import is_narrow
from ppvit.data.labels import Label
from ppvit.data.manifests import SPLITS
from ppvit.datasets.checked import Seen
from ppvit.datasets.duplicates import Known, Prints, Repeats, Twin, repeats
from ppvit.datasets.source import Sample

COLUMNS = ("finding", "split", "class", "file", "other split", "other class", "other file")
Row = tuple[str, ...]
_NAMED, _LETTERS = 3, 120  # files in a message, and how much of each


class Findings:
    """Takes what was seen of the images of every split, in the order of ``SPLITS``, and decides which are kept.

    Args:
        classes: names, by number.
        settings: ``bad_images`` and ``duplicates`` are used.

    Attributes:
        wide: training images above 8 bits, as :class:`ppvit.data.manifests.Wide` has them; None where there are
            none.
    """

    def __init__(self, classes: list[str], settings: Dataset) -> None:
        self.wide: dict[str, Any] | None = None
        self._classes, self._settings = classes, settings
        self._prints: dict[str, Prints] = {}
        self._near: dict[str, list[tuple[int, Twin]]] = {}  # number in the split; the twin's in all splits before
        self._faults: list[tuple[str, Sample, str]] = []  # split, sample without its bytes, reason
        self._dropped = 0
        self._extremes = array("d")  # two of each image above 8 bits
        self._labels: list[Label] = []  # that occur, each in its place
        self._places: dict[Label, int] = {}
        self._seen, self._kept = Counter[tuple[str, int]](), Counter[tuple[str, int]]()  # by split and class

    def kept(self, split: str, batches: Iterable[list[tuple[Sample, Seen]]]) -> Iterator[Sample]:
        """The samples that are to be written, in their order."""
        known = Known(*self._entered())
        prints, near = self._prints[split], self._near[split] = Prints(), []
        for batch in batches:
            start = len(prints)
            sound = [sample for sample, seen in batch if self._enter(split, sample, seen)]
            twins = known.twins(prints.pixels(start), prints.looks(start))
            for number, (sample, twin) in enumerate(zip(sound, twins, strict=True), start):
                if twin is not None and twin.bits is not None:
                    near.append((number, twin))
                if twin is not None and split == "test" and self._settings.duplicates == "drop_from_test":
                    self._dropped += 1
                    continue
                self._kept.update((split, number) for number in _numbers(sample.label))
                yield sample

    def _enter(self, split: str, sample: Sample, seen: Seen) -> bool:
        """Note what was seen of an image; whether it can be decoded."""
        self._seen.update((split, number) for number in _numbers(sample.label))
        if seen.fault:
            self._faults.append((split, Sample(b"", sample.extension, sample.label, sample.origin), seen.fault))
            return False
        if sample.label not in self._places:
            self._places[sample.label] = len(self._labels)
            self._labels.append(sample.label)
        self._prints[split].add(seen.pixels, seen.look, self._places[sample.label], sample.origin)
        self._extremes.extend(seen.extremes or ())
        if seen.extremes is not None and split == "train":
            (low, high), wide = seen.extremes, self.wide
            images, lowest, highest = (wide["images"], wide["low"], wide["high"]) if wide else (0, low, high)
            self.wide = {"images": images + 1, "low": min(low, lowest), "high": max(high, highest)}
        return True

    def _entered(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Pixels and looks of the images of all splits so far."""
        prints = [Prints(), *self._prints.values()]
        return np.concatenate([each.pixels() for each in prints]), np.concatenate([each.looks() for each in prints])

    @cached_property
    def _repeats(self) -> Repeats:
        return repeats(self._entered()[0], np.concatenate([each.labels() for each in self._prints.values()]))

    @cached_property
    def checks(self) -> dict[str, int]:
        """The figures, as :class:`ppvit.data.manifests.Checks` has them; to be asked for once all splits are in."""
        figures = {"unreadable": len(self._faults), "two_labels": int(self._repeats.two_labels.sum())}
        earlier = Prints().pixels()
        for split in SPLITS:
            pixels = self._prints.get(split, Prints()).pixels()
            figures[f"{split}_repeated"] = len(pixels) - len(np.unique(pixels))
            if split != "train":
                figures[f"{split}_known"] = int(np.isin(pixels, earlier).sum())
                figures[f"{split}_near"] = len(self._near.get(split, []))
            earlier = np.concatenate([earlier, pixels])
        return {**figures, "test_dropped": self._dropped}

    def refusal(self) -> str:
        """Why the data set is refused, by its settings; else empty."""
        if self._faults and self._settings.bad_images == "error":
            return f"{self._unreadable()}; repair or remove them, or set dataset.bad_images=skip"
        for split, prints in self._prints.items():
            bad = sum(each == split for each, _, _ in self._faults)
            if bad > len(prints):
                return f"{self._unreadable()}, most of the {bad + len(prints)} of {split}; repair them or take others"
        figures = self.checks
        found = self._leaks(figures)
        if found and self._settings.duplicates == "error":
            return f"{found}; take them out, or set dataset.duplicates to drop_from_test or warn"
        for split, number in sorted(self._seen):
            if not self._kept[split, number]:
                why = (
                    "dropping test images that are known" if self._dropped and split == "test" else "skipping bad files"
                )
                return f"{why} would leave no {split} image of class '{self._classes[number]}'; add some or repair them"
        return ""

    def remarks(self) -> list[str]:
        """What the owner is told where the data set is taken."""
        figures = self.checks
        told = [f"{self._unreadable()} and left out"] if self._faults else []
        if found := self._leaks(figures):
            left = f"; {figures['test_dropped']} test images were left out" if figures["test_dropped"] else ""
            told.append(found + left)
        if narrow := self._narrow():
            told.append(narrow)
        if repeated := [
            f"{figures[f'{split}_repeated']} in {split}" for split in SPLITS if figures[f"{split}_repeated"]
        ]:
            told.append(f"images that repeat the pixels of another one of their split: {', '.join(repeated)}")
        return told

    def _unreadable(self) -> str:
        named = [f"{sample.origin[-_LETTERS:]} ({reason[:_LETTERS]})" for _, sample, reason in self._faults[:_NAMED]]
        more = f" and {len(self._faults) - _NAMED:,} more" if len(self._faults) > _NAMED else ""
        return f"images that cannot be decoded: {', '.join(named)}{more}"

    def _narrow(self) -> str:
        """How many images hardly differ from one grey under the range of the data set; empty where none."""
        if self.wide is None:
            return ""
        low, high = self.wide["low"], self.wide["high"]
        ends = np.array(self._extremes).reshape(-1, 2).tolist()
        if count := sum(is_narrow(each, (low, high)) for each in ends):
            return (
                f"{count:,} of {len(ends):,} images above 8 bits use less than a sixteenth of {low:g} .. {high:g}, the "
                "range of the training images; check that all have one scale, or set encrypt.value_range"
            )
        return ""

    def _leaks(self, figures: dict[str, int]) -> str:
        """What makes a score of the data set doubtful; empty where nothing does."""
        parts = []
        for split, others in (
            ("test", "training or validation" if "val" in self._prints else "training"),
            ("val", "training"),
        ):
            if known := figures[f"{split}_known"]:
                parts.append(f"{split} images with the pixels of {others} images: {known:,}")
            if near := figures[f"{split}_near"]:
                parts.append(f"{split} images that look like {others} images: {near:,}")
        if figures["two_labels"]:
            parts.append(f"images with the pixels of one under another label: {figures['two_labels']:,}")
        return ", ".join(parts)

    def rows(self) -> Iterator[Row]:
        """All of it, a row an image, as ``COLUMNS`` has it."""
        for split, sample, reason in self._faults:
            yield (f"unreadable: {reason}", split, self._class(sample.label), sample.origin, "", "", "")
        same = self._repeats
        for later in np.flatnonzero(same.first != np.arange(len(same.first))):
            kind = "same pixels, two labels" if same.two_labels[later] else "same pixels"
            yield (kind, *self._image(int(later)), *self._image(int(same.first[later])))
        start = 0
        for split, prints in self._prints.items():
            for number, twin in self._near[split]:
                kind = f"looks alike, {twin.bits} of 256 bits differ"
                yield (kind, *self._image(start + number), *self._image(twin.index))
            start += len(prints)

    def _image(self, number: int) -> tuple[str, str, str]:
        """Split, class and file of an image by its number in all splits."""
        for split, prints in self._prints.items():
            if number < len(prints):
                return split, self._class(self._labels[prints.label(number)]), prints.name(number)
            number -= len(prints)
        raise IndexError(number)

    def _class(self, label: Label) -> str:
        return ", ".join(self._classes[number] for number in _numbers(label))


def _numbers(label: Label) -> tuple[int, ...]:
    return label if isinstance(label, tuple) else (label,)
