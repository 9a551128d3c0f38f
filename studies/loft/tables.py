"""The tables of this study: accuracy on clean images and under attack, with intervals."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from study import Study, Variant
from table import Results, markdown

from ppvit.core.measures import wilson_percent

Run = tuple[str, str, int]
"""model, method, percent of labels"""
Rows = dict[Run, dict[str, Any]]

BASELINE, LOFT = "rft", "loft"
NOTE = """SA: accuracy on clean images. AA: accuracy under {attacks} in turn, {norm}, eps {epsilon:g} grey levels.
PGD-20: under that alone. All three in percent of the same test images ({images}), in brackets Wilson's 95 %
interval. *AA against* another row: difference of AA with Newcombe's 95 % interval (1998, method 10), * where it leaves
zero out; it takes the two samples for independent, though the images are the same, so it is rather too wide. One
training seed a row: intervals are about the choice of images, and do not cover the chance in training. Parameters:
those that train, head included. CPU time: of training, one thread."""
DOUBTED = (
    "† {model} `{method}`, {labels} % of the labels: failed {checks}; PGD-20 leaves {left:.0f} % at eps {largest}."
)


def standing(result: dict[str, Any], name: str) -> np.ndarray:
    """As many True as images withstand an attack, of as many as were attacked, bool (n,)."""
    return np.arange(result["images"]) < round(result[f"{name}_accuracy_percent"] * result["images"] / 100)


def difference_percent(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Difference of the shares of True, in points, with its 95 % interval (Newcombe 1998, Stat. Med. 17:873, eq. 10).

    Args:
        first, second: bool (n,) and (m,), of independent samples.
    """
    shares = [100.0 * float(np.mean(hits)) for hits in (first, second)]
    (low_1, high_1), (low_2, high_2) = (wilson_percent(int(hits.sum()), len(hits)) for hits in (first, second))
    difference = shares[0] - shares[1]
    below = math.hypot(shares[0] - low_1, high_2 - shares[1])
    above = math.hypot(high_1 - shares[0], shares[1] - low_2)
    return difference, difference - below, difference + above


def share(result: dict[str, Any], name: str) -> str:
    """Accuracy with its interval."""
    hits = standing(result, name)
    low, high = wilson_percent(int(hits.sum()), len(hits))
    return f"{result[f'{name}_accuracy_percent']:.0f} ({low:.0f} to {high:.0f})"


def against(result: dict[str, Any], other: dict[str, Any] | None) -> str:
    """Difference of accuracy under attack with its interval, marked where it is told from zero."""
    if other is None or result is other:
        return "–"
    difference, low, high = difference_percent(standing(result, "headline"), standing(other, "headline"))
    return f"{difference:+.0f} ({low:+.0f} to {high:+.0f})" + ("*" if low > 0 or high < 0 else "")


def columns(result: dict[str, Any], other: dict[str, Any] | None) -> list[str]:
    """What every table says of a run."""
    doubted = "†" if failed_checks(result) else ""
    return [
        share(result, "clean"),
        share(result, "headline") + doubted,
        against(result, other),
        f"{result.get('pgd_accuracy_percent', result['pgd_20_steps_accuracy_percent']):.0f}",
        f"{result['trainable_parameters']:,}",
        f"{result['train_cpu_seconds']:.0f}",
    ]


def failed_checks(result: dict[str, Any]) -> list[str]:
    """The checks for masked gradients that a figure did not pass."""
    return [name for name, passed in result.items() if name.startswith("masking_") and not passed]


def doubts(run: Run, result: dict[str, Any]) -> str:
    """Why a figure is marked."""
    model, method, labels = run
    largest, left = max(result["curve"].items(), key=lambda point: float(point[0]))
    checks = ", ".join(f"`{name}`" for name in failed_checks(result))
    return DOUBTED.format(
        model=model, method=method, labels=labels, checks=checks, left=left, largest=f"{float(largest):g}"
    )


def header(compared: str) -> list[str]:
    return ["SA", "AA", f"AA against {compared}", "PGD-20", "parameters", "CPU time, s"]


def methods_table(results: Rows, runs: list[Run]) -> list[list[str]]:
    rows = [["model", "method", *header(f"`{BASELINE}`")]]
    for run in runs:
        model, method, labels = run
        if run in results:
            rows.append([model, f"`{method}`", *columns(results[run], results.get((model, BASELINE, labels)))])
    return rows


def ladder_table(results: Rows, runs: list[Run], quantity: str, own: int) -> list[list[str]]:
    """LoFT with other values of a quantity, which are in the methods' names; ``own`` is LoFT's value."""
    rows = [["model", quantity, *header(f"{quantity} {own}")]]
    for model in dict.fromkeys(run[0] for run in runs if run in results):
        methods = {int(re.findall(r"\d+", run[1])[0]): run[1] for run in runs if run[0] == model}
        for number, method in sorted({**methods, own: LOFT}.items()):
            if (run := (model, method, 100)) in results:
                rows.append([model, str(number), *columns(results[run], results.get((model, LOFT, 100)))])
    return rows


def labels_table(results: Rows, runs: list[Run]) -> list[list[str]]:
    rows = [["model", "labels", "images", "method", *header(f"`{BASELINE}`")]]
    pairs = {(model, method): None for model, method, _ in runs}
    shares = sorted({100, *(labels for *_, labels in runs)}, reverse=True)
    for model in dict.fromkeys(model for model, _ in pairs):
        for labels, method in product(shares, [method for chosen, method in pairs if chosen == model]):
            if (run := (model, method, labels)) in results:
                ours = results[run]
                texts = [model, f"{labels} %", str(ours["train_images"]), f"`{method}`"]
                rows.append([*texts, *columns(ours, results.get((model, BASELINE, labels)))])
    return rows


def seeds_table(results: Rows, runs: list[Run]) -> list[list[str]]:
    """Every seed against the baseline of the same seed."""
    rows = [["model", "method", "seed", *header(f"`{BASELINE}` of the seed")]]
    for model in dict.fromkeys(run[0] for run in runs):
        for method in dict.fromkeys(run[1].rpartition("_seed_")[0] for run in runs if run[0] == model):
            for seed in sorted({0, *(int(run[1].rpartition("_")[2]) for run in runs)}):
                own, baseline = ((model, name + f"_seed_{seed}" * (seed > 0), 100) for name in (method, BASELINE))
                if own in results:
                    rows.append([model, f"`{method}`", str(seed), *columns(results[own], results.get(baseline))])
    return rows


def published_table(paper: dict[str, Any]) -> list[list[str]]:
    rows = [["method", *paper["columns"]]]
    for method, values in paper["figures"].items():
        rows.append([method, *("–" if value is None else f"{value:.2f}" for value in values)])
    return rows


def starts_table(paper: dict[str, Any]) -> list[list[str]]:
    """Published accuracy after robust pre-training, SA/AA of each protocol."""
    rows = [["start", *paper["protocols"]]]
    for start, values in paper["starts"].items():
        rows.append([start, *("–" if value is None else value for value in values)])
    return rows


TABLES = {
    "methods": methods_table,
    "photographs": methods_table,
    "ranks": functools.partial(ladder_table, quantity="rank", own=8),
    "labels": labels_table,
    "rivals": methods_table,
    "seeds": seeds_table,
    "compared": methods_table,
    "candidates": methods_table,
    "pretraining": methods_table,
    "full": methods_table,
    "full_pretraining": methods_table,
    "steps": functools.partial(ladder_table, quantity="steps", own=10),
}


def sections(study: Study, size: str, results: Results) -> Iterator[str]:
    rows = {run_of(variant): result for variant, result in results.items()}
    first = next(iter(rows.values()))
    attacks = " or ".join(dict.fromkeys(attacked_by(result) for result in rows.values()))
    yield NOTE.format(attacks=attacks, images=first["images"], norm=first["norm"], epsilon=first["epsilon"])
    for group, variants in study.groups(size).items():
        runs = [run_of(variant) for variant in variants]
        if any(run in rows for run in runs):
            table = TABLES[group](rows, runs)
            yield f"## {group.capitalize()}"
            yield markdown(table, text_columns=table[0].index("SA"))
    yield from (doubts(run, result) for run, result in rows.items() if failed_checks(result))
    yield "## Published"
    yield markdown(published_table(study.about), text_columns=1)
    yield study.about["starts_source"].strip()
    yield markdown(starts_table(study.about), text_columns=1)
    yield study.about["caution"].strip()


def attacked_by(result: dict[str, Any]) -> str:
    """The attacks of a run in words."""
    names = {"pgd": "PGD-20", "apgd_ce": "APGD-CE", "apgd_t": "APGD-T", "fab_t": "FAB-T", "square": "Square"}
    named = ", ".join(text for name, text in names.items() if f"{name}_accuracy_percent" in result)
    return f"AutoAttack ({named})" if "square_accuracy_percent" in result else named


def run_of(variant: Variant) -> Run:
    return variant["model"], variant["method"], variant["labels"]
