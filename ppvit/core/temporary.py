"""Temporary folders of which a killed run leaves nothing for long, and files in memory that it leaves not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

with suppress(ImportError):  # Windows has none: there a killed run's folder stays
    import fcntl


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder for this user alone, removed at the end; what killed runs left under the same prefix goes first.

    A lock on the folder, which the system frees with the process, tells a living run's from a dead one's.

    Args:
        prefix: of its name, in ``$TMPDIR`` or where the platform has temporary files.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{prefix}*"):
        _clear(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = _lock(folder)
        if lock is not None:
            break  # else another run took it for a dead one's between the two calls
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # while it is locked: nobody else removes it at the same time
        os.close(lock)


def _clear(folder: Path) -> None:
    """Remove the folder of a dead run of this user."""
    with suppress(OSError):
        if folder.lstat().st_uid == os.getuid() and (lock := _lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """The lock of a folder; None where another process has it, or has removed the folder; links are no folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(folder)):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


@contextmanager
def memory_file(name: str) -> Iterator[Path | None]:
    """A path to a file that has no name on any disk and ends with its last process; None where the system has none.

    The path is good in this process, and in those that inherit the file descriptor in which it ends
    (``pass_fds`` of :class:`subprocess.Popen`). It can be opened for reading and writing as often as wanted.

    Args:
        name: for people who look at the process.
    """
    if not hasattr(os, "memfd_create"):
        yield None
        return
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
