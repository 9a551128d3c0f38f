"""The runs of this project beside each other, for the report: those of `ppvit compare`, accuracy against leak."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, printable
from ppvit.places import Places
from ppvit.report.comparison import Comparison, compare, point
from ppvit.report.experiments import gather
from ppvit.report.plots import Plot, accuracy_against_leak


@dataclass(frozen=True)
class Beside:
    """What the report shows of other runs.

    Attributes:
        rows: of a table, whose first names the columns; empty where there is one run alone.
        plot: accuracy against leak; None where fewer than two runs have both.
        missing: why there is no table; empty where there is one.
    """

    rows: list[tuple[str, ...]] = field(default_factory=list)
    plot: Plot | None = None
    missing: str = ""


def beside(places: Places) -> Beside:
    """The workspace, HEAD and all experiments beside each other.

    Args:
        places: ``results`` is compared with those of the working folder, whose runs these are.
    """
    if places.results.absolute() != Path("results").absolute() or not Path(".dvc").is_dir():
        return Beside(missing="these results are not those of a project of DVC")
    try:
        runs = gather([])
    except PpvitError as error:  # what lies beside this run is no reason to lose its report
        return Beside(missing=printable(str(error)))
    if len(runs) < 2:
        return Beside(missing="there is no other run yet; make one: dvc exp run -S finetune.rank=4")
    return of(compare(runs))


def of(comparison: Comparison) -> Beside:
    """A comparison as the report shows it."""
    found: list[tuple[str, Any]] = [(run.name, point(run)) for run in comparison.runs]
    points = [(printable(name), place[2], place[0], place[1]) for name, place in found if place is not None]
    return Beside(comparison.rows(), accuracy_against_leak(points) if len(points) > 1 else None)
