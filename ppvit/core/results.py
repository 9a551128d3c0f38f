"""Result files in JSON: what a stage measured, and on which device, with which revision and versions."""

from __future__ import annotations

import platform
import re
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, RootModel

from ppvit.core.device import keeps_to_cpu
from ppvit.core.files import write_json
from ppvit.core.locks import sole_writer
from ppvit.core.reading import Record, read_record, sha256_of


class Stopwatch:
    """Wall time since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, or of the GPU where one was used."""
    if (cuda := _cuda()) is not None and cuda.max_memory_allocated():
        return int(cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    # Linux: ru_maxrss there starts with the peak of the process that started this one
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def environment() -> dict[str, str]:
    """Device, git revision where known, and versions of what the numbers depend on (in one text: one column in DVC)."""
    cuda = _cuda()
    found = [f"python {platform.python_version()}"]
    for package in ("ppvit", "torch", "timm", "peft", "tenseal"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return {
        "device": cuda.get_device_name() if cuda is not None else "cpu",
        "git_revision": _git_revision(),
        "versions": ", ".join(found),
    }


def _cuda() -> Any:
    """``torch.cuda`` where this process has loaded torch and there is a GPU that it may use, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and not keeps_to_cpu() else None


def _git_revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


# endings of the names of figures that no rerun repeats
_PASSING = ("_seconds", "_per_second", "memory_bytes", "_time_percent")


def write_result(
    path: Path, values: dict[str, Any], watch: Stopwatch, headline: tuple[str, ...] = (), passing: tuple[str, ...] = ()
) -> None:
    """Write what a stage measured, in three files, so that a rerun with equal results changes no file that DVC hashes.

    ``<folder>/<stage>.json`` holds what a rerun repeats; ``<folder>/metrics/<stage>.json`` the few figures of it that
    experiments are compared by; ``<folder>/times/<stage>.json`` times, memory, device, revision and versions.

    Args:
        path: the first of the three.
        values: flat, snake_case, units in names; those that end as times and memory do go to the last file.
        watch: started with the stage.
        headline: names of the figures to compare by; those that were not measured are left out.
        passing: names of more values that no rerun repeats.
    """
    stage = path.stem
    passes = {name: value for name, value in values.items() if name in passing or name.endswith(_PASSING)}
    stays = {name: value for name, value in values.items() if name not in passes}
    measured = {"wall_seconds": round(watch.seconds(), 3), "peak_memory_bytes": peak_memory_bytes()}
    metrics = path.parent / "metrics" / path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(path.with_suffix(".files")):  # or the three of two runs could be mixed
        metrics.unlink(missing_ok=True)  # where we are killed from here on, there are none rather than those of others
        write_json(path, stays)
        times = {**measured, **passes, **environment(), "result_sha256": sha256_of(path)}
        write_json(path.parent / "times" / path.name, {stage: times})
        write_json(metrics, {stage: {name: stays[name] for name in headline if name in stays}})


class _Times(Record):
    """What :func:`write_result` keeps of one stage beside its result; figures of the stage's own may be added."""

    model_config = ConfigDict(extra="allow")

    wall_seconds: float = Field(ge=0)
    peak_memory_bytes: int = Field(ge=0)
    device: str
    git_revision: str
    versions: str
    result_sha256: str


class _TimesOfStages(RootModel[dict[str, _Times]]):
    """The file of times: a stage and its times."""


def read_times(path: Path) -> dict[str, Any]:
    """Times, memory and environment of the result at ``path``; empty where it was not measured in this folder.

    A result that DVC brought from its cache has none, and those of another result do not count.

    Raises:
        PpvitError: the file of times is damaged.
    """
    file = path.parent / "times" / path.name
    if not file.exists():
        return {}
    times = read_record(file, _TimesOfStages, path.stem).root.get(path.stem)
    return times.model_dump() if times and times.result_sha256 == sha256_of(path) else {}
