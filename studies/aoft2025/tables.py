"""What this study shows beside the usual tables: angles between columns, and accuracies on tasks of benchmarks."""

from __future__ import annotations

from statistics import mean
from typing import Any

import matplotlib.figure
import paper
from aoft2025.benchmarks import tasks_apart, tasks_in_tables
from study import Study
from table import Results, markdown, svg

NEAR_DEGREES = 5
KINDS = ("backbone", "backbone_gaussian", "down", "down_gaussian", "up", "up_gaussian")
HEADING = """Percent of column pairs within 5 degrees of a right angle after training, and of random Gaussian matrices
of the same sizes (backbone: query and value of all layers; prompts count as up):"""


def sections(study: Study, size: str, results: Results) -> list[str]:
    """The usual tables, angles, and tasks of benchmarks."""
    usual, tasks = tasks_apart(results)
    parts = [*paper.sections(study, size, usual), *angles(study, size, usual)] if usual else []
    return [*parts, *tasks_in_tables(study, tasks)]


def angles(study: Study, size: str, results: Results) -> list[str]:
    rows = [["images", "method", *(kind.replace("_gaussian", ", Gaussian") for kind in KINDS)]]
    for (images, method), runs in paper.rows_of(study, size, results).items():
        near = [run["angles_near_90_percent"] for run in runs]
        if "up" in near[0]:
            texts = [f"{mean(found[kind] for found in near):.1f}" if kind in near[0] else "–" for kind in KINDS]
            rows.append([images, f"`{method}`", *texts])
    return [HEADING, markdown(rows, text_columns=2)]


def plots(study: Study, size: str, results: Results) -> dict[str, tuple[str, bytes]]:
    """Distribution of the angles between columns, a panel a row of the plot's ``panels``."""
    rows, plot = paper.rows_of(study, size, tasks_apart(results)[0]), study.about["plot"]
    figure = matplotlib.figure.Figure(figsize=(9, 2.2 * len(plot["panels"])), layout="constrained")
    panels = figure.subplots(len(plot["panels"]), 1, sharex=True)
    for axes, (title, lines) in zip(panels, plot["panels"].items(), strict=True):
        for label, line in lines.items():
            counts = summed_counts(rows[plot["images"], line["method"]], line["matrices"])
            wide = [sum(counts[start : start + NEAR_DEGREES]) for start in range(0, len(counts), NEAR_DEGREES)]
            edges = [number * NEAR_DEGREES for number in range(len(wide) + 1)]
            axes.stairs([100 * count / sum(counts) for count in wide], edges, label=label)
        axes.axvspan(90 - NEAR_DEGREES, 90 + NEAR_DEGREES, color="0.92", zorder=0)
        axes.set(title=title, ylabel=f"percent in {NEAR_DEGREES} degrees", xlim=(30, 150))
        axes.legend(fontsize=7)
    axes.set(xlabel="angle between two columns, degrees")
    return {"angles": (plot["title"], svg(figure))}


def summed_counts(runs: list[dict[str, Any]], matrices: str) -> list[int]:
    """The histogram of one kind of matrices over several runs."""
    return [sum(counts) for counts in zip(*(run["angles"][matrices] for run in runs), strict=True)]
