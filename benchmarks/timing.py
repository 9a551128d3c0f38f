"""Timing contestants side by side: in one process, in turns (A B A B), so that what slows the machine slows all."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "timm", "peft", "numpy", "dvc")


def benchmark(main: Callable[..., None], *options: tuple[str, dict[str, Any]]) -> None:
    """Run a benchmark, then print what its figures depend on.

    Args:
        main: takes ``smoke``, whether to work on the smallest input and once, and the other options.
        options: more of them, as names and arguments of ``ArgumentParser.add_argument``.
    """
    parser = argparse.ArgumentParser(
        description=main.__globals__["__doc__"], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small inputs and one round: only to see that it runs")
    for name, arguments in options:
        parser.add_argument(name, **arguments)
    given, before = parser.parse_args(), load()
    main(**vars(given))
    print(f"\n{conditions(before)}")


def load() -> str:
    """Processes that wanted to run in the last minute, on average."""
    return f"{os.getloadavg()[0]:.1f}"


def conditions(load_before: str, root: Path = ROOT) -> str:
    """Revision, date, machine, load before and after, versions: what a table of figures must say beside them."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    revision = ""
    with suppress(OSError):  # there is no git
        revision = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    where = f"{os.cpu_count()} cores, load {load_before} before and {load()} after"
    return f"revision {revision or 'unknown'}, {date.today()}, {where}; {', '.join(found)}"


def alternate(
    contestants: dict[str, Callable[[], object]],
    rounds: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Time every contestant once a round.

    Args:
        contestants: name -> what to time; the first comes first in every round.
        rounds: how many times each is timed.
        warm_up: before several rounds an untimed one, for imports, caches and the allocator.
        clock: in seconds; ``time.process_time`` for what runs in one thread beside other work.

    Returns:
        Name -> seconds, (rounds,).
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1 if warm_up and rounds > 1 else 0, rounds):
        for name, run in contestants.items():
            start = clock()
            run()
            if number >= 0:
                seconds[name].append(clock() - start)
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
