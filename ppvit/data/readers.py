"""Reading batches in processes beside the one that computes, which are started once for all epochs and splits."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ppvit.core.device import device
from ppvit.core.errors import PpvitError
from ppvit.core.stopping import unheard_by_children
from ppvit.core.workers import available_cpus, requested_workers

_kept: list[_Readers] = []  # of each :func:`readers_kept` that lasts


def load_batches(
    dataset: Dataset[tuple[Tensor, Any]], batches: Sequence[np.ndarray]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read batches in order: ciphertext as :class:`ppvit.data.batches.EncryptedImages` gives it, stacked, and targets,
    int64 (n,), or multi-label, float32 (n, C). In page-locked memory where there is a GPU.

    Reading processes are set by ``$PPVIT_WORKERS``; the default is none on a CPU, which trains slower than it reads.

    Args:
        dataset: what is read; one that is in memory has a method ``batch`` for all samples of a batch at once, and no
            process reads it.
        batches: numbers of its samples, as of :func:`ppvit.data.batches.epoch_batches`.

    Raises:
        PpvitError: a sample cannot be read, see :class:`ppvit.data.batches.EncryptedImages`.
    """
    if (batch_of := getattr(dataset, "batch", None)) is not None:  # it is in memory, see ppvit.models.features
        yield from map(batch_of, batches)
        return
    if (in_memory := getattr(dataset, "batch", None)) is not None:
        yield from map(in_memory, batches)
        return
    kept = next((readers for readers in _kept if readers.read_from(dataset)), None)
    readers = kept or _Readers([dataset])
    try:
        yield from readers.read(dataset, batches)
    finally:
        if kept is None:
            readers.end()


@contextmanager
def readers_kept(*datasets: Dataset[tuple[Tensor, Any]]) -> Iterator[None]:
    """While this lasts, :func:`load_batches` on any of these data sets is done by the same processes.

    They start with the first batch and end with this; only one of the data sets is read at a time.
    """
    readers = _Readers(datasets)
    _kept.append(readers)
    try:
        yield
    finally:
        _kept.remove(readers)
        readers.end()


class _Readers:
    """Reading processes, or this process itself, for some data sets."""

    def __init__(self, datasets: Sequence[Dataset[tuple[Tensor, Any]]]) -> None:
        self._datasets, self._wanted = datasets, _Wanted()
        self._loader: DataLoader[Any] | None = None
        self._reading: object | None = None  # of a reading that has not had all its batches

    def read_from(self, dataset: Dataset[tuple[Tensor, Any]]) -> bool:
        return any(each is dataset for each in self._datasets)

    def read(self, dataset: Dataset[tuple[Tensor, Any]], batches: Sequence[np.ndarray]) -> Iterator[Any]:
        if self._reading is not None:
            raise RuntimeError("batches are read one after the other: let the reading before this come to its end")
        self._reading = this = object()
        self._wanted.dataset = next(number for number, each in enumerate(self._datasets) if each is dataset)
        self._wanted.batches = batches
        try:
            with unheard_by_children():  # the first time it starts them
                loaded = iter(self._started())
            for number in range(len(batches)):
                batch = next(loaded)
                if isinstance(batch, PpvitError):
                    raise batch
                if number + 1 == len(batches):
                    self._reading = None
                yield batch
        finally:
            if self._reading is this:
                self._reading = None

    def _started(self) -> DataLoader[Any]:
        if self._loader is None:
            workers = loader_workers()
            self._loader = DataLoader(
                _ErrorsAsValues(self._datasets),
                collate_fn=_collate,
                batch_sampler=self._wanted,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=device().type == "cuda",
                # its own generator: otherwise the loader draws from the one that dropout uses
                generator=torch.Generator(),
                multiprocessing_context="forkserver" if workers else None,
                worker_init_fn=_end_with_main if workers else None,
            )
        return self._loader

    def end(self) -> None:
        self._loader = None  # which ends its processes


class _Wanted:
    """The batches of the reading under way, as numbers of a data set and of a sample in it; looked at here alone."""

    dataset = 0
    batches: Sequence[np.ndarray] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(self.dataset, sample) for sample in batch.tolist()] for batch in self.batches)


class _ErrorsAsValues(Dataset[Any]):
    """Hands our errors on as values: torch would put one raised in a reading process into the text of a traceback."""

    def __init__(self, datasets: Sequence[Dataset[Any]]) -> None:
        self._datasets = datasets

    def __getitem__(self, place: tuple[int, int]) -> Any:
        dataset, sample = place
        try:
            return self._datasets[dataset][sample]
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
    """Reading processes of one training process; those on one machine share its processors."""
    requested = requested_workers()
    if requested is not None:
        return requested
    if device().type != "cuda":
        return 0
    told = os.environ.get("LOCAL_WORLD_SIZE", "1")  # by torchrun and accelerate
    return max(1, min(8, available_cpus() // (int(told) if told.isdecimal() and int(told) else 1)))
