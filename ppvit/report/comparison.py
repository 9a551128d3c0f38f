"""Runs side by side: the parameters that differ, the figures, accuracy against leak; as rows, CSV, JSON and a page."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ppvit.core.errors import UsageError, printable
from ppvit.core.figures import COMPARED
from ppvit.report.runs import Run

_LETTERS = 60  # of a parameter's value in a table
_ACCURACY = ("evaluate.accuracy_percent", "evaluate.auroc")  # the latter where images carry several labels
_LEAK = ("audit.key_percent_of_strongest", "audit.ssim_of_strongest")


@dataclass(frozen=True)
class Figure:
    """A column of figures.

    Attributes:
        name: ``stage.name``, as files have it.
        title: as people read it, with the unit.
        digits: after the point; None: four that count.
        more_is_better: what is sorted to the top.
        main: whether a table without ``--all`` has it.
    """

    name: str
    title: str
    digits: int | None
    more_is_better: bool
    main: bool = False

    def text(self, value: float | None) -> str:
        """A value as a table has it."""
        if value is None:
            return ""
        return f"{value:.4g}" if self.digits is None else f"{value:,.{self.digits}f}"


FIGURES: tuple[Figure, ...] = (
    Figure("evaluate.accuracy_percent", "accuracy, %", 2, True, main=True),
    Figure("evaluate.auroc", "AUROC", 4, True, main=True),
    Figure("evaluate.balanced_accuracy_percent", "balanced accuracy, %", 2, True),
    Figure("evaluate.cross_entropy", "cross-entropy", 4, False),
    Figure("evaluate.calibration_error_percent", "calibration error, %", 2, False),
    Figure("audit.key_percent_of_strongest", "key recovered, %", 1, False, main=True),
    Figure("audit.ssim_of_strongest", "SSIM recovered", 2, False, main=True),
    Figure("threats.headline_accuracy_percent", "accuracy under the strongest attacker, %", 2, True, main=True),
    Figure("robustness.headline_accuracy_percent", "accuracy attacked by the trainer, %", 2, True),
    Figure("robustness.clean_accuracy_percent", "accuracy of the attacked images before, %", 2, True),
    Figure("verify.plain_accuracy_percent", "accuracy on plain images, %", 2, True),
    Figure("verify.plain_auroc", "AUROC on plain images", 4, True),
    Figure("verify.wrong_key_accuracy_percent", "accuracy with a wrong key, %", 2, False),
    Figure("verify.wrong_key_auroc", "AUROC with a wrong key", 4, False),
    Figure("finetune.trainable_parameters", "trained parameters", 0, False, main=True),
    Figure("finetune.val_accuracy_percent", "validation accuracy, %", 2, True),
    Figure("finetune.val_auroc", "validation AUROC", 4, True),
    Figure("adapt.max_logit_difference_float64", "adaptation error", None, False),
    Figure("he.accuracy_percent", "accuracy of the CKKS head, %", 2, True),
    Figure("he.auroc", "AUROC of the CKKS head", 4, True),
    *(Figure(f"seconds.{stage}", f"seconds of {stage}", 1, False, stage == "finetune") for stage in COMPARED),
)


@dataclass(frozen=True)
class Comparison:
    """Runs in the order in which they are shown.

    Attributes:
        runs: of the rows.
        parameters: names of those that differ.
        figures: those that were measured in any run.
        unbeaten: for each run, whether no other is at least as accurate, leaks at most as much and is better in one of
            these; False where accuracy or leak was not measured.
    """

    runs: tuple[Run, ...]
    parameters: tuple[str, ...]
    figures: tuple[Figure, ...]
    unbeaten: tuple[bool, ...]

    def rows(self, every: bool = False) -> list[tuple[str, ...]]:
        """Rows of a table, whose first names the columns: run, what differs, the figures; ``*`` marks the unbeaten.

        Args:
            every: all figures, not the main ones.
        """
        figures = [each for each in self.figures if every or each.main]
        states = any(run.state for run in self.runs)
        head = ("run", *(("state",) if states else ()), *self.parameters, *(each.title for each in figures), "best")
        rows = [tuple(map(printable, head))]
        for run, unbeaten in zip(self.runs, self.unbeaten, strict=True):
            cells = [run.name, *((run.state,) if states else ())]
            cells += [_text(run.parameters.get(name)) if name in run.parameters else "" for name in self.parameters]
            cells += [each.text(run.figures.get(each.name)) for each in figures]
            rows.append((*map(printable, cells), "*" if unbeaten else ""))
        return rows

    def as_csv(self) -> str:
        """All figures with all digits, under the names that files have for them."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            ("run", "kind", "state", "commit", *self.parameters, *(each.name for each in self.figures), "unbeaten")
        )
        for run, unbeaten in zip(self.runs, self.unbeaten, strict=True):
            values = [run.parameters.get(name, "") for name in self.parameters]
            figures = [run.figures.get(each.name, "") for each in self.figures]
            told = [_text(each) if isinstance(each, list | dict | bool) else each for each in values]
            writer.writerow((run.name, run.kind, run.state, run.commit, *told, *figures, str(unbeaten).lower()))
        return out.getvalue()

    def document(self) -> dict[str, Any]:
        """What JSON takes: a list of runs, each with all that is known of it."""
        runs = [
            {
                **{name: getattr(run, name) for name in ("name", "kind", "state", "commit", "parameters", "figures")},
                "remarks": list(run.remarks),
                "unbeaten": unbeaten,
            }
            for run, unbeaten in zip(self.runs, self.unbeaten, strict=True)
        ]
        return {"differ": list(self.parameters), "runs": runs}

    def as_page(self) -> str:
        """One HTML page that loads nothing: the table, sorted by a click on a column, and accuracy against leak."""
        from ppvit.report.rendering import render

        remarks = [printable(each) for run in self.runs for each in run.remarks]
        rows = self.rows(every=True)
        words = 1 + any(run.state for run in self.runs) + len(self.parameters)  # the columns that hold no figures
        drawing = draw_accuracy_against_leak(self)
        return render("compare.html.j2", ("sortable.js",), rows=rows, words=words, drawing=drawing, remarks=remarks)


def compare(runs: Sequence[Run], sort: str = "", reverse: bool = False) -> Comparison:
    """Put runs side by side.

    Args:
        runs: one or more.
        sort: figure or parameter whose best value comes first: a name, a title, or a part that only one has; by default
            runs stay in their order. Runs without it come last.
        reverse: the worst first.

    Raises:
        UsageError: no column is called like ``sort``, or several are.
    """
    parameters = _differing(runs)
    figures = tuple(each for each in FIGURES if any(each.name in run.figures for run in runs))
    if sort:
        runs = _sorted(runs, sort, reverse, parameters, figures)
    elif reverse:
        runs = list(reversed(runs))
    return Comparison(tuple(runs), parameters, figures, _unbeaten(runs))


def _differing(runs: Sequence[Run]) -> tuple[str, ...]:
    known = [run.parameters for run in runs if run.parameters]
    # a run that has nothing of a section is without the stages that read it, so that its values are unknown
    sections = [{name.partition(".")[0] for name in parameters} for parameters in known]

    def differs(name: str) -> bool:
        section = name.partition(".")[0]
        having = [each for each, has in zip(known, sections, strict=True) if section in has]
        return len({_text(each.get(name, ...)) for each in having}) > 1

    return tuple(dict.fromkeys(name for parameters in known for name in parameters if differs(name)))


def _text(value: Any) -> str:
    """A parameter's value as params.yaml has it."""
    if isinstance(value, str):
        text = value
    elif value is ...:
        text = ""
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..."


def _sorted(
    runs: Sequence[Run], sort: str, reverse: bool, parameters: tuple[str, ...], figures: tuple[Figure, ...]
) -> list[Run]:
    name = _column(sort, parameters, figures)
    figure = next((each for each in figures if each.name == name), None)
    values = [(run.figures if figure else run.parameters).get(name) for run in runs]
    there = [number for number, value in enumerate(values) if value is not None]
    missing = [number for number, value in enumerate(values) if value is None]
    downwards = bool(figure and figure.more_is_better) != reverse
    there.sort(key=lambda number: _order(values[number]), reverse=downwards)
    return [runs[number] for number in (*there, *missing)]


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers before text, which stand in one column where a parameter takes both."""
    number = isinstance(value, int | float)
    return (0, float(value), "") if number and not math.isnan(value) else (1, 0.0, _text(value))


def _column(sort: str, parameters: tuple[str, ...], figures: tuple[Figure, ...]) -> str:
    """The name of the column that is meant."""
    asked = sort.casefold()
    titles = {each.name: each.title.removesuffix(", %").casefold() for each in figures}
    titles |= {name: name.partition(".")[2].casefold() for name in parameters}
    main = {each.name for each in figures if each.main}
    for found in (
        [name for name in titles if asked == name.casefold()],
        [name for name, title in titles.items() if asked == title],
        [name for name in titles if asked == name.rpartition(".")[2].casefold()],
        [name for name, title in titles.items() if name in main and (asked in title or asked in name)],
        [name for name, title in titles.items() if asked in title or asked in name.casefold()],
    ):
        if len(found) == 1:
            return found[0]
    if found:
        raise UsageError(f"--sort {printable(sort)}: could be {', '.join(found)}; name one")
    close = difflib.get_close_matches(asked, [*titles, *titles.values()], n=1, cutoff=0.5)
    told = f"did you mean '{close[0]}'? " if close else ""
    there = ", ".join(titles) or "no figure and no difference"
    raise UsageError(f"--sort {printable(sort)}: {told}there are {there}")


def point(run: Run) -> tuple[float, float, float] | None:
    """Accuracy (percent, or mean AUROC), key recovered in percent and SSIM; None where one was not measured."""
    accuracy = next((run.figures[name] for name in _ACCURACY if name in run.figures), None)
    leak = [run.figures.get(name) for name in _LEAK]
    if accuracy is None or leak == [None, None]:
        return None
    return accuracy, leak[0] or 0.0, leak[1] or 0.0  # an attack that finds no key, or no picture, has none of it


def _unbeaten(runs: Sequence[Run]) -> tuple[bool, ...]:
    points = [point(run) for run in runs]

    def beats(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]

    return tuple(own is not None and not any(each and beats(each, own) for each in points) for own in points)


def draw_accuracy_against_leak(comparison: Comparison) -> str | None:
    """An SVG of accuracy against the SSIM of what was recovered, runs by their place in the table; None without any.

    The colour tells how much of the key was found.
    """
    points = [(number, found) for number, run in enumerate(comparison.runs, 1) if (found := point(run))]
    if not points:
        return None
    import matplotlib
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    accuracy, key, ssim = zip(*(found for _, found in points), strict=True)
    dots = axes.scatter(ssim, accuracy, c=key, vmin=0, vmax=100, cmap="viridis_r", edgecolors="0.3")
    for (x, y), numbers in _by_place([(number, (found[2], found[0])) for number, found in points]).items():
        axes.annotate(", ".join(map(str, numbers)), (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9)
    figure.colorbar(dots, label="key recovered, %")
    axes.set(xlabel="SSIM of the recovered images", xlim=(min(0.0, *ssim) - 0.03, 1.06))
    several = any(name in run.figures for run in comparison.runs for name in _ACCURACY[:1])
    axes.set_ylabel("accuracy, %" if several else "mean AUROC")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "ppvit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("?>")[2].partition("<svg")[2]


def _by_place(points: list[tuple[int, tuple[float, float]]]) -> dict[tuple[float, float], list[int]]:
    """Runs that lie on one another share a label."""
    found: dict[tuple[float, float], list[int]] = {}
    for number, (x, y) in points:
        found.setdefault((round(x, 3), round(y, 3)), []).append(number)
    return found
