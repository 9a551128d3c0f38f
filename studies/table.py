"""The table and the plots of a study at one size, from its results.

dvc repro lin2025/dvc.yaml:table@tiny        (or: ../stages/python table.py lin2025 tiny)
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats
from settings import ADAPTED, STUDIES, planned, read_yaml

from ppvit.core.errors import one_line_errors
from ppvit.core.files import read_json

Results = dict[tuple[str, str], list[dict[str, Any]]]
"""by images and method, one result a seed"""

OURS = ["images", "method", "accuracy", "against plain"]
COST = ["training loss", "parameters", "adapter, kB", "peak memory, MiB", "images/s", "time, s", "CPU time, s"]
NOTE = """Accuracies in percent on the test images, mean ± standard deviation over {seeds} seeds. *Against plain*: the
difference to plain images with the same method and seed, over the seeds; * where a paired t-test tells it from zero at
5 %. Costs are of fine-tuning alone, means over the seeds, on {device}; parameters are those that train, head
included."""


def load_results(paper: str, size: str) -> Results:
    """All results of a size; one that is missing is an error that names the stage."""
    results: Results = {}
    for run in planned(paper, size):
        results.setdefault((run.images, run.method), []).append(read_json(STUDIES / run.result, f"{paper}/dvc.yaml"))
    return results


def render(paper: str, size: str) -> str:
    """The table as Markdown."""
    published = read_yaml(STUDIES / paper / "paper.yaml")
    results = load_results(paper, size)
    first = next(iter(results.values()))
    devices = sorted({result["device"] for runs in results.values() for result in runs})
    parts = [
        f"# {published['title']}: {size}",
        f"Made by `dvc repro {paper}/dvc.yaml:table@{size}` from `results/{size}`. " + published["sizes"][size].strip(),
        NOTE.format(seeds=len(first), device=", ".join(devices)),
        main_table(results, published),
        *comparison_table(results, published.get("comparisons", [])),
        *exactness(results),
        *angle_table(results),
        *(f"![{plot['title']}]({size}-{plot['name']}.svg)" for plot in published.get("plots", [])),
    ]
    return "\n\n".join(parts) + "\n"


def main_table(results: Results, published: dict[str, Any]) -> str:
    """Ours and theirs, a row a combination of images and method."""
    columns = published["columns"]
    rows = [[*OURS, *columns.values(), *COST]]
    for (images, method), runs in results.items():
        theirs = [published_figure(published, images, method, column) for column in columns]
        rows.append([images, f"`{method}`", spread(runs), against(results, images, method), *theirs, *costs(runs)])
    return markdown(rows, text_columns=2)


def published_figure(published: dict[str, Any], images: str, method: str, column: str) -> str:
    """What the paper reports for a row, or a dash."""
    for figure in published["figures"]:
        if (figure["images"], figure["method"], figure["column"]) == (images, method, column):
            return str(figure["value"])
    return "–"


def accuracies(runs: list[dict[str, Any]]) -> list[float]:
    return [run["accuracy_percent"] for run in runs]


def spread(runs: list[dict[str, Any]]) -> str:
    return f"{mean(accuracies(runs)):.1f} ± {stdev(accuracies(runs)):.1f}"


def against(results: Results, images: str, method: str) -> str:
    """The difference to plain images with the same method."""
    plain = results.get(("plain", method))
    return "–" if plain is None or images == "plain" else difference(results[images, method], plain)


def difference(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation of the paired differences; marked where they are told from zero."""
    values = [a - b for a, b in zip(accuracies(ours), accuracies(others), strict=True)]
    if not any(values):
        return "0 in every run"
    return f"{mean(values):+.1f} ± {stdev(values):.1f}" + ("*" if told_apart(values) else "")


def told_apart(values: list[float]) -> bool:
    """Whether a two-sided t-test tells the mean from zero at 5 %."""
    if stdev(values) == 0:
        return values[0] != 0
    return bool(stats.ttest_1samp(values, 0).pvalue < 0.05)


def costs(runs: list[dict[str, Any]]) -> list[str]:
    def average(name: str) -> float:
        return mean(run[name] for run in runs)

    return [
        f"{average('train_loss'):.4f}",
        f"{average('trainable_parameters'):,.0f}",
        f"{average('adapter_bytes') / 1000:,.0f}",
        f"{average('peak_memory_bytes') / 2**20:,.0f}",
        f"{average('images_per_second'):,.0f}",
        f"{average('wall_seconds'):,.1f}",
        f"{average('cpu_seconds'):,.1f}",
    ]


def comparison_table(results: Results, comparisons: list[dict[str, list[str]]]) -> list[str]:
    """Pairs of rows that a conclusion rests on."""
    if not comparisons:
        return []
    rows = [["first", "second", "first – second"]]
    for pair in comparisons:
        first, second = (tuple(pair[place]) for place in ("first", "second"))
        texts = [f"{images}, `{method}`" for images, method in (first, second)]
        rows.append([*texts, difference(results[first], results[second])])
    heading = "Differences of accuracy between rows, paired over the seeds, * as above:"
    return [heading, markdown(rows, text_columns=2)]


def exactness(results: Results) -> list[str]:
    """How far runs with adaptation are from plain ones, in every epoch."""
    rows = [["images", "method", "training loss", "training accuracy", "test accuracy"]]
    for (images, method), runs in results.items():
        if not images.endswith(ADAPTED) or ("plain", method) not in results:
            continue
        pairs = list(zip(runs, results["plain", method], strict=True))
        loss, accuracy = (
            max(largest(ours[f"train_{name}_by_epoch"], plain[f"train_{name}_by_epoch"]) for ours, plain in pairs)
            for name in ("loss", "accuracy_percent")
        )
        tested = max(abs(ours["accuracy_percent"] - plain["accuracy_percent"]) for ours, plain in pairs)
        rows.append([images, f"`{method}`", f"{loss:.1e}", f"{accuracy:.2f}", f"{tested:.2f}"])
    heading = "Largest differences between adapted and plain in any epoch and seed (accuracies in points):"
    return [heading, markdown(rows, text_columns=2)] if len(rows) > 1 else []


def angle_table(results: Results) -> list[str]:
    """Share of the column pairs that are nearly orthogonal, where it was measured."""
    kinds = ["backbone", "backbone_gaussian", "down", "down_gaussian", "up", "up_gaussian"]
    rows = [["images", "method", *(kind.replace("_gaussian", ", Gaussian") for kind in kinds)]]
    for (images, method), runs in results.items():
        near = [run.get("angles_near_90_percent", {}) for run in runs]
        if any("up" in found for found in near):
            texts = [f"{mean(found[kind] for found in near):.1f}" if kind in near[0] else "–" for kind in kinds]
            rows.append([images, f"`{method}`", *texts])
    heading = (
        "Percent of column pairs within 5 degrees of a right angle after training, and of random Gaussian matrices of "
        "the same sizes (backbone: query and value of all layers; prompts count as up):"
    )
    return [heading, markdown(rows, text_columns=2)] if len(rows) > 1 else []


def largest(ours: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, others, strict=True))


def markdown(rows: list[list[str]], text_columns: int) -> str:
    """A Markdown table of a header and rows; all but the first columns are aligned to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(rows[0]) - text_columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def main(paper: str, size: str, folder: Path) -> None:
    """Write ``<size>.md`` and the plots that the paper names into a folder."""
    (folder / f"{size}.md").write_text(render(paper, size), encoding="utf-8")
    results = load_results(paper, size)
    for plot in read_yaml(STUDIES / paper / "paper.yaml").get("plots", []):
        import plots

        (folder / f"{size}-{plot['name']}.svg").write_bytes(getattr(plots, plot["name"])(results, plot))


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 3:
            sys.exit("usage: table.py <study> <size>")
        main(sys.argv[1], sys.argv[2], STUDIES / sys.argv[1])
