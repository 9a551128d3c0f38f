"""Plots of studies as SVG, the same bytes for the same results."""

from __future__ import annotations

import io
from statistics import mean
from typing import Any

import matplotlib
import matplotlib.figure
from angles import NEAR_DEGREES, summed_counts

Results = dict[tuple[str, str], list[dict[str, Any]]]


def curves(results: Results, plot: dict[str, Any]) -> bytes:
    """Training loss and accuracy by epoch, a line a kind of images: mean over the seeds, all seeds thin."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    styles = {"plain": ("C0", "-"), "block_adapted": ("C1", "--")}
    for axes, name, label in zip(panels, ("loss", "accuracy_percent"), ("loss", "accuracy, percent"), strict=True):
        for images in plot["images"]:
            runs = [run[f"train_{name}_by_epoch"] for run in results[images, plot["method"]]]
            epochs = range(1, len(runs[0]) + 1)
            colour, line = styles.get(images, ("C3", "-"))
            for run in runs:
                axes.plot(epochs, run, line, color=colour, linewidth=0.5, alpha=0.5)
            average = [mean(values) for values in zip(*runs, strict=True)]
            axes.plot(epochs, average, line, color=colour, marker="o", label=images)
        axes.set(xlabel="epoch", ylabel=f"training {label}", xticks=list(epochs))
        axes.grid(alpha=0.3)
    panels[0].legend()
    return _svg(figure)


def angles(results: Results, plot: dict[str, Any]) -> bytes:
    """Distribution of the angles between columns, a panel a row of the plot's ``panels``."""
    figure = matplotlib.figure.Figure(figsize=(9, 2.2 * len(plot["panels"])), layout="constrained")
    for axes, (title, lines) in zip(
        figure.subplots(len(plot["panels"]), 1, sharex=True), plot["panels"].items(), strict=True
    ):
        for label, line in lines.items():
            counts = summed_counts(results[plot["images"], line["method"]], line["matrices"])
            wide = [sum(counts[start : start + NEAR_DEGREES]) for start in range(0, len(counts), NEAR_DEGREES)]
            edges = [number * NEAR_DEGREES for number in range(len(wide) + 1)]
            axes.stairs([100 * count / sum(counts) for count in wide], edges, label=label)
        axes.axvspan(90 - NEAR_DEGREES, 90 + NEAR_DEGREES, color="0.92", zorder=0)
        axes.set(title=title, ylabel=f"percent in {NEAR_DEGREES} degrees", xlim=(30, 150))
        axes.legend(fontsize=7)
    axes.set(xlabel="angle between two columns, degrees")
    return _svg(figure)


def _svg(figure: matplotlib.figure.Figure) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ppvit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
