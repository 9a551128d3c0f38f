"""Arrays that are dear to compute and kept in scratch for other runs: whole or absent, checked when read, bounded.

An array is known by everything that determines it, so one that is found is the one that would be computed. When room is
needed, those go that were used longest ago.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.core.errors import PpvitError, UsageError, say
from ppvit.core.files import atomic_output
from ppvit.core.locks import sole_writer
from ppvit.core.reading import open_regular
from ppvit.core.scratch import scratch_folder

FOLDER = "features"  # in scratch
_DEFAULT_GIB = 4.0
_MOST_GIB = 2.0**20
_DIGEST_BYTES = 32  # SHA-256 of the key and the array, behind the array
_CHUNK = 2**20
_SUFFIX = ".array"


def limit_bytes() -> int:
    """What all kept arrays together may take: ``$PPVIT_KEPT_GIB``, 4 where that is unset; 0 keeps nothing.

    Raises:
        UsageError: it is no such number.
    """
    text = os.environ.get("PPVIT_KEPT_GIB", "") or str(_DEFAULT_GIB)
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 <= limit <= _MOST_GIB:
        raise UsageError(f"PPVIT_KEPT_GIB={text[:40]} is not a number of GiB from 0 to {_MOST_GIB:.0f}")
    return int(limit * 2**30)


def kept_array(
    what: str,
    determines: dict[str, Any],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    make: Callable[[], Iterable[np.ndarray]],
) -> np.ndarray | None:
    """The array that ``determines`` determines: as it was kept, or made now and kept.

    Of several processes that want it at once one makes it, and the others wait for that one.

    Args:
        what: it is, for messages.
        determines: everything that it depends on, as JSON takes it.
        shape, dtype: of it.
        make: makes it, in parts along its first axis.

    Returns:
        The array, whose pages are read from the disk as they are needed; None where it cannot be kept, since it is
        larger than :func:`limit_bytes` or the disk takes no more.

    Raises:
        UsageError: ``$PPVIT_KEPT_GIB`` is no number, or something else is in its place.
    """
    key = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).digest()
    size, limit = math.prod(shape) * dtype.itemsize, limit_bytes()
    if not 0 < size + _DIGEST_BYTES <= limit:
        return None
    folder = scratch_folder() / FOLDER
    folder.mkdir(exist_ok=True, mode=0o700)
    path = folder / f"{key.hex()[:32]}{_SUFFIX}"
    if _is_whole(path, key, size, what):
        return _mapped(path, shape, dtype)
    with sole_writer(path.with_suffix(".making")):  # a lock beside that of the writing, which is held a moment only
        if not _is_whole(path, key, size, what):
            _make_room(folder, limit - size - _DIGEST_BYTES)
            try:
                _write(path, key, size, make())
            except PpvitError as error:
                if not isinstance(error.__cause__, OSError):  # what could not be made says so itself
                    raise
                say(f"{what}: not kept ({error})")
                return None
        return _mapped(path, shape, dtype)


def _write(path: Path, key: bytes, size: int, parts: Iterable[np.ndarray]) -> None:
    digest, written = hashlib.sha256(key), 0
    with atomic_output(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                data = np.ascontiguousarray(part).tobytes()
                digest.update(data)
                written += file.write(data)
            file.write(digest.digest())
        if written != size:
            raise AssertionError(f"{written} bytes were made of {size}")


def _is_whole(path: Path, key: bytes, size: int, what: str) -> bool:
    """Whether the array is there with every bit that was written; one that is not will be made again."""
    try:
        with open_regular(path) as file:
            whole = os.fstat(file.fileno()).st_size == size + _DIGEST_BYTES
            digest, left = hashlib.sha256(key), size if whole else 0
            while left and (data := file.read(min(left, _CHUNK))):
                digest.update(data)
                left -= len(data)
            whole = whole and digest.digest() == file.read(_DIGEST_BYTES)
    except FileNotFoundError:
        return False
    if not whole:
        say(f"{what}: those in {path} are damaged and are made again")
        return False
    with suppress(OSError):
        os.utime(path)  # used now
    return True


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The array, in pages of our own that nobody else sees written."""
    with open_regular(path) as file:
        pages = mmap.mmap(file.fileno(), math.prod(shape) * dtype.itemsize, access=mmap.ACCESS_COPY)
    return np.frombuffer(pages, dtype).reshape(shape)


def _make_room(folder: Path, most: int) -> None:
    """Remove arrays, those first that were used longest ago, until the others take at most so many bytes."""
    found = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError):
            status = path.lstat()
            found.append((status.st_mtime_ns, status.st_size, path))
    total, gone = sum(size for _, size, _ in found), 0
    for _, size, path in sorted(found):
        if total <= most:
            break
        with suppress(OSError):
            path.unlink()  # whoever reads it goes on reading
            total, gone = total - size, gone + 1
    if gone:
        say(f"{folder}: removed {gone} of {len(found)}, to stay below PPVIT_KEPT_GIB={limit_bytes() / 2**30:g}")
