"""Result files in JSON: what a stage measured, and on which device, with which revision and versions."""

from __future__ import annotations

import platform
import re
import resource
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, RootModel

from ppvit.core.device import keeps_to_cpu
from ppvit.core.errors import PpvitError
from ppvit.core.figures import COMPARED
from ppvit.core.files import write_json
from ppvit.core.locks import sole_writer
from ppvit.core.reading import Record, md5_of, read_record, sha256_of


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


def write_result(path: Path, values: dict[str, Any], watch: Stopwatch, passing: tuple[str, ...] = ()) -> None:
    """Write what a stage measured, in three files, so that a rerun with equal results changes no file that DVC hashes.

    ``<folder>/<stage>.json`` holds what a rerun repeats; ``<folder>/metrics/<stage>.json`` the few figures of it that
    experiments are compared by (:data:`ppvit.core.figures.COMPARED`); ``<folder>/times/<stage>.json`` times, memory,
    device, revision and versions. Beside the last, ``seconds.json`` has the wall time of each stage for DVC to show,
    and ``kept`` the times of earlier results by the MD5 of their file, which is what DVC knows them by.

    Args:
        path: the first of the three.
        values: flat, snake_case, units in names; those that end as times and memory do go to the last file.
        watch: started with the stage.
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
        times = {stage: {**measured, **passes, **environment(), "result_sha256": sha256_of(path)}}
        write_json(path.parent / "times" / path.name, times)
        write_json(kept_times(path.parent, md5_of(path)), times)
        write_json(metrics, {stage: {name: stays[name] for name in COMPARED.get(stage, ()) if name in stays}})
    seconds = path.parent / "times" / "seconds.json"
    with sole_writer(seconds.with_suffix(".files")):  # other stages may be running beside this one
        write_json(seconds, {"seconds": seconds_of(path.parent)})


def seconds_of(results: Path) -> dict[str, float]:
    """Wall time by stage of the results in a folder, of those that were measured there."""
    found = {}
    for stage in COMPARED:
        with suppress(PpvitError, OSError):  # damaged times are no reason to lose a result
            if times := read_times(results / f"{stage}.json"):
                found[stage] = times["wall_seconds"]
    return found


def kept_times(results: Path, md5: str) -> Path:
    """Where a folder of results keeps the times of the result file of this MD5."""
    return results / "times" / "kept" / f"{md5}.json"


def read_kept_times(results: Path, stage: str, md5: str) -> dict[str, Any]:
    """Times of a stage's result that may be there no longer; empty where they were not measured in this folder.

    Raises:
        PpvitError: their file is damaged.
    """
    file = kept_times(results, md5)
    if not re.fullmatch("[0-9a-f]{32}", md5) or not file.exists():
        return {}
    times = read_record(file, _TimesOfStages, stage).root.get(stage)
    return times.model_dump() if times else {}


class _Parameters(Record):
    result_sha256: str
    parameters: dict[str, dict[str, Any]]


def write_parameters(path: Path, parameters: dict[str, dict[str, Any]]) -> None:
    """Keep the parameters that made the result at ``path`` beside its times: section, name, value."""
    record = _Parameters(result_sha256=sha256_of(path), parameters=parameters)
    write_json(path.parent / "times" / "parameters" / path.name, record.model_dump())


def read_parameters(path: Path, made_by: str = "") -> dict[str, dict[str, Any]] | None:
    """The parameters that made the result at ``path``; None where that is not known in this folder.

    Args:
        path: of the result.
        made_by: see :func:`ppvit.core.reading.read_json`; the stage by default.

    Raises:
        PpvitError: their file is damaged.
    """
    file = path.parent / "times" / "parameters" / path.name
    if not (file.exists() and path.exists()):
        return None
    record = read_record(file, _Parameters, made_by or path.stem)
    return record.parameters if record.result_sha256 == sha256_of(path) else None


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

    A result that DVC brought from another machine has none, and those of another result do not count.

    Raises:
        PpvitError: the file of times is damaged.
    """
    if not path.exists():
        return {}
    for file in (path.parent / "times" / path.name, kept_times(path.parent, md5_of(path))):
        times = read_record(file, _TimesOfStages, path.stem).root.get(path.stem) if file.exists() else None
        if times and times.result_sha256 == sha256_of(path):
            return times.model_dump()
    return {}
