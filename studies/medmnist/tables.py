"""The table of this study: AUC and ACC on the official test images."""

from __future__ import annotations

from typing import Any

from study import Study
from table import Results, markdown

NOTE = """AUC and ACC on the official test images, each with its 95 % interval (DeLong, Wilson), which cover the choice
of test images, not of the training run: a row is a run. *Best epoch* is the one that is kept, by its AUC on validation
images."""


def sections(study: Study, size: str, results: Results) -> list[str]:
    header = ["images", "seed", "AUC", "ACC, %", "balanced, %", "best epoch", "its AUC on validation", "CPU time, s"]
    return [NOTE, markdown([header, *(_row(variant.axes, result) for variant, result in results.items())], 1)]


def _row(axes: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        axes["images"] + (", fp32" if axes["method"] == "full_fp32" else ""),
        str(axes["seed"]),
        _interval(found, "auroc", ".3f"),
        _interval(found, "accuracy", ".1f", "_percent"),
        f"{found['balanced_accuracy_percent']:.1f}",
        str(found["selected_epoch"]),
        f"{found['val_auroc']:.4f}",
        f"{found['cpu_seconds']:.0f}",
    ]


def _interval(found: dict[str, Any], name: str, form: str, unit: str = "") -> str:
    value, low, high = (format(found[f"{name}{end}{unit}"], form) for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"
