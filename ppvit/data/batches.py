"""Encrypted shards as torch batches: every epoch a seeded permutation, the same whatever the number of processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ppvit.core.errors import PpvitError
from ppvit.core.stopping import unheard_by_children
from ppvit.core.workers import available_cpus, requested_workers
from ppvit.data import images
from ppvit.data.labels import labelling_of
from ppvit.data.shards import ShardReader, read_manifest


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
        return images.decode_array(self._reader.image(index), self._reader.name(index), self._shape, self._dtype)


def epoch_batches(
    samples: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[np.ndarray]:
    """Indices of every batch of an epoch for one process: each sample once over all processes.

    Args:
        samples: size of the data set.
        batch_size: over all processes; the last batch may be smaller.
        seed, epoch: equal ones give equal batches.
        rank, world: this process and their number; process r takes every world-th index of each batch from r on, so
            all processes together see the very batches that one process would.

    Returns:
        ceil(samples / batch_size) arrays; one may be empty when the last batch has fewer samples than processes.
    """
    order = np.random.default_rng((seed, epoch)).permutation(samples)
    return [order[start : start + batch_size][rank::world] for start in range(0, samples, batch_size)]


def load_batches(dataset: Dataset[tuple[Tensor, Any]], batches: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
    """Read batches in order: ciphertext as :class:`EncryptedImages` gives it, stacked, and targets, int64 (n,),
    or multi-label, float32 (n, C).

    Reading processes are set by ``$PPVIT_WORKERS``; the default is none on a CPU, which trains slower than it reads.

    Raises:
        PpvitError: see :class:`EncryptedImages`.
    """
    workers = loader_workers()
    loader = DataLoader(
        _ErrorsAsValues(dataset),
        collate_fn=_collate,
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        # its own generator: otherwise the loader draws from the one that dropout uses
        generator=torch.Generator(),
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_end_with_main if workers else None,
    )
    with unheard_by_children():
        loaded = iter(loader)
    for batch in loaded:
        if isinstance(batch, PpvitError):
            raise batch
        yield batch


class _ErrorsAsValues(Dataset[Any]):
    """Hands our errors on as values: torch would put one raised in a reading process into the text of a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except PpvitError as error:
            return error


def _end_with_main(_: int) -> None:
    """End a reading process with the main one, which has not started it: a process between them forks all."""

    def wait(main: BaseProcess) -> None:
        main.join()
        os._exit(1)

    if (main := multiprocessing.parent_process()) is not None:
        threading.Thread(target=wait, args=(main,), daemon=True).start()


def _collate(samples: list[Any]) -> Any:
    error = next((sample for sample in samples if isinstance(sample, PpvitError)), None)
    return default_collate(samples) if error is None else error


def loader_workers() -> int:
    """Reading processes of one training process."""
    requested = requested_workers()
    if requested is not None:
        return requested
    return min(8, available_cpus()) if torch.cuda.is_available() else 0
