"""Memory: what a session takes before the first ciphertext, and what this machine has left."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from ppvit.he.ckks.scheme import Parameters

# measured as proportional set size, rounded up; sizes and figures are in tests/he/test_he_memory.py
_FIRST_PROCESS = 75 * 2**20  # Python, NumPy, TenSEAL
_EVERY_FORK = 30 * 2**20  # pages that a fork soon has of its own
_KEYS = 1.07  # memory pools hand out a little more than keys ask for


def session_bytes(parameters: Parameters, rotations: int, processes: int) -> int:
    """Memory of the trainer with its keys: the library, its tables, and the keys, which forks share.

    Args:
        parameters: the parameter set.
        rotations: number of rotation keys.
        processes: among which the work is shared; 1 forks none.
    """
    forks = processes * _EVERY_FORK if processes > 1 else 0
    keys = int(_KEYS * parameters.key_bytes(rotations))
    return _FIRST_PROCESS + forks + parameters.table_bytes() + keys


def every_level_bytes(parameters: Parameters) -> int:
    """One ciphertext at every level: SEAL's pools keep what a level once needed, as no other level's size fits."""
    return sum(parameters.ciphertext_bytes(level) for level in range(parameters.top_level + 1))


def available_bytes() -> int:
    """Memory that this process may still take: the machine's, or its control group's where that has less."""
    groups = left_in_groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return int(min(psutil.virtual_memory().available, *groups))


def left_in_groups(root: Path, groups: Path) -> list[float]:
    """What the groups of this process, their parents included, leave; infinite where there are none.

    Args:
        root: where control groups are mounted.
        groups: lines of ``number:controllers:path``, of version 2 with no controllers.
    """
    left = [float("inf")]
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                start = root / controllers
                place = start / path.lstrip("/")
                left += [_left(each) for each in (place, *place.parents) if each.is_relative_to(start)]
    return left


def _left(group: Path) -> float:
    for limit, usage, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        # "max" where there is no limit: a ValueError; a file that the kernel drops under pressure is as good as free
        with suppress(OSError, ValueError, KeyError):
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used = int((group / usage).read_text()) - int(statistics[reclaimable])
            return int((group / limit).read_text()) - used
    return float("inf")
