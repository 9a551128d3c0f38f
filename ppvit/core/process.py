"""What every process of ppvit needs before it works: threads that wait without burning time, and one-line errors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ppvit.core.errors import one_line_errors


def share_processors() -> None:
    """Let threads of OpenMP sleep while they wait; must be called before torch is loaded, which reads it then.

    By default they spin: beside other work each waits for one that the system has put aside, and all burn processor
    time. ``benchmarks/busy.py`` has the figures. What the user has set stays: this variable, and ``GOMP_SPINCOUNT`` and
    ``KMP_BLOCKTIME``, which go before it in GNU's library and in LLVM's and Intel's. Processes that this one starts
    inherit it. Nothing is set for OpenBLAS, which numpy brings: no stage was faster with one thread of it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def prepared_process() -> Iterator[None]:
    """The body of a stage or verb: :func:`share_processors`, then errors that the user can put right in one line."""
    share_processors()
    with one_line_errors():
        yield


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """While this lasts SIGTERM ends the process as an error does: folders of secrets are removed, processes ended."""

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
