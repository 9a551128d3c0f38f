"""The plots of the report as Vega-Lite draws them, each with its figures as a table for whoever runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppvit.core.errors import printable
from ppvit.report.claims import Tables

COUNTED_CLASSES = 20  # with more, numbers do not fit into the cells of the drawing
TABLED_CLASSES = 30  # with more, a table of all pairs is too wide; the pairs that occur are listed
DRAWN_CLASSES = 100  # with more, cells are smaller than a pixel of the page
LISTED = 100  # rows of a list, at most
_NAME_LETTERS = 24  # of a class in a drawing
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_CURVES = {
    "loss": "loss",
    "accuracy_percent": "accuracy in percent",
    "balanced_accuracy_percent": "balanced accuracy in percent",
    "auroc": "AUROC",
    "robust_accuracy_percent": "accuracy under attack in percent",
}
_BLUE, _ORANGE, _GREEN = "#3b82f6", "#e07b39", "#22a06b"  # seen on white and on black, and by the colour-blind
_COLOURS = {"domain": list(_SPLITS.values()), "range": [_BLUE, _ORANGE, _GREEN]}
_DOTS = {"type": "point", "filled": True, "color": _BLUE, "opacity": 0.8}

_INK = {"labelColor": "currentColor", "titleColor": "currentColor"}  # of the page, so that it is light in the dark
CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **_INK,
        **dict.fromkeys(("domainColor", "tickColor", "gridColor"), "currentColor"),
        "gridOpacity": 0.15,
        "labelFontSize": 12,
        "titleFontSize": 12,
    },
    "legend": {**_INK, "orient": "top", "title": None, "labelFontSize": 12},
}
"""What all plots have in common, for Vega-Lite."""


@dataclass(frozen=True)
class Plot:
    """A drawing that answers to the pointer, and its figures.

    Attributes:
        name: an id in the page.
        title: above it.
        says: what is seen, for whoever does not see it.
        columns: titles of the table.
        rows: cells of the table.
        spec: Vega-Lite, data included; None where there is too much to draw.
    """

    name: str
    title: str
    says: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    spec: dict[str, Any] | None


def learning(tables: Tables) -> list[Plot]:
    """Curves of training, validation and test images by epoch, a plot for each figure that was measured."""
    plots = []
    for figure, title in _CURVES.items():
        curves = {
            words: dict(tables.learning[f"{split}_{figure}"])
            for split, words in _SPLITS.items()
            if f"{split}_{figure}" in tables.learning
        }
        epochs = sorted({epoch for curve in curves.values() for epoch in curve})
        if not epochs:
            continue
        legend = {"title": None, "values": [*curves]}
        values = [
            {"epoch": epoch, "images": words, "value": value}
            for words, curve in curves.items()
            for epoch, value in sorted(curve.items())
        ]
        plots.append(
            Plot(
                f"learning-{figure.replace('_', '-')}",
                f"{title[0].upper()}{title[1:]} by epoch",
                f"Lines of {title} on {' and '.join(curves)} images over {len(epochs)} epochs: "
                + "; ".join(_course(words, curve) for words, curve in curves.items()),
                ("epoch", *curves),
                [(epoch, *(_figure(curve.get(epoch)) for curve in curves.values())) for epoch in epochs],
                _spec(
                    values,
                    mark={"type": "line", "point": True},
                    encoding={
                        "x": {"field": "epoch", "type": "quantitative", "axis": {"tickMinStep": 1, "format": "d"}},
                        "y": _numbers("value", title, zero=False),
                        "color": {"field": "images", "type": "nominal", "scale": _COLOURS, "legend": legend},
                        "strokeDash": {"field": "images", "type": "nominal", "legend": None, "sort": [*curves]},
                        "tooltip": _tooltips(epoch="epoch", images="images", value=title),
                    },
                ),
            )
        )
    return plots


def confusion(tables: Tables, classes: Sequence[str]) -> Plot:
    """True classes in rows and predicted ones in columns, as everywhere in this project; shares are of the row."""
    counts, names = tables.confusion, short_names(classes)
    totals = np.maximum(1, counts.sum(1))
    values = [
        {
            "actual": names[true],
            "predicted": names[said],
            "images": int(counts[true, said]),
            "share": round(float(counts[true, said] / totals[true]), 4),
        }
        for true, said in np.argwhere(counts > 0)
    ]
    wrong = sorted((each for each in values if each["actual"] != each["predicted"]), key=lambda each: -each["images"])
    worst = f"; most often {wrong[0]['actual']} is taken for {wrong[0]['predicted']}" if wrong else ""
    says = f"Of {counts.sum()} images {counts.trace()} lie on the diagonal, where the prediction is right{worst}."
    if len(names) <= TABLED_CLASSES:
        columns = ("true class", *names)
        rows = [(name, *(int(count) for count in line)) for name, line in zip(names, counts, strict=True)]
    else:
        columns = ("true class", "predicted", "images", "share of the class")
        rows = [
            (each["actual"], each["predicted"], each["images"], f"{100 * each['share']:.1f} %")
            for each in wrong[:LISTED]
        ]
    axis = {"type": "nominal", "sort": names, "scale": {"domain": names}}
    shade = _numbers("share", "share", domain=[0, 1], range=[0.05, 0.8]) | {"legend": None}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "rect", "color": _BLUE}, "encoding": {"opacity": shade}},
        {"mark": {"type": "text", "color": "currentColor"}, "encoding": {"text": {"field": "images"}}},
    ]
    spec = _spec(
        values,
        layer=layers if len(names) <= COUNTED_CLASSES else layers[:1],
        encoding={
            "x": {"field": "predicted", "title": "predicted class", **axis, "axis": {"labelAngle": -90}},
            "y": {"field": "actual", "title": "true class", **axis},
            "tooltip": _tooltips(actual="true class", predicted="predicted", images="images", share="share"),
        },
        height=min(520, max(220, 24 * len(names))),
    )
    return Plot(
        "confusion",
        "Confusion: true class in rows, predicted in columns",
        says,
        columns,
        rows,
        spec if len(names) <= DRAWN_CLASSES else None,
    )


def calibration(tables: Tables) -> Plot:
    """How often the model is right against how sure it is, with the diagonal on which both are the same."""
    rows = [tuple(round(value, 2) for value in row) for row in tables.calibration]
    values = [dict(zip(("confidence", "accuracy", "images"), row, strict=True)) for row in rows]
    where = {
        "x": _numbers("confidence", "confidence in percent", domain=[0, 100]),
        "y": _numbers("accuracy", "accuracy in percent", domain=[0, 100]),
    }
    spec = _spec(
        values,
        layer=[
            {
                "data": {"values": [{"confidence": end, "accuracy": end} for end in (0, 100)]},
                "mark": {"type": "line", "color": "currentColor", "strokeDash": [4, 4], "opacity": 0.6},
                "encoding": where,
            },
            {
                "mark": _DOTS,
                "encoding": where
                | {
                    "size": {"field": "images", "type": "quantitative", "scale": {"range": [40, 500]}, "legend": None},
                    "tooltip": _tooltips(confidence="confidence %", accuracy="accuracy %", images="images"),
                },
            },
        ],
    )
    says = "Points on the dashed diagonal are right as often as they are sure; the area of a point is its images."
    return Plot(
        "calibration",
        "Calibration",
        says,
        ("confidence in percent", "accuracy in percent", "images"),
        [(f"{sure:.2f}", f"{right:.2f}", int(images)) for sure, right, images in rows],
        spec,
    )


def withstood(curve: list[tuple[float, float]]) -> Plot:
    """Accuracy under PGD against the size of the change.

    Args:
        curve: epsilon in grey levels, and accuracy in percent.
    """
    values = [{"epsilon": epsilon, "accuracy": accuracy} for epsilon, accuracy in curve]
    spec = _spec(
        values,
        mark={"type": "line", "point": True, "color": _BLUE},
        encoding={
            "x": _numbers("epsilon", "epsilon in grey levels"),
            "y": _numbers("accuracy", "accuracy in percent", domain=[0, 100]),
            "tooltip": _tooltips(epsilon="epsilon", accuracy="accuracy %"),
        },
    )
    first, last = curve[0], curve[-1]
    says = f"The line goes from {first[1]:g} % without a change to {last[1]:g} % at {last[0]:g} grey levels."
    rows: list[tuple[Any, ...]] = [(f"{epsilon:g}", f"{accuracy:.2f}") for epsilon, accuracy in curve]
    return Plot("withstood", "Accuracy under PGD", says, ("epsilon in grey levels", "accuracy in percent"), rows, spec)


def reached(strengths: dict[str, float]) -> Plot:
    """How far each attack on the images got.

    Args:
        strengths: by the attack's title, 0 (what luck gives) to 100 (everything).
    """
    values = [{"attack": attack, "strength": strength} for attack, strength in strengths.items()]
    spec = _spec(
        values,
        mark={"type": "bar", "color": _BLUE},
        encoding={
            "y": {"field": "attack", "type": "nominal", "sort": "-x", "title": None, "axis": {"labelLimit": 200}},
            "x": _numbers("strength", "strength", domain=[0, 100]),
            "tooltip": _tooltips(attack="attack", strength="strength"),
        },
        height=28 * len(values),
    )
    full = sum(strength >= 99.5 for strength in strengths.values())
    says = f"0 is what luck gives, 100 everything: {full or 'none'} of {len(values)} attacks reach that."
    rows: list[tuple[Any, ...]] = [(attack, f"{strength:.1f}") for attack, strength in strengths.items()]
    return Plot("reached", "How far each attack got", says, ("attack", "strength"), rows, spec)


def accuracy_against_leak(runs: list[tuple[str, float, float, float]]) -> Plot:
    """Runs by how accurate they are and how much of the images was recovered.

    Args:
        runs: name, SSIM of the recovered images, accuracy (percent, or AUROC), and percent of the key recovered.
    """
    names = ("run", "ssim", "accuracy", "key")
    spec = _spec(
        [dict(zip(names, run, strict=True)) for run in runs],
        mark=_DOTS | {"size": 90},
        encoding={
            "x": _numbers("ssim", "SSIM of the recovered images", domain=[0, 1]),
            "y": _numbers("accuracy", "accuracy", zero=False),
            "tooltip": _tooltips(run="run", accuracy="accuracy", ssim="SSIM", key="key recovered %"),
        },
    )
    best = max(runs, key=lambda run: run[2])
    says = (
        f"Up and to the left is better: accurate, and little recovered. The most accurate of {len(runs)} is {best[0]}."
    )
    rows: list[tuple[Any, ...]] = [
        (name, f"{ssim:.2f}", f"{right:.4g}", f"{key:.1f}") for name, ssim, right, key in runs
    ]
    columns = ("run", "SSIM of the recovered images", "accuracy", "key recovered in percent")
    return Plot("beside", "Accuracy against leak", says, columns, rows, spec)


def short_names(classes: Sequence[str]) -> list[str]:
    """Names as a drawing shows them: cut to 24 letters, and with their numbers where they then are the same."""
    names = [printable(name) for name in classes]
    short = [name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…" for name in names]
    return [name if short.count(name) == 1 else f"{label}: {name}" for label, name in enumerate(short)]


def _spec(values: list[dict[str, Any]], height: int = 260, **parts: Any) -> dict[str, Any]:
    return {"data": {"values": values}, "width": "container", "height": height, **parts}


def _numbers(field: str, title: str, **scale: Any) -> dict[str, Any]:
    """Numbers on an axis or in a shade.

    ``scale``: ``domain``, its ends; ``range``, how these are drawn; ``zero``, whether it has to begin there.
    """
    return {"field": field, "type": "quantitative", "title": title, **({"scale": scale} if scale else {})}


def _tooltips(**fields: str) -> list[dict[str, str]]:
    return [{"field": field, "title": title} for field, title in fields.items()]


def _course(words: str, curve: dict[int, float]) -> str:
    first, last = min(curve), max(curve)
    return f"{words} from {_figure(curve[first])} to {_figure(curve[last])}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
