"""Timing contestants side by side: in one process, in turns (A B A B), so that what slows the machine slows all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np


def alternate(contestants: dict[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, np.ndarray]:
    """Time every contestant once a round.

    Args:
        contestants: name -> what to time; the first comes first in every round.
        rounds: how many times each is timed.
        warm_up: one untimed round first, for imports, caches and the allocator.

    Returns:
        Name -> seconds, (rounds,).
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1 if warm_up else 0, rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(times) for name, times in seconds.items()}


def one_core() -> None:
    """Keep this process, numpy's and later torch's threads included, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Median and, in brackets, smallest and largest."""
    return f"{np.median(values):,.{digits}f} ({values.min():,.{digits}f}-{values.max():,.{digits}f})"


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print columns as wide as their content needs, as Markdown."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
