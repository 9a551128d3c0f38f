"""One writer at a time: a lock beside what is written, which a killed process cannot leave behind."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppvit.core.errors import PpvitError, say
from ppvit.core.stopping import undisturbed

with suppress(ImportError):  # Windows has none: there names of one's own alone keep writers apart
    import fcntl

_POLL_SECONDS = 0.1
_IN_THE_WAY = (errno.EISDIR, errno.ELOOP, errno.ENXIO)  # a folder, link or socket has the lock's name
_NAME_BYTES = 200  # file systems take 255, of which ours need some
# what file systems over a network say that have no locks
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def hidden(target: Path, ending: str) -> Path:
    """The place beside an output for its lock or for what is not whole yet, which no reader of the output looks for."""
    name = target.name
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return target.with_name(f".{name}.{ending}")


@contextmanager
def sole_writer(target: Path) -> Iterator[bool]:
    """Hold the lock of an output; whoever comes second waits, and says for whom.

    The system frees the lock with the process that holds it, however that ends. The file of the lock, beside the
    output, goes with the lock; ``filelock`` would leave it there.

    Args:
        target: the output; its folder exists. Not to be nested for one output.

    Yields:
        whether no other process can be writing: False where the system has no locks.
    """
    path = hidden(target, "lock")
    descriptor = _acquire(path, target) if "fcntl" in globals() else None
    process = os.getpid()
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None and os.getpid() == process:  # not a copy of it, which must not end its lock
            with undisturbed():
                if _is_at(descriptor, path):
                    path.unlink()  # while it is held: whoever waits finds that the name is gone and opens anew
                os.close(descriptor)


def _acquire(path: Path, target: Path) -> int | None:
    told = False
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            raise _in_the_way(path, target) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a pipe can be opened, and locked, but is no lock
                raise _in_the_way(path, target)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):  # else the one before has removed it between our two calls
                os.ftruncate(descriptor, 0)
                with suppress(OSError):  # a full disk takes no more; then others are not told who holds it
                    os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)
                return descriptor
        except BlockingIOError:
            if not told:
                holder = os.pread(descriptor, 100, 0).decode("ascii", "replace") or "another process"
                say(f"waiting: {target} is being written by {holder}")
                told = True
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                path.unlink(missing_ok=True)
                return None
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _in_the_way(path: Path, target: Path) -> PpvitError:
    return PpvitError(f"{path} is in the way of the lock of {target}; remove it and run again")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
