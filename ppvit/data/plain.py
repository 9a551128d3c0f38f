"""The plain images of a run, in the order of its encrypted shards, decoded and resized; and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ppvit.config import Dataset, Encrypt
from ppvit.data import decoding, images
from ppvit.data.labels import Labelling, labelling_of
from ppvit.data.sealed import read_dataset
from ppvit.data.shards import SPLITS, ShardReader

if TYPE_CHECKING:  # the trainer, who reads batches, loads neither ciphers nor keys
    from ppvit.ciphers import Cipher

BATCH = 64  # images encrypted in one call: enough for speed, little memory


class Plain(Protocol):
    """What is encrypted; see :class:`PlainImages`."""

    folder: Path
    classes: list[str]
    labelling: Labelling
    labels: np.ndarray
    resizing: dict[str, str]

    def __len__(self) -> int: ...

    def ids(self, start: int, stop: int) -> np.ndarray: ...

    def read(self, start: int, stop: int) -> np.ndarray: ...


class PlainImages:
    """The plain images of one split in the order of the encrypted shards, decoded and resized.

    Args:
        raw: folder that `download` wrote.
        split: ``train`` or ``test``.
        dataset: image_size, the fractions and the seed are used.
        encrypt: resize_filter and crop are used.

    Attributes:
        folder: ``raw``.
        classes: names, in order of their numbers.
        labelling: how they are labelled.
        labels: class numbers, int64 (n,), or multi-label, bool (n, C).
        resizing: how images are brought to their size, as shards record it.
        made: that, the number of classes and the task, for :func:`ppvit.core.provenance.require_made_alike`.

    A fraction is stratified, see :class:`ppvit.data.labels.Labelling`. The order is a seeded permutation, so that
    neither shards nor batches group classes, whatever order the source had.
    """

    def __init__(self, raw: Path, split: str, dataset: Dataset, encrypt: Encrypt) -> None:
        self.folder = raw
        self.manifest, seal = read_dataset(raw)
        self.classes: list[str] = self.manifest["classes"]
        self.labelling = labelling_of(self.manifest["task"], len(self.classes))
        opened = None if seal is None else partial(seal.member, split)
        self._reader = ShardReader(raw, split, self.manifest["shards"][split], self.labelling, opened=opened)
        labels = self._reader.labels()
        fraction = dataset.train_fraction if split == "train" else dataset.test_fraction
        strata = self.labelling.strata(labels)
        self._selected = select(strata, fraction, seed=(dataset.seed, SPLITS.index(split)))
        self.labels = labels[self._selected]
        self.image_size = dataset.image_size
        self._first_id = image_id(split, 0)
        self._encrypt = encrypt
        self.resizing: dict[str, str] = {"resize_filter": encrypt.resize_filter, "crop": encrypt.crop}
        self.made = {**self.resizing, "num_classes": len(self.classes), "task": self.labelling.task}

    def __len__(self) -> int:
        return len(self._selected)

    def ids(self, start: int, stop: int) -> np.ndarray:
        """The numbers by which ciphers with a key for every image know images start .. stop - 1, int64."""
        return np.arange(self._first_id + start, self._first_id + stop)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images start .. stop - 1: uint8, (n, H, W, 3).

        Raises:
            PpvitError: an image cannot be decoded; names the file it came from.
        """
        return np.stack([self._read_one(index) for index in self._selected[start:stop]])

    def _read_one(self, index: int) -> np.ndarray:
        plain = decoding.decode(self._reader.image(index), self._reader.name(index))
        return images.to_square(plain, self.image_size, self._encrypt.resize_filter, self._encrypt.crop)


def image_id(split: str, index: int) -> int:
    """A number that no other image of the data set has: ``split`` is ``train``, ``test``, or ``query``."""
    return (*SPLITS, "query").index(split) * 2**32 + index


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


def encrypted_batches(plain: Plain, cipher: Cipher, start: int, stop: int) -> Iterator[np.ndarray]:
    """Ciphertext of images start .. stop - 1 in batches of up to 64."""
    for first in range(start, stop, BATCH):
        last = min(first + BATCH, stop)
        yield cipher.encrypt(plain.read(first, last), plain.ids(first, last))
