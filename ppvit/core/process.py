"""What every process of ppvit needs before it works: threads that wait without burning time, and one-line errors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ppvit.core.errors import one_line_errors


def share_processors() -> None:
    """Let threads of OpenMP sleep soon while they wait; must be called before torch is loaded, which reads it then.

    By default they spin: beside other work each waits for one that the system has put aside, and all burn processor
    time. Sleeping at once costs a fifth of the speed on an idle machine, so GNU's library, which torch brings on Linux,
    spins a little; ``benchmarks/busy.py`` has the figures. LLVM's and Intel's follow the policy. What the user has set
    stays: either variable, and ``KMP_BLOCKTIME``, which goes before the policy. Processes that this one starts inherit
    it. Nothing is set for OpenBLAS, which numpy brings: no stage was faster with one thread of it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "4000")


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
