"""WebDataset shards: the same bytes on every machine, read by position, never unpickled.

A shard is an uncompressed tar whose samples are members ``<8-digit index>.<extension>``. Any WebDataset reader takes
them. The one here does not stream as the library ``webdataset`` does but finds a sample by its offset in the tar, so
that an epoch visits the data set in any order, which does not depend on how many processes read.

Written with ``tarfile``, not with ``webdataset.TarWriter`` (1.0.2), which is a thin layer over it. Measured in a fresh
process: importing webdataset loads torch and takes 1.2 s of processor time and 531 MiB, importing everything that an
encrypting process needs takes 0.25 s and 55 MiB. Its bytes are ours, but for members that it sorts by extension, which
would change every shard that there is.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.core.reading import Record, read_record, sha256_of
from ppvit.core.workers import clustered
from ppvit.data.labels import Labelling
from ppvit.data.manifests import SCHEMA, SPLITS, EncryptedManifest, RawManifest
from ppvit.data.tar_index import ANY_CLASS, IMAGE, IMAGE_BYTES, IMAGES, ORIGIN, Index, Opener, identity_of, index_shard

__all__ = [
    "SCHEMA",
    "SPLITS",
    "Shard",
    "ShardReader",
    "read_manifest",
    "shard_name",
    "shard_records",
    "sizes",
    "write_shard",
    "write_shards",
]


@dataclass(frozen=True)
class Shard:
    """One tar: its file name, number of samples and SHA-256."""

    name: str
    samples: int
    sha256: str


def shard_name(split: str, number: int) -> str:
    """File name of the ``number``-th shard of a split."""
    return f"{split}-{number:06d}.tar"


def write_shard(path: Path, samples: Iterable[dict[str, bytes]], first_index: int = 0) -> Shard:
    """Write one tar; equal samples give equal bytes on any machine.

    Args:
        path: the file to write.
        samples: extension -> content, one dictionary a sample.
        first_index: index of the first sample within its split.
    """
    written = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for written, sample in enumerate(samples, start=1):
            for extension, content in sample.items():
                member = tarfile.TarInfo(
                    f"{first_index + written - 1:08d}.{extension}"
                )  # TarInfo: mtime, uid, gid are 0
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return Shard(path.name, written, sha256_of(path))


def write_shards(folder: Path, split: str, samples: Iterable[dict[str, bytes]], per_shard: int) -> list[Shard]:
    """Write samples in order to as many tars of ``per_shard`` samples as they need."""
    remaining = iter(samples)
    shards: list[Shard] = []
    for first in remaining:
        shard_samples = _chain_first(first, islice(remaining, per_shard - 1))
        path = folder / shard_name(split, len(shards))
        shards.append(write_shard(path, shard_samples, first_index=len(shards) * per_shard))
    return shards


def _chain_first(first: dict[str, bytes], rest: Iterable[dict[str, bytes]]) -> Iterator[dict[str, bytes]]:
    yield first
    yield from rest


def shard_records(shards: list[Shard]) -> list[dict[str, Any]]:
    """The shards as a manifest lists them."""
    return [asdict(shard) for shard in shards]


def read_manifest(folder: Path, made_by: str = "encrypt", name: str = "manifest.json") -> dict[str, Any]:
    """Read and check the manifest beside shards.

    Args:
        folder: the folder of shards.
        made_by: the stage that writes it, named in errors.
        name: ``manifest.json`` of encrypted shards, ``dataset.json`` of raw ones.

    Returns:
        What an :class:`EncryptedManifest` or a :class:`RawManifest` holds, by the names in the file.

    Raises:
        PpvitError: it is missing, no JSON, of another schema version, or does not agree with itself.
    """
    kind: type[Record] = RawManifest if name == "dataset.json" else EncryptedManifest
    return read_record(Path(folder) / name, kind, made_by).model_dump(by_alias=True)


def sizes(counts: Mapping[str, int]) -> str:
    """Numbers of images by split, in words: ``1,294 training, 143 validation and 360 test images``."""
    return f"{counts['train']:,} training, {counts['val']:,} validation and {counts['test']:,} test images"


class ShardReader:
    """Random access to the samples of one split.

    Args:
        folder: the folder of shards.
        split: its name, for messages.
        shards: what the manifest says of them.
        labelling: what labels may be.
        image_bytes: an encoded image may have.
        opened: opens the members of raw shards, where they are sealed; see :class:`ppvit.data.tar_index.Opener`.

    Every shard is read once before the first sample: its headers, its labels, its SHA-256. What it says of sizes is
    held against the size of the file before anything is made of it, and a shard that changes later is refused.

    Raises:
        PpvitError: a shard is missing, truncated or altered, holds a member that is neither an image of a known kind
            nor a label (nothing is ever unpickled), or a label that the labelling does not have.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        shards: list[dict[str, Any]],
        labelling: Labelling = ANY_CLASS,
        image_bytes: int = IMAGE_BYTES,
        opened: Opener | None = None,
    ) -> None:
        self._opened, self._labelling = opened, labelling
        indices: list[Index] = []
        for record in shards:
            path, first = Path(folder) / record["name"], sum(len(index.labels) for index in indices)
            told = record["samples"], record["sha256"]
            indices.append(index_shard(path, *told, first, labelling, image_bytes, opened))
        if not indices:  # which only val may have, by its manifest
            none = np.zeros((0, 2, 2), np.int64), np.zeros(0, np.uint8), labelling.empty(0), np.zeros(0, bool)
            indices.append(Index(Path(folder), (), *none))
        # arrays, not lists of objects: 40 bytes an image, and forked workers share them
        self._shards = [(index.path, index.identity) for index in indices]
        self._shard_of = np.repeat(np.arange(len(indices), dtype=np.int32), [len(index.labels) for index in indices])
        self._places = np.concatenate([index.places for index in indices])
        self._extensions = np.concatenate([index.extensions for index in indices])
        self._labels = np.concatenate([index.labels for index in indices])

    def __getstate__(self) -> dict[str, Any]:
        if not clustered():
            return self.__dict__
        # another machine starts elsewhere, and counts devices and inodes its own way
        there = [(path.absolute(), identity[2:]) for path, identity in self._shards]
        return {**self.__dict__, "_shards": there}

    def __len__(self) -> int:
        return len(self._shard_of)

    def name(self, index: int) -> str:
        """``shard: sample`` and, in raw shards, the file it came from; for error messages."""
        origin = self._read(index, ORIGIN).decode("utf-8", "replace")
        return self._place(index) + (f" (from {origin})" if origin else "")

    def _place(self, index: int) -> str:
        path, _ = self._shards[self._shard_of[index]]
        return f"{path}: sample {index:08d}"

    def image(self, index: int) -> bytes:
        """The encoded image of a sample.

        Raises:
            PpvitError: the shard is no longer the file that it was.
        """
        return self._read(index, IMAGE)

    def extension(self, index: int) -> str:
        """Under which the encoded image of a sample was stored."""
        return IMAGES[int(self._extensions[index])]

    def target(self, index: int) -> Any:
        """The label of a sample as training takes it: a class number, or float32 (C,) of 0 and 1."""
        target = self._labelling.targets(self._labels[index : index + 1])[0]
        return target if target.ndim else int(target)

    def labels(self) -> np.ndarray:
        """All labels: class numbers, int64 (number of samples,), or multi-label, bool (number of samples, C)."""
        return self._labels.astype(np.int64) if self._labels.ndim == 1 else self._labels

    def _read(self, index: int, kind: int) -> bytes:
        offset, size = (int(number) for number in self._places[index, kind])
        if not size:  # an encrypted sample has no origin
            return b""
        path, identity = self._shards[self._shard_of[index]]
        data = b""
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                if identity_of(descriptor)[-len(identity) :] == identity:
                    data = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            pass
        except OSError as error:  # named here, since one raised in a reading process loses its path
            raise PpvitError(f"{path} cannot be read ({error.strerror}); check it and run again") from None
        if len(data) != size:
            raise PpvitError(f"{path} was replaced or changed while it was read; run again once nothing writes it")
        if self._opened is None:
            return data
        return self._opened(data, self._place(index), index, "txt" if kind == ORIGIN else "image")
