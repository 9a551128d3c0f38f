"""One look at every image of a data set, in processes side by side: can it be decoded, its range, its fingerprints."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from ppvit.core.children import end_with_parent
from ppvit.core.errors import MissingPackage, PpvitError
from ppvit.core.stopping import unheard_by_children
from ppvit.core.workers import available_cpus, requested_workers
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
    processors; they end with the block.
    """

    def __init__(self, frames: str) -> None:
        self._frames = frames
        asked = requested_workers()
        self._processes = available_cpus() if asked is None else asked
        self._pool: Any = None
        self._alone = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(kill_workers=kind is not None)  # nobody waits for what they are at

    def batches(self, samples: Iterable[Sample]) -> Iterator[list[tuple[Sample, Seen]]]:
        """All samples in their order, with what was seen of each."""
        waiting: deque[tuple[list[Sample], Any]] = deque()
        for batch in _batches(samples):
            images = [(sample.image, sample.extension, sample.origin) for sample in batch]
            if self._processes < 2 or (self._pool is None and self._alone < _ALONE_SECONDS):
                before = time.perf_counter()
                seen = examine(images, self._frames)
                self._alone += time.perf_counter() - before
                yield list(zip(batch, seen, strict=True))
                continue
            waiting.append((batch, self._submit(images)))
            if len(waiting) > 2 * self._processes:
                yield _answered(*waiting.popleft())
        while waiting:
            yield _answered(*waiting.popleft())

    def _submit(self, images: list[tuple[bytes, str, str]]) -> Any:
        if self._pool is None:
            # joblib's: a script of the user's that calls the library is not run again in every process
            from joblib.externals.loky import ProcessPoolExecutor

            self._pool = ProcessPoolExecutor(self._processes, initializer=end_with_parent, initargs=(os.getpid(),))
        with unheard_by_children():
            return self._pool.submit(examine, images, self._frames)


def _answered(batch: list[Sample], answer: Any) -> list[tuple[Sample, Seen]]:
    return list(zip(batch, answer.result(), strict=True))


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
