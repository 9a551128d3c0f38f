"""SIGTERM, SIGHUP and Ctrl-C at any moment, imports included: cleaned up, one line, the exit code that shells expect.

Before the interpreter has come to :func:`stops_in_one_line`, 20 ms after its start, a signal ends it as any Python.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ppvit.core.errors import say

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):  # the terminal was closed; Windows has none
    _SIGNALS[signal.SIGHUP] = "SIGHUP"
_AGAIN_SECONDS = 0.2
_undisturbed: list[bool] = []  # one for each :func:`undisturbed` that lasts


class Stopped(BaseException):
    """Raised in the main thread when a signal asks the process to end; what is underway is cleaned up on its way."""


@contextmanager
def stops_in_one_line(again: str) -> Iterator[None]:
    """While this lasts, a signal that asks the process to end raises :class:`Stopped`, and in the end one line is told.

    Python raises wherever it is, and where that is a destructor or a library in C that is being loaded, the exception
    is swallowed or turned into another. So it is raised again until it is on its way up.

    Args:
        again: the command that goes on, for the line; if it is empty nothing is told.
    """
    if threading.current_thread() is not threading.main_thread() or _installed():
        yield
        return
    asked: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        if not asked:
            asked.append(number)
            sys.excepthook = sys.unraisablehook = threading.excepthook = _silent
            if hasattr(signal, "SIGALRM"):
                signal.signal(signal.SIGALRM, stop)
                signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
        if not _underway() and not _undisturbed:  # else what is cleaned up now would be left half clean
            raise Stopped

    # what is ignored, as by nohup or in the background of a script, stays so
    before = {number: old for number in _SIGNALS if (old := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except BaseException:
        if not asked:
            raise
        _end(asked[0], again)
    finally:
        for number, old in before.items():  # Python's own for Ctrl-C would print a traceback while the process ends
            signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else old)
    if asked:  # swallowed to the very end
        _end(asked[0], again)


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Processes that are started while this lasts do not hear Ctrl-C, which a terminal sends to all: we end them.

    One that comes meanwhile reaches us afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing.resource_tracker import ensure_running as start_tracker

    from joblib.externals.loky.backend.resource_tracker import ensure_running as start_tracker_of_joblib

    for start in (start_tracker, start_tracker_of_joblib):  # later their start would lift the block
        start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """While this lasts, which must be short, signals wait: for what must not be left half done."""
    _undisturbed.append(True)
    try:
        yield
    finally:
        _undisturbed.pop()


def _installed() -> bool:
    return getattr(signal.getsignal(signal.SIGTERM), "__module__", "") == __name__


def _underway() -> bool:
    error = sys.exception()
    while error is not None:
        if isinstance(error, Stopped):
            return True
        error = error.__context__
    return False


def _silent(*_: Any) -> None:
    """In place of what prints exceptions that nothing can catch."""


def _end(number: int, again: str) -> None:
    """Say what stopped us and end at once: nothing runs again of a library that was interrupted while it loaded."""
    _end_children()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    if again:
        say(f"stopped by {_SIGNALS[signal.Signals(number)]}; to go on, run again: {again}")
    os._exit(128 + number)


def _end_children() -> None:
    """End what libraries have started, but for processes that clean up after us, which end by themselves."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if not any("resource_tracker" in word for word in child.cmdline()):
                child.kill()
