"""The table of this study: accuracy on validation images by learning rate."""

from __future__ import annotations

from study import Study
from table import Results, markdown

NOTE = """Percent correct on the validation images after the last epoch, a row a kind of images and a method; the best
of a row is in bold, and is what the other studies take, or the smallest rate within half a point of it."""


def sections(study: Study, size: str, results: Results) -> list[str]:
    rates = sorted({variant["rate"] for variant in study.variants(size)})
    rows: dict[tuple[str, str], dict[float, float]] = {}
    for variant, result in results.items():
        found = rows.setdefault((variant["images"], variant["method"]), {})
        found[variant["rate"]] = result["val_accuracy_percent"]
    header = ["images", "method", *map(str, rates)]
    return [NOTE, markdown([header, *([*_named(row), *_cells(found, rates)] for row, found in rows.items())], 2)]


def _named(row: tuple[str, str]) -> list[str]:
    images, method = row
    return [images, f"`{method}`"]


def _cells(found: dict[float, float], rates: list[float]) -> list[str]:
    best = max(found.values())
    texts = {rate: f"{value:.1f}" for rate, value in found.items()}
    return [f"**{texts[rate]}**" if found.get(rate) == best else texts.get(rate, "") for rate in rates]
