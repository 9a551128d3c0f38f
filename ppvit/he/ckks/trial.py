"""Files that others wrote are first read in a copy of this process.

SEAL, a library in C++, inflates and checks what it reads. Where it fails to, it takes all memory or ends the process
without a word: here those of the copy, and one line is told.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from ppvit.core.children import end_with_parent
from ppvit.core.errors import PpvitError

_MORE_BYTES = 256 * 2**20  # memory pools, and the window of zstd
_TOLD_BYTES = 4000


def require_readable(paths: Iterable[Path], read: Callable[[Path], object], most_bytes: int) -> None:
    """Read every file once, in a copy of this process whose memory is bounded, and refuse what cannot be read.

    Where forking is unsafe (macOS) nothing is tried, and reading alone must do.

    Args:
        paths: the files.
        read: raises a PpvitError for a bad file.
        most_bytes: what the largest of the files takes in memory, three times of which the copy may take.

    Raises:
        PpvitError: names the first file that cannot be read.
    """
    files = list(paths)
    if sys.platform != "linux" or not files:
        return
    parent = os.getpid()
    source, sink = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: the copy uses no lock of another thread
        copy = os.fork()
    if not copy:
        _be_the_copy(files, read, 3 * most_bytes + _MORE_BYTES, parent, sink)
    os.close(sink)
    try:
        with os.fdopen(source, "rb") as pipe:
            begun, told = _told(pipe.read())
    finally:
        os.kill(copy, signal.SIGKILL)  # it has ended, unless we are being stopped
        os.waitpid(copy, 0)
    if told is None:
        raise PpvitError(
            f"{files[begun]} cannot be read: it takes more memory than its kind may, or ends the process that reads "
            "it; fetch it again or make it again"
        )
    if told:
        raise PpvitError(told)


def _told(said: bytes) -> tuple[int, str | None]:
    """How many files the copy had done, and what it said in the end: nothing of good ones, None where it died."""
    begun = said.count(b"\0")
    rest = said.rpartition(b"\0")[2]
    if not rest:
        return max(begun - 1, 0), None
    return begun, rest[1:].decode("utf-8", "replace")


def _be_the_copy(files: list[Path], read: Callable[[Path], object], memory: int, parent: int, sink: int) -> None:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the copied process would have done
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent(parent)
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C++ says something when it aborts
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _bound_memory(memory)
        for path in files:
            os.write(sink, b"\0")
            try:
                read(path)
            except PpvitError as error:
                os.write(sink, b"!" + str(error).encode()[:_TOLD_BYTES])
                return
        os.write(sink, b"!")
    finally:
        os._exit(0)  # neither this nor anything that the copied process has to do at its end is the copy's


def _bound_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    wanted = pages * resource.getpagesize() + more
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [each for each in (wanted, soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
