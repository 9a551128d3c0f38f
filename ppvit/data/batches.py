"""Encrypted shards as torch batches: every epoch a seeded permutation, the same whatever the number of processes."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ppvit.core.errors import PpvitError
from ppvit.data import images
from ppvit.data.labels import labelling_of
from ppvit.data.readers import load_batches, readers_kept
from ppvit.data.repeats import read_layout
from ppvit.data.sampling import epoch_order, views_in_turn
from ppvit.data.shards import ShardReader, read_manifest

__all__ = ["EncryptedImages", "epoch_batches", "load_batches", "readers_kept"]


class EncryptedImages(Dataset[tuple[Tensor, Any]]):
    """One split of encrypted shards.

    Where images have several views, sample ``view * len(images) + index`` is that view of an image; the first
    ``len(images)`` samples are the pictures as they are.

    Args:
        folder: what `encrypt` wrote.
        split: ``train``, ``val``, which may hold no images, or ``test``.

    Attributes:
        folder: of this split.
        manifest: its ``manifest.json``.
        num_classes: C.
        labelling: how they are labelled.
        views: of each image.

    Raises:
        PpvitError: missing, truncated or altered shards, a class number out of range, or views of other classes; on
            reading, a sample of the wrong size.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = Path(folder) / split
        self.manifest = read_manifest(self.folder)
        if self.manifest["split"] != split:
            raise PpvitError(
                f"{self.folder} holds the split {self.manifest['split']}; make it again: dvc repro encrypt"
            )
        self.num_classes: int = self.manifest["num_classes"]
        self.labelling = labelling_of(self.manifest["task"], self.num_classes)
        self._shape, self._dtype = tuple(self.manifest["shape"]), np.dtype(self.manifest["dtype"])
        values, distinct = math.prod(self._shape), self.manifest["distinct"]
        self._layout = None if distinct is None else read_layout(self.folder, distinct, values)
        self.views: int = self.manifest["views"]
        image_bytes = 2 * values * self._dtype.itemsize + 2**16  # twice its bytes, for others' encoders
        self._readers = [
            ShardReader(self.folder, split, shards, self.labelling, image_bytes)
            for shards in (self.manifest["shards"], *self.manifest["view_shards"])
        ]
        for view, reader in enumerate(self._readers):
            if not np.array_equal(reader.labels(), self.labels()):
                raise PpvitError(
                    f"{self.folder}: view {view} has other labels than the images; make it again: dvc repro encrypt"
                )

    def __len__(self) -> int:
        return len(self._readers[0])

    def labels(self) -> np.ndarray:
        """The labels of all images: class numbers, int64 (n,), or multi-label, bool (n, C)."""
        return self._readers[0].labels()

    def identity(self) -> dict[str, Any]:
        """What tells these images from any others, as JSON takes it: SHA-256 of all that is read of them, and how."""
        layout = None if self._layout is None else hashlib.sha256(self._layout.places.tobytes()).hexdigest()
        stored = [self.manifest["shards"], *self.manifest["view_shards"]]
        return {"shards": stored, "layout": layout, "shape": list(self._shape), "dtype": self._dtype.name}

    def in_turn(self, samples: np.ndarray, epoch: int) -> np.ndarray:
        """What an epoch reads at these samples: here they themselves; pairs of views are others in every epoch."""
        return samples

    def in_all_views(self, indices: np.ndarray) -> np.ndarray:
        """The samples of images in all their views: (n,) to (views n,), view 0 of all of them first."""
        return np.concatenate([view * len(self) + indices for view in range(self.views)])

    def ciphertext(self, samples: np.ndarray) -> np.ndarray:
        """Ciphertext as the cipher gave it, (n, *shape).

        Raises:
            PpvitError: see the class.
        """
        if not len(samples):
            return np.empty((0, *self._shape), self._dtype)
        return np.stack([self._decode(sample) for sample in samples])

    def __getitem__(self, sample: int) -> tuple[Tensor, Any]:
        """Image, uint8 or float (3, H, W), or tokens, float16 (N, T); and target, see :func:`load_batches`."""
        image = self._decode(sample)
        image = image.transpose(2, 0, 1) if image.ndim == 3 else image
        return torch.from_numpy(image.copy()), self._readers[0].target(sample % len(self))

    def _decode(self, sample: int) -> np.ndarray:
        view, index = divmod(sample, len(self))
        stored = self._readers[view].image(index), self._readers[view].name(index)
        if self._layout is None:
            return images.decode_array(*stored, self._shape, self._dtype)
        values = images.decode_array(*stored, (self._layout.distinct,), self._dtype)
        return self._layout.unpacked(values, self._shape)


def shared_out(size: int, rank: int, world: int, together: int = 1) -> npt.NDArray[np.intp]:
    """Places in a batch of ``size`` that one of ``world`` processes takes, ascending, intp.

    Process r takes every world-th of them from r on, or of runs of ``together`` neighbours.
    """
    places = np.arange(size)
    taken: npt.NDArray[np.intp] = places[places // together % world == rank]
    return taken


def epoch_batches(
    samples: int,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    strata: np.ndarray | None = None,
    together: int = 1,
    views: int = 1,
) -> list[np.ndarray]:
    """Samples of every batch of an epoch for one process: each image once over all processes, or balanced.

    Args:
        samples: images in the data set.
        batch_size: over all processes; the last batch may be smaller.
        seed, epoch: equal ones give equal batches.
        rank, world, together: this process and their number, see :func:`shared_out`; all processes together see the
            very batches that one process would.
        strata: for balanced sampling, see :func:`ppvit.data.sampling.epoch_order`.
        views: of each image, which take turns, see :func:`ppvit.data.sampling.views_in_turn`.

    Returns:
        ceil(samples / batch_size) arrays; one may be empty when the last batch has fewer samples than processes.
    """
    order = epoch_order(samples, seed, epoch, strata)
    order = order + samples * views_in_turn(order, epoch, views)
    batches = (order[start : start + batch_size] for start in range(0, samples, batch_size))
    return [batch[shared_out(len(batch), rank, world, together)] for batch in batches]
