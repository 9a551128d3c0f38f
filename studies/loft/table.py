"""The tables of the study at one size, from its results.    dvc repro loft/dvc.yaml:table@tiny (in studies/)"""

from __future__ import annotations

import functools
import math
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppvit.core.errors import PpvitError, one_line_errors
from ppvit.core.files import read_json
from ppvit.evasion.sample import interval_percent

HERE = Path(__file__).parent.resolve()

Run = tuple[str, str, int]
"""model, method, percent of labels"""
Results = dict[Run, dict[str, Any]]

BASELINE, LOFT = "rft", "loft"
NOTE = """SA: accuracy on clean images. AA: accuracy under {attacks} in turn, {norm}, eps {epsilon:g} grey levels.
PGD-20: under the first of them alone. All three in percent of the same {images} test images, in brackets Wilson's 95 %
interval. *AA against* another row: difference of AA with Newcombe's 95 % interval (1998, method 10), * where it leaves
zero out; it takes the two samples for independent, though the images are the same, so it is rather too wide. One
training seed a row: intervals are about the choice of images, and do not cover the chance in training. Parameters:
those that train, head included. CPU time: of training, one thread."""
DOUBTED = (
    "† {model} `{method}`, {labels} % of the labels: failed {checks}; PGD-20 leaves {left:.0f} % at eps {largest}."
)


def read_yaml(name: str) -> Any:
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


def planned(size: str) -> dict[str, list[Run]]:
    """The runs of a size by stage, in the order of ``variants.yaml``."""
    stages = read_yaml("variants.yaml")["stages"]
    found = {name: axes for name, axes in stages.items() if size in axes["size"]}
    return {name: list(product(axes["model"], axes["method"], axes["labels"])) for name, axes in found.items()}


def result_path(size: str, run: Run) -> Path:
    return HERE / "results" / size / "{}-{}-{}.json".format(*run)


def load_results(size: str) -> Results:
    """The results that there are, in the order of the plan.

    Raises:
        PpvitError: there is none.
    """
    paths = {run: result_path(size, run) for stage in planned(size).values() for run in stage}
    found = {run: read_json(path, "loft/dvc.yaml") for run, path in paths.items() if path.exists()}
    if not found:
        raise PpvitError(
            f"{HERE / 'results' / size} has no result; dvc repro loft/dvc.yaml:methods@{size}-vit-loft-100"
        )
    return found


def standing(result: dict[str, Any], name: str) -> np.ndarray:
    """As many True as images withstand an attack, of as many as were attacked, bool (n,)."""
    return np.arange(result["images"]) < round(result[f"{name}_accuracy_percent"] * result["images"] / 100)


def difference_percent(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Difference of the shares of True, in points, with its 95 % interval (Newcombe 1998, Stat. Med. 17:873, eq. 10).

    Args:
        first, second: bool (n,) and (m,), of independent samples.
    """
    shares = [100.0 * float(np.mean(hits)) for hits in (first, second)]
    (low_1, high_1), (low_2, high_2) = (interval_percent(hits) for hits in (first, second))
    difference = shares[0] - shares[1]
    below = math.hypot(shares[0] - low_1, high_2 - shares[1])
    above = math.hypot(high_1 - shares[0], shares[1] - low_2)
    return difference, difference - below, difference + above


def share(result: dict[str, Any], name: str) -> str:
    """Accuracy with its interval."""
    low, high = interval_percent(standing(result, name))
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
        f"{result['pgd_accuracy_percent']:.0f}",
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


def methods_table(results: Results, runs: list[Run]) -> list[list[str]]:
    rows = [["model", "method", *header(f"`{BASELINE}`")]]
    for run in runs:
        model, method, labels = run
        if run in results:
            rows.append([model, f"`{method}`", *columns(results[run], results.get((model, BASELINE, labels)))])
    return rows


def ladder_table(results: Results, runs: list[Run], quantity: str, own: int) -> list[list[str]]:
    """LoFT with other values of a quantity, which are in the methods' names; ``own`` is LoFT's value."""
    rows = [["model", quantity, *header(f"{quantity} {own}")]]
    for model in dict.fromkeys(run[0] for run in runs if run in results):
        methods = {int(re.findall(r"\d+", run[1])[0]): run[1] for run in runs if run[0] == model}
        for number, method in sorted({**methods, own: LOFT}.items()):
            if (run := (model, method, 100)) in results:
                rows.append([model, str(number), *columns(results[run], results.get((model, LOFT, 100)))])
    return rows


def labels_table(results: Results, runs: list[Run]) -> list[list[str]]:
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


def published_table(paper: dict[str, Any]) -> list[list[str]]:
    rows = [["method", *paper["columns"]]]
    rows += [
        [method, *("–" if value is None else f"{value:.2f}" for value in values)]
        for method, values in paper["figures"].items()
    ]
    return rows


TABLES = {
    "methods": methods_table,
    "photographs": methods_table,
    "ranks": functools.partial(ladder_table, quantity="rank", own=8),
    "labels": labels_table,
    "steps": functools.partial(ladder_table, quantity="steps", own=10),
}


def render(size: str) -> str:
    """All tables as Markdown."""
    paper, results = read_yaml("paper.yaml"), load_results(size)
    first = next(iter(results.values()))
    attacks = {"pgd": "PGD-20", "apgd_ce": "APGD-CE", "apgd_t": "APGD-T"}
    named = [text for name, text in attacks.items() if f"{name}_accuracy_percent" in first]
    public = {name: first[name] for name in ("norm", "epsilon", "images")}
    parts = [
        f"# {paper['title']}: {size}",
        f"Made by `dvc repro loft/dvc.yaml:table@{size}` from `results/{size}`. {paper['sizes'][size].strip()}",
        NOTE.format(attacks=", ".join(named), **public),
    ]
    for stage, runs in planned(size).items():
        if any(run in results for run in runs):
            table = TABLES[stage](results, runs)
            parts += [f"## {stage.capitalize()}", markdown(table, text_columns=table[0].index("SA"))]
    if missing := [run for stage in planned(size).values() for run in stage if run not in results]:
        parts += ["Planned and not run: " + ", ".join("{} `{}` {} %".format(*run) for run in missing) + "."]
    parts += [doubts(run, result) for run, result in results.items() if failed_checks(result)]
    parts += ["## Published", markdown(published_table(paper), text_columns=1), paper["caution"].strip()]
    return "\n\n".join(parts) + "\n"


def markdown(rows: list[list[str]], text_columns: int) -> str:
    """A Markdown table of a header and rows; all but the first columns are aligned to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(rows[0]) - text_columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def main(size: str, folder: Path) -> None:
    """Write ``<size>.md`` into a folder."""
    (folder / f"{size}.md").write_text(render(size), encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 2:
            sys.exit("usage: table.py <size>")
        main(sys.argv[1], HERE)
