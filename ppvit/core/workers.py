"""How many processes read or encrypt: a matter of the machine, so environment and never params."""

from __future__ import annotations

import os

from ppvit.core.errors import UsageError

_MOST = 1024


def requested_workers() -> int | None:
    """The number in ``$PPVIT_WORKERS``, or None where the user leaves it to us.

    Raises:
        UsageError: not a whole number.
    """
    text = os.environ.get("PPVIT_WORKERS", "")
    if text and not (text.isascii() and text.isdigit() and int(text[:9]) <= _MOST and len(text) < 9):
        raise UsageError(f"PPVIT_WORKERS={text[:40]} is not a whole number from 0 to {_MOST}")
    return int(text) if text else None


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
