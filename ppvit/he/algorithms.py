"""The two algorithms, each a module with the same functions, and the plan that says which one a run takes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ppvit.core.errors import PpvitError
from ppvit.core.files import read_json, write_json
from ppvit.he.parties.folders import SCHEMA
from ppvit.he.tiles import algorithm as tiles
from ppvit.he.volley_revolver import algorithm as published

ALGORITHMS: dict[str, ModuleType] = {"tiles": tiles, "volley_revolver": published}
AnyPlan = tiles.Plan | published.Plan


def algorithm_of(plan: AnyPlan) -> ModuleType:
    """Its module; ``twin``, ``upload_slots``, ``weights_of`` are the owner's part, ``train`` is the trainer's."""
    return ALGORITHMS[plan.algorithm]


def write_plan(folder: Path, plan: AnyPlan, fingerprint: str) -> None:
    """Write ``plan.json``, public."""
    record = {"schema": SCHEMA, "fingerprint": fingerprint, "algorithm": plan.algorithm, "plan": plan.as_record()}
    write_json(folder / "plan.json", record)


def load_plan(folder: Path) -> tuple[AnyPlan, str]:
    """Plan and fingerprint of a party's folder.

    Raises:
        PpvitError: missing or unreadable.
    """
    path = folder / "plan.json"
    record = read_json(path, "he (or ppvit he keys)")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or record.get("algorithm") not in ALGORITHMS:
        raise PpvitError(f"{path} is of another version; make it again: ppvit he keys")
    plan = ALGORITHMS[record["algorithm"]].read_plan(record.get("plan"), str(path))
    if not isinstance(record.get("fingerprint"), str):
        raise PpvitError(f"{path} does not say of which key it is; make it again: ppvit he keys")
    return plan, record["fingerprint"]
