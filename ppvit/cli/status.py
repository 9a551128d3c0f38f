"""``ppvit status``: which stages are current and why not, by DVC's own status, in words."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError, printable
from ppvit.core.reading import read_bounded
from ppvit.pipeline import STAGES
from ppvit.pipeline.settings import SETTINGS, settings_of

_LOCK_BYTES = 2**20  # thirty times what ours has
_CHANGES = {"modified": "changed", "deleted": "missing", "not in cache": "not in DVC's cache"}
_SHOWN = 4  # of a kind of reason; a change of code touches many packages


@dataclass(frozen=True)
class Stage:
    """How a stage stands.

    Attributes:
        stage: its name.
        state: ``current``; ``never run``; ``changed``, so that `dvc repro` runs it; ``waits`` for an earlier one, whose
            outputs decide whether it runs.
        reasons: why it is not current.
    """

    stage: str
    state: str
    reasons: list[str] = field(default_factory=list)


def stages_now(config: Config, names: list[str], lock: Path = Path("dvc.lock")) -> list[Stage]:
    """How stages stand, in the order of the pipeline.

    Args:
        config: all parameters; what has changed since a stage ran is told by its own name, also before `settings` ran.
        names: stages to tell of; all by default.
        lock: the project's lock file.

    Raises:
        UsageError: there is no such stage, or no DVC project here, or one without stages of ppvit.
        PpvitError: DVC cannot tell.
    """
    if unknown := [name for name in names if name not in STAGES]:
        close = difflib.get_close_matches(unknown[0], STAGES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(STAGES)}"
        raise UsageError(f"there is no stage '{printable(unknown[0])[:100]}'; {hint}")
    changes, before, frozen = _from_dvc()
    there = [name for name in STAGES if name in before]  # a project of `ppvit init` has no `pretrain`
    if not there:
        raise UsageError("dvc.yaml has no stage of ppvit; take it again from git, or begin with `ppvit init NAME`")
    if absent := [name for name in names if name not in there]:
        raise UsageError(f"this project has no stage '{absent[0]}'; it has {', '.join(there)}")
    locked, asked = _locked(lock), settings_of(config)
    reasons: dict[str, list[str]] = {}
    for name in there:
        held = locked.get(name)
        if held is None:
            reasons[name] = []
            continue
        was = _at(held, "params", SETTINGS.name, name)
        unread = name in frozen or not was  # a stage that tracks no parameters
        changed = [] if unread else _parameters(was, asked[name])
        reasons[name] = [*_shortened(changed), *_told(changes.get(name, []))]
    found = []
    stale: set[str] = set()
    for name in there:
        earlier = [each for each in there if each in before[name] and each in stale]
        if name not in locked:
            stale.add(name)
            found.append(Stage(name, "never run", [f"after {', '.join(earlier)}"] if earlier else []))
        elif reasons[name]:
            stale.add(name)
            found.append(Stage(name, "changed", reasons[name]))
        elif earlier:
            stale.add(name)
            found.append(Stage(name, "waits", [f"for {', '.join(earlier)}, whose outputs decide"]))
        else:
            found.append(Stage(name, "current"))
    return [each for each in found if not names or each.stage in names]


def _from_dvc() -> tuple[dict[str, list[Any]], dict[str, set[str]], set[str]]:
    """What DVC says of each stage; the stages whose outputs each reads, through others or at once; the frozen ones."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with _quiet(), Repo() as repo:
            graph = repo.index.graph
            # the edges of DVC's graph lead from a stage to what it reads
            ours = {
                stage.name: stage for stage in graph if getattr(stage, "name", None) in STAGES and _at_top(repo, stage)
            }
            before = {
                name: {each.name for each in _read_by(graph, stage) if getattr(each, "name", None) in ours}
                for name, stage in ours.items()
            }
            frozen = {name for name, stage in ours.items() if stage.frozen}
            return repo.status(targets=list(ours)), before, frozen
    except NotDvcRepoError:
        raise UsageError("this folder is in no DVC project; run in a clone of ppvit") from None
    except LockError:
        raise PpvitError("DVC is at work in this project; ask again when it is done") from None
    except DvcException as error:
        why = " ".join(str(error).split())
        raise PpvitError(
            f"DVC cannot tell how the stages stand ({why}); `dvc status` says more, and git has the files as they were"
        ) from None


def _read_by(graph: Any, stage: Any) -> set[Any]:
    """The stages whose outputs a stage reads, through others or at once."""
    found: set[Any] = set()
    waiting = [stage]
    while waiting:
        new = [each for each in graph.successors(waiting.pop()) if each not in found]
        found.update(new)
        waiting += new
    return found


def _at_top(repo: Any, stage: Any) -> bool:
    return Path(stage.path).resolve() == Path("dvc.yaml").resolve()


@contextmanager
def _quiet() -> Iterator[None]:
    """DVC says of a frozen stage what nobody asked."""
    logger = logging.getLogger("dvc")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _locked(lock: Path) -> dict[str, Any]:
    try:
        stages = (yaml.safe_load(read_bounded(lock, _LOCK_BYTES)) or {})["stages"]
        return {str(name): held for name, held in stages.items()}
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise PpvitError(f"{lock} is no lock file of DVC; take it again from git") from None


def _at(held: Any, *names: str) -> dict[str, Any]:
    for name in names:
        held = held.get(name) if isinstance(held, dict) else None
    return held if isinstance(held, dict) else {}


def _parameters(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Parameters whose values are others than those the stage last ran with; those that only came or went last."""
    changed, came, went = [], [], []
    for section in sorted(was.keys() | now.keys()):
        old, new = (each.get(section) or {} for each in (was, now))
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                went.append(f"{section}.{name} is not read any more")
            elif name not in old:
                came.append(f"{section}.{name} is read now ({new[name]})")
            elif old[name] != new[name]:
                changed.append(f"{section}.{name}: {old[name]} became {new[name]}")
    return [*changed, *came, *went]


def _told(entries: list[Any]) -> Iterator[str]:
    """What DVC says of a stage, in words."""
    code: list[str] = []
    files: dict[str, list[str]] = {}
    for entry in entries:
        if entry == "changed command":
            yield "its command changed"
        if not isinstance(entry, dict):
            continue
        for kind, which in (("input", "changed deps"), ("output", "changed outs")):
            for path, change in entry.get(which, {}).items():
                if path.startswith("ppvit/"):
                    code.append(path)
                elif path != SETTINGS.name:  # told by the names of parameters
                    files.setdefault(f"{kind} {_CHANGES.get(change, change)}", []).append(path)
    if code:
        yield f"code changed: {_listed(code)}"
    for what, paths in files.items():
        yield f"{what}: {_listed(paths)}"


def _listed(parts: list[str]) -> str:
    more = len(parts) - _SHOWN
    return ", ".join(parts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shortened(changes: list[str]) -> list[str]:
    more = len(changes) - _SHOWN
    return changes if more <= 0 else [*changes[:_SHOWN], f"and {more} parameters more"]
