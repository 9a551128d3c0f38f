"""In a process that is to be killed: counts what it does to files, and ends it just before the k-th of that.

Set by the environment: ``KILL_WITHIN``, folders whose files count, separated by ``:``; ``KILL_AT``, k from 1;
``KILL_BY``, a signal's number; or ``KILL_AFTER``, seconds; ``KILL_COUNT``, a file to which their number is written.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_PATHS = {"os.rename": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1}
_installed = False


def install() -> None:
    """Install the hook once, if the environment asks for it."""
    global _installed
    within = tuple(filter(None, os.environ.get("KILL_WITHIN", "").split(os.pathsep)))
    if _installed or not within:
        return
    _installed = True
    at, by = int(os.environ.get("KILL_AT", 0)), int(os.environ.get("KILL_BY", 9))
    process, count = os.getpid(), 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if not _mutates(event, arguments, within) or os.getpid() != process:
            return
        count += 1
        if count == at:
            os.kill(process, by)

    sys.addaudithook(hook)
    if place := os.environ.get("KILL_COUNT"):
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        atexit.register(lambda: os.write(descriptor, f"{count}\n".encode()))
    if after := os.environ.get("KILL_AFTER"):
        timer = threading.Timer(float(after), os.kill, (process, by))
        timer.daemon = True
        timer.start()


def _mutates(event: str, arguments: tuple, within: tuple[str, ...]) -> bool:
    if event == "ctypes.dlsym":
        return arguments[1] == "renameat2"
    if event == "open":
        path, _, flags = arguments
        return bool(flags & _WRITING) and _is_within(path, within)
    return any(_is_within(path, within) for path in arguments[: _PATHS.get(event, 0)])


def _is_within(path: object, within: tuple[str, ...]) -> bool:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False
    return os.path.abspath(os.fsdecode(path)).startswith(within)
