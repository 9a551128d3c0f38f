"""One look at every image of a data set, in processes side by side: can it be decoded, its range, its fingerprints."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from ppvit.core.errors import MissingPackage, PpvitError
from ppvit.core.executor import Executor
from ppvit.core.workers import available_cpus, clustered, requested_workers
from ppvit.data.decoding import decoded
from ppvit.data.tar_index import IMAGE_BYTES
from ppvit.datasets.duplicates import look, pixel_hash
from ppvit.datasets.source import Sample

_BATCH_IMAGES, _BATCH_BYTES = 64, 2**22  # what goes to a process at once; an image of more bytes goes alone
_ALONE_SECONDS = 1.0  # of looking here, before other processes, which take as long to start


@dataclass(frozen=True)
class Seen:
    """What one look at an image gives.

    Attributes:
        fault: why it cannot be decoded; else empty.
        pixels, look: see :mod:`ppvit.datasets.duplicates`.
        extremes: of values above 8 bits, the lowest and the highest.
    """

    fault: str = ""
    pixels: int = 0
    look: bytes = b""
    extremes: tuple[float, float] | None = None


class Examiner:
    """Looks at images in order, with no more of them in memory than a few batches a process.

    Args:
        frames: ``dataset.frames``.

    Other processes start once there has been work for a second, as many as ``$PPVIT_WORKERS`` says or the machine has
    processors, or a cluster's at once; they end with the block.
    """

    def __init__(self, frames: str) -> None:
        self._frames = frames
        asked = requested_workers()
        self._processes = available_cpus() if asked is None else asked
        self._executor = Executor(self._processes)
        self._alone_until = 0.0 if clustered() else _ALONE_SECONDS if self._processes > 1 else math.inf
        self._alone = 0.0

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._executor.__exit__(kind)

    def batches(self, samples: Iterable[Sample]) -> Iterator[list[tuple[Sample, Seen]]]:
        """All samples in their order, with what was seen of each."""
        batches = _batches(samples)
        while self._alone < self._alone_until:
            if (batch := next(batches, None)) is None:
                return
            before = time.perf_counter()
            seen = examine(_images(batch), self._frames)
            self._alone += time.perf_counter() - before
            yield list(zip(batch, seen, strict=True))
        waiting: deque[list[Sample]] = deque()

        def tasks() -> Iterator[tuple[Any, ...]]:
            for batch in batches:
                waiting.append(batch)
                yield _images(batch), self._frames

        for seen in self._executor.each(examine, tasks()):
            yield list(zip(waiting.popleft(), seen, strict=True))


def _images(batch: list[Sample]) -> list[tuple[bytes, str, str]]:
    return [(sample.image, sample.extension, sample.origin) for sample in batch]


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    size = 0
    for sample in samples:
        if batch and (len(batch) == _BATCH_IMAGES or size + len(sample.image) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(sample)
        size += len(sample.image)
    if batch:
        yield batch


def examine(images: list[tuple[bytes, str, str]], frames: str) -> list[Seen]:
    """Decode images, each of them once.

    Args:
        images: encoded bytes, extension, and where it came from.
        frames: ``dataset.frames``.

    Raises:
        MissingPackage: what would read one is not installed.
    """
    return [_examine(*image, frames) for image in images]


def _examine(image: bytes, extension: str, origin: str, frames: str) -> Seen:
    if len(image) > IMAGE_BYTES:
        return Seen(f"it has {len(image):,} bytes, more than {IMAGE_BYTES:,}")
    try:
        found = decoded(image, origin, frames, extension)
    except MissingPackage:  # which says nothing of the image
        raise
    except PpvitError as error:
        return Seen(_reason(str(error), origin))
    shown = -found.values if found.inverted else found.values
    return Seen(pixels=pixel_hash(shown), look=look(shown), extremes=found.extremes)


def _reason(message: str, origin: str) -> str:
    """What is wrong, without the file's name and the remedy, which are said once for all files."""
    told = message.removeprefix(f"{origin}: ").removesuffix("; replace or remove it")
    inner = told.removeprefix("this image cannot be decoded (")
    return inner.removesuffix(")") if inner != told else told
