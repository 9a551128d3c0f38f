"""The plain images of a run, in the order of its encrypted shards, decoded and resized; and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ppvit.config import Dataset, Encrypt
from ppvit.core.errors import PpvitError
from ppvit.data import decoding, images
from ppvit.data.labels import Labelling, labelling_of
from ppvit.data.sealed import read_dataset
from ppvit.data.shards import ShardReader
from ppvit.data.views import Views

if TYPE_CHECKING:  # the trainer, who reads batches, loads neither ciphers nor keys
    from ppvit.ciphers import Cipher

BATCH = 64  # images encrypted in one call: enough for speed, little memory
_NUMBERS = {"train": 0, "test": 1, "query": 2, "val": 3}  # in seeds and ids of images; val came later


class Plain(Protocol):
    """What is encrypted; see :class:`PlainImages`."""

    folder: Path
    classes: list[str]
    labelling: Labelling
    labels: np.ndarray
    prepared: dict[str, Any]
    views: int
    drawn: dict[str, Any]

    def __len__(self) -> int: ...

    def ids(self, start: int, stop: int, view: int = 0) -> np.ndarray: ...

    def read(self, start: int, stop: int, view: int = 0) -> np.ndarray: ...


class PlainImages:
    """The plain images of one split in the order of the encrypted shards, decoded and resized.

    Args:
        raw: folder that `download` wrote.
        split: ``train``, ``val`` or ``test``; val may hold no images.
        dataset: image_size, first_images, the fractions, frames and the seed are used.
        encrypt: resize_filter, crop, value_range and window are used.
        views: how views are drawn; by default there is one, the picture as it is.
        reader: of the shards that the split is taken from, where they are open already; see :func:`plain_splits`.

    Attributes:
        folder: ``raw``.
        classes: names, in order of their numbers.
        labelling: how they are labelled.
        labels: class numbers, int64 (n,), or multi-label, bool (n, C).
        prepared: how images are brought to 8 bits and to their size, as shards record it.
        views: pictures of each image.
        drawn: how, as shards record it; empty for one view.
        made: ``prepared``, the number of classes and the task, for :func:`ppvit.core.provenance.require_made_alike`.

    A fraction is stratified, see :class:`ppvit.data.labels.Labelling`; ``first_images`` takes the first as they are
    stored. The order is a seeded permutation, so that neither shards nor batches group classes, whatever order the
    source had.

    A data set's own validation images are taken in the same proportion as its training images. Where it has none,
    ``val_fraction`` of the chosen training images are val, and no longer train.
    """

    def __init__(
        self,
        raw: Path,
        split: str,
        dataset: Dataset,
        encrypt: Encrypt,
        reader: ShardReader | None = None,
        views: Views | None = None,
    ) -> None:
        self.folder = raw
        self._views = views
        self.views, self.drawn = (views.count, views.record) if views else (1, {})
        self.manifest, seal = read_dataset(raw)
        self.classes: list[str] = self.manifest["classes"]
        self.labelling = labelling_of(self.manifest["task"], len(self.classes))
        own_val = self.manifest["shards"]["val"] is not None
        stored = "train" if split == "val" and not own_val else split
        opened = None if seal is None else partial(seal.member, stored)
        shards = self.manifest["shards"][stored]
        self._reader = reader or ShardReader(raw, stored, shards, self.labelling, opened=opened)
        labels = self._reader.labels()
        if stored == "train" and dataset.first_images:
            labels = self._first(labels, dataset.first_images)
        fraction = dataset.test_fraction if split == "test" else dataset.train_fraction
        if stored == "val" and dataset.first_images:
            fraction = min(1.0, dataset.first_images / self.manifest["counts"]["train"])
        self._selected = select(self.labelling.strata(labels), fraction, (dataset.seed, _NUMBERS[stored]))
        if stored == "train" and not own_val:
            held_out = hold_out(self.labelling.strata(labels[self._selected]), dataset.val_fraction)
            self._selected = self._selected[held_out == (split == "val")]
        self.labels = labels[self._selected]
        self.image_size = dataset.image_size
        self._split = split
        self._frames = dataset.frames
        self.prepared = prepared(encrypt, self.manifest)
        self.made = {**self.prepared, "num_classes": len(self.classes), "task": self.labelling.task}

    def _first(self, labels: np.ndarray, count: int) -> np.ndarray:
        if count > len(labels):
            raise PpvitError(
                f"dataset.first_images asks for {count} training images, {self.folder} has {len(labels)}; set it "
                "lower, or to 0, which takes all"
            )
        lacking = np.flatnonzero(self.labelling.counts(labels[:count]) == 0)
        if len(lacking) and self.labelling.task == "multiclass":
            raise PpvitError(
                f"none of the first {count} training images of {self.folder} is of class '{self.classes[lacking[0]]}'; "
                "raise dataset.first_images, or take dataset.train_fraction, which takes some of every class"
            )
        return labels[:count]

    def val(self, dataset: Dataset, encrypt: Encrypt) -> PlainImages:
        """The validation images that belong to these training images."""
        reader = self._reader if self.manifest["shards"]["val"] is None else None
        return PlainImages(self.folder, "val", dataset, encrypt, reader)

    def __len__(self) -> int:
        return len(self._selected)

    def ids(self, start: int, stop: int, view: int = 0) -> np.ndarray:
        """The numbers by which ciphers with a key for every image know a view of images start .. stop - 1, int64."""
        return image_id(self._split, 0, view) + np.arange(start, stop)

    def read(self, start: int, stop: int, view: int = 0) -> np.ndarray:
        """A view of images start .. stop - 1: uint8, (n, H, W, 3).

        Raises:
            PpvitError: an image cannot be decoded; names the file it came from.
        """
        return np.stack([self._read_one(int(index), view) for index in self._selected[start:stop]])

    def _read_one(self, index: int, view: int) -> np.ndarray:
        encoded, where = self._reader.image(index), self._reader.name(index)
        value_range, extension = self.prepared["value_range"], self._reader.extension(index)
        plain = decoding.decode(encoded, where, value_range, self._frames, extension)
        form = self.image_size, self.prepared["resize_filter"], self.prepared["crop"]
        return self._views.draw(plain, index, view, *form) if self._views else images.to_square(plain, *form)


def prepared(encrypt: Encrypt, dataset: dict[str, Any]) -> dict[str, Any]:
    """How images of a data set are brought to 8 bits and to one size, as shards and models record it.

    Args:
        encrypt: resize_filter, crop, value_range and window are used.
        dataset: what ``dataset.json`` holds; its ``wide`` is the range that was found.

    Returns:
        ``resize_filter``, ``crop``, and ``value_range``: [low, high], the values above 8 bits that become 0 and
        255, or None where none is needed.
    """
    wide = dataset.get("wide")
    value_range = [wide["low"], wide["high"]] if wide else None
    if encrypt.window:
        centre, width = encrypt.window
        value_range = [centre - width / 2, centre + width / 2]
    return {
        "resize_filter": encrypt.resize_filter,
        "crop": encrypt.crop,
        "value_range": encrypt.value_range or value_range,
    }


def print_range(plain: PlainImages) -> None:
    """Say how values above 8 bits are brought to 8 bits, where there are any or a range is given."""
    if (value_range := plain.prepared["value_range"]) is None:
        return
    wide, (low, high) = plain.manifest["wide"], value_range
    if wide is None:
        print(f"no training image has values above 8 bits; in others {low:g} .. {high:g} become 0 .. 255 (as given)")
        return
    found = [wide["low"], wide["high"]]
    source = "the extremes" if value_range == found else f"as given; the extremes are {found[0]:g} and {found[1]:g}"
    print(
        f"{wide['images']} training images have values above 8 bits: {low:g} .. {high:g} become 0 .. 255 "
        f"({source}); images of 8 bits stay as they are"
    )


def image_id(split: str, index: int, view: int = 0) -> int:
    """A number that no other image has, nor view of one: ``split`` is ``train``, ``val``, ``test``, or ``query``."""
    return view * 2**48 + _NUMBERS[split] * 2**32 + index


def select(strata: np.ndarray, fraction: float, seed: tuple[int, ...]) -> np.ndarray:
    """Indices of a stratified random fraction, in random order; at least one image of every stratum.

    Args:
        strata: int64, (n,).
        fraction: share of every stratum, in (0, 1].
        seed: equal seeds give equal indices; a smaller fraction gives a subset of a larger one.

    Returns:
        intp, (m,).
    """
    order = np.random.default_rng(seed).permutation(len(strata))
    rank = np.empty(len(strata), np.int64)  # place of each image among those of its stratum
    shuffled = strata[order]
    for stratum in np.unique(strata):
        members = np.flatnonzero(shuffled == stratum)
        rank[members] = np.arange(len(members))
    kept = np.maximum(1, np.round(fraction * np.bincount(strata))).astype(np.int64)
    chosen: np.ndarray = order[rank < kept[shuffled]]
    return chosen


def hold_out(strata: np.ndarray, fraction: float) -> np.ndarray:
    """Which images are held out: the last of every stratum, about ``fraction`` of it, and never all.

    The shares of small strata are rounded so that all of them together are right, by largest remainders.

    Args:
        strata: int64, (n,), in random order.
        fraction: share, in [0, 1).

    Returns:
        bool, (n,): round(fraction * n) of them are True, or fewer where most strata hold a single image.
    """
    sizes = np.bincount(strata)
    shares = np.minimum(fraction * sizes, np.maximum(0, sizes - 1))
    taken = np.floor(shares).astype(np.int64)
    missing = max(0, round(fraction * len(strata)) - int(taken.sum()))
    largest = np.argsort(taken - shares, kind="stable")
    taken[[stratum for stratum in largest if taken[stratum] < sizes[stratum] - 1][:missing]] += 1
    after = np.empty(len(strata), np.int64)  # images of the same stratum that come after each
    for stratum in np.flatnonzero(sizes):
        members = np.flatnonzero(strata == stratum)
        after[members] = np.arange(len(members))[::-1]
    held_out: np.ndarray = after < taken[strata]
    return held_out


def plain_splits(raw: Path, dataset: Dataset, encrypt: Encrypt, views: Views | None = None) -> dict[str, PlainImages]:
    """All splits, by name; shards that two are taken from are opened and checked once.

    Arguments and errors: see :class:`PlainImages`; ``views`` is of training images.
    """
    train = PlainImages(raw, "train", dataset, encrypt, views=views)
    return {
        "train": train,
        "val": train.val(dataset, encrypt),
        "test": PlainImages(raw, "test", dataset, encrypt),
    }


def encrypted_batches(plain: Plain, cipher: Cipher, start: int, stop: int, view: int = 0) -> Iterator[np.ndarray]:
    """Ciphertext of a view of images start .. stop - 1 in batches of up to 64."""
    for first in range(start, stop, BATCH):
        last = min(first + BATCH, stop)
        yield cipher.encrypt(plain.read(first, last, view), plain.ids(first, last, view))
