"""One run beside others: the parameters that its stages read, and the figures that runs are compared by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, UsageError, told
from ppvit.core.figures import COMPARED, RESULT_BYTES, wrong_value
from ppvit.core.reading import read_json
from ppvit.core.results import read_parameters, seconds_of

_APART = {"pretrain", "report"}  # what these read decides no figure of the others


@dataclass(frozen=True)
class Run:
    """What is compared.

    Attributes:
        name: of the folder, experiment, commit, tag or branch.
        kind: ``workspace``, ``folder``, ``commit`` or ``experiment``.
        parameters: what its stages read, by ``section.name``; empty where that is not known. A parameter that no stage
            reads under the chosen cipher and method is not there.
        figures: those of :data:`ppvit.core.figures.COMPARED` that were measured, by ``stage.name``, and
            ``seconds.stage``.
        state: ``failed``, ``queued`` or ``running``; empty for one that ended well.
        commit: the first letters of its revision, or nothing.
        remarks: what could not be read of it, a line each.
    """

    name: str
    kind: str
    parameters: dict[str, Any]
    figures: dict[str, float]
    state: str = ""
    commit: str = ""
    remarks: tuple[str, ...] = ()


def runs_of_folder(folder: Path) -> list[Run]:
    """The run in a folder, or those in the folders in it; what is damaged is a remark of its run.

    Args:
        folder: holds result files such as ``evaluate.json``; or a project, which has them in ``results``; or folders of
            one of these kinds.

    Raises:
        UsageError: no results are there.
    """
    if results := _results_in(folder):
        return [_run(folder, results)]
    inner = [(each, results) for each in sorted(folder.iterdir()) if each.is_dir() and (results := _results_in(each))]
    if not inner:
        raise UsageError(
            f"{folder} holds no result such as evaluate.json, nor does a folder in it; name one that a run wrote "
            "(ppvit evaluate --results FOLDER)"
        )
    return [_run(each, results) for each, results in inner]


def workspace() -> Run | None:
    """The run whose results lie in the project of the working folder; None where there are none."""
    results = _results_in(Path())
    return _run(Path(), results, name="workspace", kind="workspace") if results else None


def require_readable(runs: Sequence[Run]) -> None:
    """Refuse runs of which none has a figure and all have something that cannot be read.

    Raises:
        PpvitError: the first reason.
    """
    if runs and all(run.remarks and not run.figures for run in runs):
        more = "; the other runs cannot be read either" if len(runs) > 1 else ""
        raise PpvitError(f"{runs[0].remarks[0]}{more}")


def has_results(folder: Path) -> bool:
    """Whether a folder, or one in it, holds results."""
    return folder.is_dir() and bool(
        _results_in(folder) or any(_results_in(each) for each in folder.iterdir() if each.is_dir())
    )


def _results_in(folder: Path) -> Path | None:
    for place in (folder, folder / "results"):
        try:
            if any((place / f"{stage}.json").is_file() for stage in COMPARED):
                return place
        except PermissionError:  # of the folder; its run tells of it
            return place
    return None


def _run(folder: Path, results: Path, name: str = "", kind: str = "folder") -> Run:
    figures: dict[str, float] = {}
    settings: dict[str, Any] = {}
    remarks: list[str] = []
    if not os.access(results, os.R_OK | os.X_OK):
        return Run(name or str(folder), kind, {}, {}, remarks=(f"{results} cannot be read; check its permissions",))
    own = kind == "workspace" or results.resolve() == Path("results").resolve()
    remedy = "" if own else " in the project that it is of, or copy it again"
    with _remarked(remarks):
        settings = _settings_beside(results, f"settings{remedy}")
    for stage in COMPARED:
        path = results / f"{stage}.json"
        if not path.is_file():
            continue
        with _remarked(remarks):
            figures |= figures_of(stage, read_json(path, f"{stage}{remedy}", RESULT_BYTES), str(path), remedy)
            if read := read_parameters(path, f"{stage}{remedy}"):
                settings[stage] = read  # whatever params.yaml says by now
    figures |= {f"seconds.{stage}": seconds for stage, seconds in seconds_of(results).items()}
    return Run(name or str(folder), kind, read_of(settings), figures, remarks=tuple(remarks))


@contextmanager
def _remarked(remarks: list[str]) -> Iterator[None]:
    """Keep why something cannot be read: the rest, and the other runs, can be compared all the same."""
    try:
        yield
    except (PpvitError, OSError) as error:
        remarks.append(told(error) or str(error))


def _settings_beside(results: Path, made_by: str) -> dict[str, Any]:
    """What `settings` wrote in the project that these results lie in."""
    path = results.absolute().parent / "settings.json"
    if results.absolute().name != "results" or not path.is_file():
        return {}
    settings = read_json(path, made_by)
    return settings if isinstance(settings, dict) else {}


def figures_of(stage: str, values: Any, where: str, remedy: str = "") -> dict[str, float]:
    """The figures of a stage that runs are compared by, checked; the others are left out.

    Args:
        stage: its name.
        values: what the file at ``where`` holds.
        remedy: where the stage is to run again, if not here.

    Raises:
        PpvitError: there are no names and values, or a figure cannot be right.
    """
    again = f"make it again: dvc repro --force {stage}{remedy}"
    if not isinstance(values, dict):
        raise PpvitError(f"{where}: there are no names and values in it; {again}")
    found = {}
    for name in COMPARED[stage]:
        if values.get(name) is None:
            continue
        if reason := wrong_value(name, values[name]):
            raise PpvitError(f"{where}: {reason}; {again}")
        found[f"{stage}.{name}"] = values[name]
    return found


def read_of(settings: Any) -> dict[str, Any]:
    """Parameters by ``section.name`` of what `settings` wrote by stage, section and name; anything else is left out."""
    found: dict[str, Any] = {}
    for stage, sections in settings.items() if isinstance(settings, Mapping) else ():
        for section, values in sections.items() if isinstance(sections, Mapping) and stage not in _APART else ():
            if isinstance(values, Mapping):
                found |= {f"{section}.{name}": value for name, value in values.items()}
    return found
