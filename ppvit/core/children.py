"""Processes that end with the one that started them, however that ends: also where it is killed and can end nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_PARENT = "_PARENT_OF_PPVIT"  # nobody sets it but this module
_POLL_SECONDS = 0.2


def environment_of_child(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a process that this one starts, which then knows its parent; by default our own and that."""
    return {**(os.environ if environment is None else environment), _PARENT: str(os.getpid())}


def end_with_parent(parent: int | None = None, by: int = signal.SIGKILL) -> None:
    """In a child, first of all: end when the parent ends, and at once where it has ended already.

    The system sends the signal on Linux. It does so when the *thread* ends that started this process, which is
    therefore to be one that lasts, such as the main one. Elsewhere a thread looks who the parent is.

    Args:
        parent: process id of the parent; by default what :func:`environment_of_child` has told, and nothing is done
            where that was not used. A child forks or starts others only after this call, or they take it for theirs.
        by: the signal that ends this process.
    """
    told = os.environ.pop(_PARENT, "")
    parent = parent or (int(told) if told.isdecimal() else None)
    if parent is None:
        return
    if sys.platform == "linux":
        arguments = (ctypes.c_ulong(value) for value in (by, 0, 0, 0))
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, *arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    else:
        threading.Thread(target=_watch, args=(parent, by), daemon=True).start()
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), by)


def _watch(parent: int, by: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), by)
