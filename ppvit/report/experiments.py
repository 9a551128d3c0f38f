"""Experiments, commits, tags and branches as DVC knows them, each as a run to compare."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.figures import COMPARED
from ppvit.core.results import read_kept_times
from ppvit.report.runs import Run, figures_of, has_results, read_of, require_readable, runs_of_folder, workspace


def gather(names: Iterable[str]) -> list[Run]:
    """The runs of these names.

    Args:
        names: folders of results, experiments, commits, tags, branches, or ``workspace``; without any, the workspace,
            HEAD, and all experiments with the commits that they started from.

    Raises:
        UsageError: there is no such run.
        PpvitError: none of those that are named can be read; DVC or git cannot.
    """
    names = list(names)
    if not names:
        here = workspace()
        return [*([here] if here else []), *_all_of_dvc()]
    runs: list[Run] = []
    for name in names:
        if has_results(Path(name)):
            runs += runs_of_folder(Path(name))
        elif name == "workspace":
            if (here := workspace()) is None:
                raise PpvitError("there are no results in this folder's workspace; run dvc repro")
            runs.append(here)
        elif Path(name).is_dir() and not _is_ref(name):
            runs += runs_of_folder(Path(name))  # which says what is missing
        else:
            runs.append(run_at(name))
    require_readable(runs)
    return runs


def run_at(ref: str) -> Run:
    """The run of an experiment, commit, tag or branch.

    Raises:
        UsageError: there is none of this name.
    """
    with _repository() as repo:
        from dvc.scm import RevError

        known = _experiments(repo)
        try:
            (state,) = repo.experiments.show(
                revs=[ref], num=1, hide_queued=True, hide_failed=True, hide_workspace=True, sha_only=True
            )
        except (RevError, ValueError):
            if failed := [run for run in _unfinished(repo) if run.name == ref]:
                return failed[0]
            names = [name for several in known.values() for name in several]
            raise UsageError(f"'{ref}' {_unknown(ref, [*names, *_refs(repo)])}") from None
        of_experiments = {name for several in known.values() for name in several}
        return _run(repo, state, ref, "experiment" if ref in of_experiments else "commit")


def _unknown(ref: str, known: list[str]) -> str:
    close = difflib.get_close_matches(ref, known, n=1, cutoff=0.5)
    none = "; there is no commit yet, make one: git commit"
    told = f"; did you mean '{close[0]}'?" if close else f"; there are {', '.join(known[:12])}" if known else none
    return f"is no folder, experiment, commit, tag or branch{told}"


def _all_of_dvc() -> list[Run]:
    runs: list[Run] = []
    with _repository() as repo:
        states = repo.experiments.show(revs=["HEAD", *_experiments(repo)], num=1, hide_workspace=True)
        for state in states:
            runs.append(_run(repo, state, state.name or state.rev[:7], "commit"))
            for each in state.experiments or ():
                status = each.executor.state if each.executor else ""
                first = each.revs[0]
                name = each.name or first.name or first.rev[:7]
                runs.append(_run(repo, first, name, "experiment", "" if status == "success" else status))
    return runs


def _unfinished(repo: Any) -> list[Run]:
    """Experiments that failed, wait or run, which have no revision yet that git knows by their name."""
    states = repo.experiments.show(revs=["HEAD"], num=1, hide_workspace=True)
    return [
        _run(repo, each.revs[0], each.name or each.revs[0].name or "", "experiment", each.executor.state)
        for state in states
        for each in state.experiments or ()
        if each.executor and each.executor.state != "success"
    ]


@contextmanager
def _repository() -> Iterator[Any]:
    """DVC's project of the working folder, whose failures are told in one line."""
    import logging

    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCM

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo() as repo:
            if isinstance(repo.scm, NoSCM):
                raise UsageError("this project is in no git repository, so that it has no experiments; name folders")
            yield repo
    except NotDvcRepoError:
        raise UsageError("this folder is in no DVC project; name folders of results, or run in a project") from None
    except DvcException as error:
        raise PpvitError(f"DVC cannot read the experiments: {_line(str(error))}") from None


def _experiments(repo: Any) -> dict[str, list[str]]:
    """Names of all experiments by the commit that they started from."""
    return {base: [name for name, _ in found] for base, found in repo.experiments.ls(all_commits=True).items()}


def _refs(repo: Any) -> list[str]:
    return [*repo.scm.list_branches(), *repo.scm.list_tags()]


def _is_ref(name: str) -> bool:
    try:
        run_at(name)
    except PpvitError:
        return False
    return True


def _run(repo: Any, state: Any, name: str, kind: str, status: str = "") -> Run:
    commit = state.rev[:7]
    if state.data is None:
        reason = _line(state.error.msg) if state.error else "DVC has nothing of it"
        told = f"{name} cannot be read: {reason}; dvc exp show has what can"
        return Run(name, kind, {}, {}, status, commit, (told,))
    asked = read_of({"params.yaml": state.data.params.get("params.yaml", {}).get("data")})
    read = read_of(state.data.params.get("settings.json", {}).get("data"))
    if status:  # not run to its end: what DVC has beside params.yaml is of the commit that it started from
        return Run(name, kind, {each: asked.get(each, value) for each, value in read.items()}, {}, status, commit)
    figures, remarks = _figures(state.data.metrics, name)
    figures |= _seconds(repo, state.data.outs)
    return Run(name, kind, read or asked, figures, "", commit, tuple(remarks))


def _figures(metrics: dict[str, Any], name: str) -> tuple[dict[str, float], list[str]]:
    """The figures of a revision's metrics, and what is to be said of those that cannot be read."""
    from dvc.utils.serialize import ParseError

    figures: dict[str, float] = {}
    remarks, missing = [], []
    remedy = f" in a checkout of {name}"
    for stage in COMPARED:
        file = metrics.get(f"results/metrics/{stage}.json")
        if not file:
            continue
        where = f"{name}, results/metrics/{stage}.json"
        if isinstance(error := file.get("error"), ParseError | UnicodeDecodeError):
            remarks.append(f"{_line(str(error))} ({where}); make it again: dvc repro --force {stage}{remedy}")
            continue
        if error:
            missing.append(stage)
            continue
        try:
            values = file.get("data")
            values = values.get(stage) if isinstance(values, dict) else None
            figures |= figures_of(stage, values, where, remedy)
        except PpvitError as error:
            remarks.append(str(error))
    if missing and figures:
        remarks.append(f"{name} has no figures of {', '.join(missing)} in DVC's cache; run dvc pull, or that stage")
    elif missing:
        remarks.append(f"{name} has no figures in DVC's cache; run dvc pull, or that run again")
    return figures, remarks


def _seconds(repo: Any, outs: dict[str, Any]) -> dict[str, float]:
    """Wall times of the results of a revision, where they were measured in this folder."""
    root, found = Path(repo.root_dir), {}
    for stage in COMPARED:
        out = outs.get(f"results/{stage}.json")
        with suppress(PpvitError, OSError):  # damaged times are no reason to lose a result
            if out and out.hash and (times := read_kept_times(root / "results", stage, out.hash)):
                found[f"seconds.{stage}"] = times["wall_seconds"]
    return found


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
