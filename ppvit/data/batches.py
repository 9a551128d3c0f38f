"""Encrypted shards as torch batches: every epoch a seeded permutation, the same whatever the number of processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ppvit.core.errors import PpvitError
from ppvit.data import images
from ppvit.data.labels import labelling_of
from ppvit.data.readers import load_batches, readers_kept
from ppvit.data.repeats import read_layout
from ppvit.data.sampling import epoch_order
from ppvit.data.shards import ShardReader, read_manifest

__all__ = ["EncryptedImages", "epoch_batches", "load_batches", "readers_kept"]


class EncryptedImages(Dataset[tuple[Tensor, Any]]):
    """One split of encrypted shards.

    Args:
        folder: what `encrypt` wrote.
        split: ``train``, ``val``, which may hold no images, or ``test``.

    Attributes:
        folder: of this split.
        manifest: its ``manifest.json``.
        num_classes: C.
        labelling: how they are labelled.

    Raises:
        PpvitError: missing, truncated or altered shards, or a class number out of range; on reading, a sample of the
            wrong size.
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
        self._reader = ShardReader(
            self.folder,
            split,
            self.manifest["shards"],
            self.labelling,
            2 * math.prod(self._shape) * self._dtype.itemsize + 2**16,  # twice its bytes, for encoders of others
        )

    def __len__(self) -> int:
        return len(self._reader)

    def labels(self) -> np.ndarray:
        """All labels: class numbers, int64 (n,), or multi-label, bool (n, C)."""
        return self._reader.labels()

    def ciphertext(self, indices: np.ndarray) -> np.ndarray:
        """Ciphertext as the cipher gave it, (n, *shape).

        Raises:
            PpvitError: see the class.
        """
        if not len(indices):
            return np.empty((0, *self._shape), self._dtype)
        return np.stack([self._decode(index) for index in indices])

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Image, uint8 or float (3, H, W), or tokens, float16 (N, T); and target, see :func:`load_batches`."""
        image = self._decode(index)
        image = image.transpose(2, 0, 1) if image.ndim == 3 else image
        return torch.from_numpy(image.copy()), self._reader.target(index)

    def _decode(self, index: int) -> np.ndarray:
        stored = self._reader.image(index), self._reader.name(index)
        if self._layout is None:
            return images.decode_array(*stored, self._shape, self._dtype)
        values = images.decode_array(*stored, (self._layout.distinct,), self._dtype)
        return self._layout.unpacked(values, self._shape)


def epoch_batches(
    samples: int,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    strata: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Indices of every batch of an epoch for one process: each sample once over all processes, or balanced.

    Args:
        samples: size of the data set.
        batch_size: over all processes; the last batch may be smaller.
        seed, epoch: equal ones give equal batches.
        rank, world: this process and their number; process r takes every world-th index of each batch from r on, so
            all processes together see the very batches that one process would.
        strata: for balanced sampling, see :func:`ppvit.data.sampling.epoch_order`.

    Returns:
        ceil(samples / batch_size) arrays; one may be empty when the last batch has fewer samples than processes.
    """
    order, _ = epoch_order(samples, seed, epoch, strata)
    return [order[start : start + batch_size][rank::world] for start in range(0, samples, batch_size)]
