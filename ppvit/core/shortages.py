"""What a machine can run out of, told from the many ways in which libraries say so."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

_FULL = "the disk is full; free some space and run again"
_TOO_LARGE = "a file would be larger than `ulimit -f` allows; raise that limit and run again"
_MEMORY = "memory is short; close other programs, raise `ulimit -v`, or lower batch sizes, image sizes or PPVIT_WORKERS"
_PROCESSES = "no more processes or threads may be started; raise `ulimit -u` and `ulimit -v`, or set PPVIT_WORKERS=1"
_SHARED = "shared memory (/dev/shm) is short; make it larger (docker run --shm-size=2g) or set PPVIT_WORKERS=0"

_BY_NUMBER = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "your quota on the disk is used up; free some space and run again",
    errno.EFBIG: _TOO_LARGE,
    errno.EROFS: "the disk is read-only; name another place or mount it for writing",
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: _PROCESSES,
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine; close other programs",
    errno.EIO: "the disk does not answer as it should (input/output error); check it and name another place",
}

# parts of messages that carry no number; the first that is found counts
_BY_WORDS = {
    "killed by signal: Bus error": _SHARED,
    "/torch_": _SHARED,  # "unable to write to file </torch_1_2>": a tensor that processes share
    "out of shared memory": _SHARED,
    "shared memory object": _SHARED,
    " requested and ": "the disk is full, or the file larger than `ulimit -f` allows; free some space and run again",
    "iostream error": "the disk is full, or the file larger than `ulimit -f` allows; free some space and run again",
    "out of memory": _MEMORY,  # CUDA's
    "can't allocate memory": _MEMORY,  # torch's
    "annot allocate memory": _MEMORY,
    "bad_alloc": _MEMORY,
    "failed to map segment": _MEMORY,  # libraries that do not fit
    "terminated abruptly": "a process was killed, probably since memory is short; lower PPVIT_WORKERS",
    "unexpectedly terminated": "a process was killed, probably since memory is short; lower PPVIT_WORKERS",  # joblib's
    "killed by signal: Killed": "a process was killed, probably since memory is short; lower PPVIT_WORKERS",  # torch's
    "start new thread": _PROCESSES,
    "AF_UNIX path too long": "the path of the folder for temporary files is too long; set TMPDIR to a shorter one",
    "No usable temporary directory": "no folder for temporary files can be written; set TMPDIR to one that can",
}


def shortage(error: BaseException) -> str | None:
    """What the machine lacked and what to do, where that is why an error was raised; None where it was not.

    Libraries wrap one error in another, so the errors that led to it are looked at too.
    """
    return next((reason for each in _led_to(error) if (reason := _reason(each)) is not None), None)


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return _MEMORY
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"\(os error (\d+)\)", text):  # what is written in Rust, as safetensors is
        number = int(found[1])
    if number in _BY_NUMBER:
        return _SHARED if number == errno.ENOSPC and _shares_memory(error) else _BY_NUMBER[number]
    if not isinstance(error, (OSError, RuntimeError, ImportError)):
        return None
    return next((reason for words, reason in _BY_WORDS.items() if words in text), None)


def _shares_memory(error: BaseException) -> bool:
    """Whether an error was raised in making what processes share: it names no file then."""
    trace = error.__traceback__
    while trace is not None:
        if "/multiprocessing/" in (file := trace.tb_frame.f_code.co_filename) or "/loky/" in file:
            return True
        trace = trace.tb_next
    return False
