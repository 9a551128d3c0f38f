"""How many processes read, encrypt or train: a matter of the machine, so environment and never params."""

from __future__ import annotations

import os

from ppvit.core.errors import UsageError

_MOST = 1024


def requested_workers() -> int | None:
    """The number in ``$PPVIT_WORKERS``, or None where the user leaves it to us.

    Raises:
        UsageError: not a whole number.
    """
    return _number("PPVIT_WORKERS", 0)


def training_processes() -> int | None:
    """``$PPVIT_PROCESSES``: processes on every host that share training, evaluation or attack; None where it is unset.

    Raises:
        UsageError: no whole number from 1 on.
    """
    return _number("PPVIT_PROCESSES", 1)


def training_hosts() -> int:
    """``$PPVIT_NODES``: hosts that share them, each with as many processes; by default 1.

    Raises:
        UsageError: no whole number from 1 on.
    """
    return _number("PPVIT_NODES", 1) or 1


def clustered() -> str:
    """``dask`` or ``ray`` where ``$PPVIT_ENGINE`` names one of them; empty where work stays on this machine.

    Raises:
        UsageError: there is no such engine.
    """
    engine = os.environ.get("PPVIT_ENGINE", "")
    if engine not in ("", "joblib", "dask", "ray"):
        raise UsageError(f"PPVIT_ENGINE={engine[:40]} is none of joblib, dask and ray")
    return engine.removeprefix("joblib")


def _number(name: str, least: int) -> int | None:
    text = os.environ.get(name, "")
    if text and not (text.isascii() and text.isdigit() and least <= int(text[:9]) <= _MOST and len(text) < 9):
        raise UsageError(f"{name}={text[:40]} is not a whole number from {least} to {_MOST}")
    return int(text) if text else None


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
