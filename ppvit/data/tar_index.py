"""Where the samples of a shard lie in it: every header checked against the size of the file before it is believed."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.core.reading import open_regular
from ppvit.data.decoding import IMAGE_EXTENSIONS
from ppvit.data.labels import ClassNumbers, Labelling

# npy: arrays of numbers, for ciphertext that is no 8-bit image
IMAGES = tuple(sorted({*IMAGE_EXTENSIONS.values(), "npy"}))
IMAGE_BYTES = 2**29  # of an encoded image, at most
IMAGE, ORIGIN = range(2)  # what is read of a sample later; its label is read at once
_LABEL = 2
_MEMBER = re.compile(r"(\d{8})\.([a-z0-9]+)", re.ASCII)
_BLOCK = 512  # of a tar
_LEAST_BYTES = 4 * _BLOCK  # that a sample takes: two headers, an image, a label
_SEAL_BYTES = 44  # at most, that sealing adds to a label
_ORIGIN_BYTES = 2**17  # at most; a zip can hold paths of 64 KiB
ANY_CLASS = ClassNumbers(10**9)
_REMEDY = "fetch it (dvc pull) or make it again (dvc repro)"


class Opener(Protocol):
    """Opens a sealed member of a sample; see :meth:`ppvit.data.sealed.Seal.member`."""

    def __call__(self, content: bytes, where: str, index: int, extension: str, /) -> bytes: ...


@dataclass(frozen=True)
class Index:
    """What is kept of a shard.

    Attributes:
        path: of the tar.
        identity: tells whether the file is still the one that was indexed, see :func:`identity_of`.
        places: offset and size of the image and the origin of every sample, int64, (samples, 2, 2); an origin may have
            size 0.
        extensions: of the images, by their places in ``IMAGES``, uint8, (samples,).
        labels: as :meth:`ppvit.data.labels.Labelling.empty` gives them, (samples, ...).
        labelled: which samples have a label, bool, (samples,).
    """

    path: Path
    identity: tuple[int, ...]
    places: np.ndarray
    extensions: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray


def identity_of(descriptor: int) -> tuple[int, ...]:
    """What changes when a file is replaced or written: device, inode, size in bytes, time of the last change in ns."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def index_shard(
    path: Path,
    samples: int,
    sha256: str,
    first: int = 0,
    labelling: Labelling = ANY_CLASS,
    image_bytes: int = IMAGE_BYTES,
    opened: Opener | None = None,
) -> Index:
    """Read the headers and labels of a shard and compare all of it with what its manifest says.

    Args:
        path: of the tar.
        samples, sha256: as the manifest has them.
        first: number of its first sample within the split.
        labelling: what labels may be.
        image_bytes: an encoded image may have.
        opened: opens members, where they are sealed.

    Raises:
        PpvitError: it is missing, truncated or altered, or holds something else than samples of an image, a class
            number and, in raw shards, an origin.
    """
    try:
        with open_regular(path) as file:
            identity = identity_of(file.fileno())
            if samples * _LEAST_BYTES > identity[2]:
                raise _mismatch(path, f"{samples:,} samples do not fit into its {identity[2]:,} bytes")
            places, labelled = np.zeros((samples, 2, 2), np.int64), np.zeros(samples, bool)
            index = Index(path, identity, places, np.zeros(samples, np.uint8), labelling.empty(samples), labelled)
            for member, offset in _members(file, path, identity[2]):
                _enter(index, member, offset, file, first, labelling, image_bytes, opened)
            file.seek(0)
            # the hash comes last, so that a known kind of damage is named before "was altered"
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise _mismatch(path, f"{samples} samples and their SHA-256 compared")
    except FileNotFoundError:
        raise PpvitError(f"{path} is missing; {_REMEDY}") from None
    incomplete = np.flatnonzero((index.places[:, IMAGE, 1] == 0) | ~index.labelled)
    if len(incomplete):
        raise PpvitError(f"{path}: sample {first + incomplete[0]:08d} has no image or no label; make the shard again")
    return index


def _mismatch(path: Path, reason: str) -> PpvitError:
    return PpvitError(f"{path} does not match its manifest ({reason}): it is truncated or was altered; {_REMEDY}")


def _members(file: BufferedReader, path: Path, size: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Headers up to the end mark, and where their data begin; ``tarfile`` would follow extensions, links and holes."""
    position = 0
    while True:
        file.seek(position)
        try:
            member = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # which typeshed lacks; two blocks of zeros
            return
        except tarfile.HeaderError as error:
            raise PpvitError(f"{path} is truncated or no tar ({error}); {_REMEDY}") from None
        offset = position + _BLOCK
        if not 0 <= member.size <= size - offset:
            raise PpvitError(f"{path} is truncated or no tar (a member of {member.size} bytes); {_REMEDY}")
        yield member, offset
        position = offset + -(-member.size // _BLOCK) * _BLOCK


def _enter(
    index: Index,
    member: tarfile.TarInfo,
    offset: int,
    file: BufferedReader,
    first: int,
    labelling: Labelling,
    image_bytes: int,
    opened: Opener | None,
) -> None:
    number, kind, extension = _parse_member(index.path, member)
    row, where = number - first, f"{index.path}: sample {number:08d}"
    if not 0 <= row < len(index.labels):
        raise _mismatch(index.path, f"sample {number:08d} is not one of its {len(index.labels)} from {first:08d} on")
    if index.labelled[row] if kind == _LABEL else index.places[row, kind, 1]:
        raise PpvitError(f"{where} has two {('images', 'origins', 'labels')[kind]}; make the shard again")
    if kind == _LABEL:
        file.seek(offset)
        content = file.read(min(member.size, labelling.text_bytes + _SEAL_BYTES))
        text = content if opened is None else opened(content, where, number, "cls")
        index.labels[row] = labelling.parsed(text[: labelling.text_bytes + 1], where)
        index.labelled[row] = True
    elif member.size > (image_bytes if kind == IMAGE else _ORIGIN_BYTES):
        raise PpvitError(f"{where}: {member.name} has {member.size:,} bytes, too many; make the shard again")
    else:
        index.places[row, kind] = offset, member.size
        if kind == IMAGE:
            index.extensions[row] = IMAGES.index(extension)


def _parse_member(path: Path, member: tarfile.TarInfo) -> tuple[int, int, str]:
    match = _MEMBER.fullmatch(member.name)
    extension = match[2] if match and member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else ""
    kind = IMAGE if extension in IMAGES else {"cls": _LABEL, "txt": ORIGIN}.get(extension)
    if match is None or kind is None:
        raise PpvitError(
            f"{path}: member '{member.name}' is no image, label or origin of a sample and was not read; "
            "make the shards again or ask whoever sent them"
        )
    return int(match[1]), kind, extension
