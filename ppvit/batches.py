"""Encrypted shards as torch batches: every epoch a seeded permutation, the same whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ppvit import images
from ppvit.errors import PpvitError
from ppvit.parallel import available_cpus, requested_workers
from ppvit.shards import ShardReader, read_manifest


class EncryptedImages(Dataset):
    """One split of encrypted shards.

    Args:
        folder: what `encrypt` wrote.
        split: ``train`` or ``test``.

    Attributes:
        manifest: the shards' ``manifest.json``.

    Raises:
        PpvitError: missing, truncated or altered shards; on reading, a sample of the wrong size or a class number out
            of range.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.manifest = read_manifest(folder)
        self._reader = ShardReader(folder, split, self.manifest["shards"])
        self.num_classes: int = self.manifest["num_classes"]
        self._shape, self._dtype = tuple(self.manifest["shape"]), self.manifest["dtype"]

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image, uint8 or float16 (3, H, W), or tokens, float16 (N, T); and class number."""
        image = images.decode_array(self._reader.image(index), self._reader.name(index))
        if image.shape != self._shape or image.dtype != self._dtype:
            raise PpvitError(
                f"{self._reader.name(index)} has shape {image.shape} and type {image.dtype}, the manifest says "
                f"{self._shape} and {self._dtype}; run dvc repro encrypt"
            )
        label = self._reader.label(index)
        if not 0 <= label < self.num_classes:
            raise PpvitError(
                f"{self._reader.name(index)} has class {label}, the manifest says {self.num_classes} classes; "
                "run dvc repro encrypt"
            )
        return torch.from_numpy((image.transpose(2, 0, 1) if image.ndim == 3 else image).copy()), label


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


def load_batches(dataset: Dataset, batches: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
    """Read batches in order: ciphertext as of :class:`EncryptedImages`, stacked, and labels, int64 (n,).

    Reading processes are set by ``$PPVIT_WORKERS``; the default is none on a CPU, which trains slower than it reads.

    Raises:
        PpvitError: as of :class:`EncryptedImages`.
    """
    workers = loader_workers()
    loader = DataLoader(
        dataset,
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        # its own generator: otherwise the loader draws from the one that dropout uses
        generator=torch.Generator(),
        multiprocessing_context="forkserver" if workers else None,
    )
    try:
        yield from loader
    except PpvitError as error:
        # torch wraps an error from a worker process into its traceback; the last line is ours
        raise PpvitError(str(error).strip().splitlines()[-1].removeprefix("ppvit.errors.PpvitError: ")) from None


def loader_workers() -> int:
    """Reading processes of one training process."""
    requested = requested_workers()
    if requested is not None:
        return requested
    return min(8, available_cpus()) if torch.cuda.is_available() else 0


def require_same_key(shards: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse shards and a model that were not made for each other.

    Args:
        shards: the manifest.
        model: the record of the adapted model.

    Raises:
        PpvitError: other key, cipher settings or image size; names both sides.
    """
    for name in ("key_id", "cipher", "image_size"):
        if shards[name] != model[name]:
            raise PpvitError(
                f"the shards were made with {name} {shards[name]}, the model with {model[name]}; "
                "run dvc repro adapt encrypt"
            )
