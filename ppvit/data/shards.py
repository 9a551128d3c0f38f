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
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.core.reading import read_json, sha256_of

if TYPE_CHECKING:  # the trainer, who reads shards, loads no key
    from ppvit.data.sealed import Seal

# npy: arrays of numbers, for ciphertext that is no 8-bit image
IMAGE_EXTENSIONS = frozenset({"jpg", "png", "webp", "bmp", "ppm", "pgm", "tif", "gif", "npy"})
SPLITS = ("train", "test")
SCHEMA = 2  # version of manifest.json and dataset.json
_IMAGE, _LABEL, _ORIGIN = range(3)  # what a sample is made of: an image, .cls, and in raw shards .txt
_MEMBER = re.compile(r"(\d{8})\.([a-z]+)")


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

    Raises:
        PpvitError: it is missing, no JSON, or of another schema version.
    """
    manifest = read_json(Path(folder) / name, made_by)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise PpvitError(
            f"{folder}/{name} has schema version {found}, this ppvit reads {SCHEMA}; "
            f"make it again: dvc repro --force {made_by}"
        )
    return manifest


class ShardReader:
    """Random access to the samples of one split.

    Args:
        folder: the folder of shards.
        split: its name, for messages.
        shards: what the manifest says of them.
        seal: opens the samples of raw shards, where they are sealed.

    Every shard is checked against its recorded SHA-256 and sample count before the first read.

    Raises:
        PpvitError: a shard is missing, truncated or altered, or holds a member that is neither an image of a known
            kind nor a label (nothing is ever unpickled).
    """

    def __init__(self, folder: Path, split: str, shards: list[dict[str, Any]], seal: Seal | None = None) -> None:
        self._split, self._seal = split, seal
        self._paths: list[Path] = []
        shard_of, places = [], []
        for number, record in enumerate(shards):
            path = Path(folder) / record["name"]
            self._paths.append(path)
            places.append(_index(path, record))
            shard_of.append(np.full(len(places[-1]), number, np.int32))
        if not places:
            raise PpvitError(f"{folder}: the manifest lists no {split} shards; make them again: dvc repro --force")
        # arrays, not lists of objects: 52 bytes an image, and forked workers share them
        self._shard_of = np.concatenate(shard_of)
        self._places = np.concatenate(places)

    def __len__(self) -> int:
        return len(self._shard_of)

    def name(self, index: int) -> str:
        """``shard: sample`` and, in raw shards, the file it came from; for error messages."""
        origin = self._read(index, _ORIGIN).decode("utf-8", "replace")
        return self._place(index) + (f" (from {origin})" if origin else "")

    def _place(self, index: int) -> str:
        return f"{self._paths[self._shard_of[index]]}: sample {index:08d}"

    def image(self, index: int) -> bytes:
        """The encoded image of a sample."""
        return self._read(index, _IMAGE)

    def label(self, index: int) -> int:
        """The class number of a sample.

        Raises:
            PpvitError: the ``.cls`` member holds no number.
        """
        text = self._read(index, _LABEL)
        try:
            return int(text)
        except ValueError:
            raise PpvitError(f"{self.name(index)}: .cls holds {text[:20]!r}, not a class number") from None

    def labels(self) -> np.ndarray:
        """All class numbers, int64, (number of samples,)."""
        return np.fromiter((self.label(index) for index in range(len(self))), np.int64, len(self))

    def _read(self, index: int, kind: int) -> bytes:
        offset, size = (int(number) for number in self._places[index, kind])
        descriptor = os.open(self._paths[self._shard_of[index]], os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if self._seal is None:
            return content
        return self._seal.member(content, self._place(index), self._split, index, ("image", "cls", "txt")[kind])


def _index(path: Path, record: dict[str, Any]) -> np.ndarray:
    """Offset and size of the image, label and origin of every sample: int64, (samples, 3, 2); origin may be empty."""
    if not path.is_file():
        raise PpvitError(f"{path} is missing; fetch it (dvc pull) or make it again (dvc repro)")
    samples: dict[str, list[tuple[int, int]]] = {}  # key -> offset and size of image, label and origin
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, kind = _parse_member(path, member)
                found = samples.setdefault(key, [(0, 0)] * 3)
                if found[kind] != (0, 0):
                    what = ("images", "labels", "origins")[kind]
                    raise PpvitError(f"{path}: sample {key} has two {what}; make the shard again")
                found[kind] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise PpvitError(
            f"{path} is truncated or no tar ({error}); fetch it (dvc pull) or make it again (dvc repro)"
        ) from None
    # the hash comes last, so that a known kind of damage is named before "was altered"
    if len(samples) != record["samples"] or sha256_of(path) != record["sha256"]:
        raise PpvitError(
            f"{path} does not match its manifest ({len(samples)} samples, {record['samples']} expected, SHA-256 "
            "compared): it is truncated or was altered; fetch it (dvc pull) or make it again (dvc repro)"
        )
    places = np.array(list(samples.values()), np.int64).reshape(-1, 3, 2)
    incomplete = np.flatnonzero((places[:, [_IMAGE, _LABEL], 1] == 0).any(axis=1))
    if len(incomplete):
        raise PpvitError(
            f"{path}: sample {list(samples)[incomplete[0]]} has no image or no label; make the shard again"
        )
    return places


def _parse_member(path: Path, member: tarfile.TarInfo) -> tuple[str, int]:
    match = _MEMBER.fullmatch(member.name)
    extension = match[2] if match and member.isfile() else ""
    kind = _IMAGE if extension in IMAGE_EXTENSIONS else {"cls": _LABEL, "txt": _ORIGIN}.get(extension)
    if match is None or kind is None:
        raise PpvitError(
            f"{path}: member '{member.name}' is no image, label or origin of a sample and was not read; "
            "make the shards again or ask whoever sent them"
        )
    return match[1], kind
