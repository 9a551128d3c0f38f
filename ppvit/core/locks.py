"""One writer at a time: a lock beside what is written, which a killed process cannot leave behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

with suppress(ImportError):  # Windows has none: there names of one's own alone keep writers apart
    import fcntl

_POLL_SECONDS = 0.1


@contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """Hold the lock of an output; whoever comes second waits, and says for whom.

    The system frees the lock with the process that holds it, however that ends. The file of the lock, beside the
    output, goes with the lock; ``filelock`` would leave it there.

    Args:
        target: the output; its folder exists. Not to be nested for one output.
    """
    if "fcntl" not in globals():
        yield
        return
    path = target.with_name(f".{target.name}.lock")
    descriptor = _acquire(path, target)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still held: whoever waits finds that the name is gone and opens anew
        os.close(descriptor)


def _acquire(path: Path, target: Path) -> int:
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else the one before has removed it between our two calls
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)
                return descriptor
        except BlockingIOError:
            if not told:
                holder = os.pread(descriptor, 100, 0).decode("ascii", "replace") or "another process"
                print(f"waiting: {target} is being written by {holder}", file=sys.stderr)
                told = True
            time.sleep(_POLL_SECONDS)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
