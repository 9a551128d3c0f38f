"""The usual tables of a study: ours beside a paper's, a row a combination of images and method, over the seeds."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

from scipy import stats
from study import Study
from table import Results, markdown

ADAPTED = "_adapted"  # ending of the names of images whose model is adapted to the key
Rows = dict[tuple[str, str], list[dict[str, Any]]]
"""by images and method, one result a seed, which it names"""

OURS = ["images", "method", "accuracy", "against plain"]
COST = ["training loss", "parameters", "adapter, kB", "peak memory, MiB", "images/s", "time, s", "CPU time, s"]
NOTE = """Accuracies in percent on the test images, {seeds}. *Against plain*: the
difference to plain images with the same method and seed, over the seeds; * where a paired t-test tells it from zero at
5 %. Costs are of fine-tuning alone, means over the seeds; parameters are those that train, head included."""


def rows_of(study: Study, size: str, results: Results) -> Rows:
    """The rows of which a seed has been run, in the order of the plan."""
    rows: Rows = {}
    for variant in study.variants(size):
        if variant in results:
            run = {**results[variant], "seed": variant["seed"]}
            rows.setdefault((variant["images"], variant["method"]), []).append(run)
    return rows


def sections(study: Study, size: str, results: Results) -> list[str]:
    rows = rows_of(study, size, results)
    return [
        NOTE.format(seeds=_seeds_in_words(rows)),
        main_table(rows, study.about),
        *comparison_table(rows, study.about.get("comparisons", [])),
        *exactness(rows),
    ]


def _seeds_in_words(rows: Rows) -> str:
    counts = sorted({len(runs) for runs in rows.values()})
    if counts == [1]:
        return "one seed"
    return f"mean ± standard deviation over {counts[-1]} seeds" + (" (or one seed)" if len(counts) > 1 else "")


def main_table(results: Rows, published: dict[str, Any]) -> str:
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
    return _with_deviation(accuracies(runs), ".1f")


def _with_deviation(values: list[float], form: str) -> str:
    return format(mean(values), form) + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def against(results: Rows, images: str, method: str) -> str:
    """The difference to plain images with the same method."""
    plain = results.get(("plain", method))
    return "–" if plain is None or images == "plain" else difference(results[images, method], plain)


def difference(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation of the differences with equal seeds; marked where they are told from zero."""
    values = [a["accuracy_percent"] - b["accuracy_percent"] for a, b in pairs(ours, others)]
    if not values:
        return "–"
    if not any(values):
        return "0 in every run"
    return _with_deviation(values, "+.1f") + ("*" if told_apart(values) else "")


def pairs(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Runs of two rows with the same seed."""
    by_seed = {run["seed"]: run for run in others}
    return [(run, by_seed[run["seed"]]) for run in ours if run["seed"] in by_seed]


def told_apart(values: list[float]) -> bool:
    """Whether a two-sided t-test tells the mean from zero at 5 %; one value cannot."""
    if len(values) < 2:
        return False
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


def comparison_table(results: Rows, comparisons: list[dict[str, list[str]]]) -> list[str]:
    """Pairs of rows that a conclusion rests on."""
    rows = [["first", "second", "first – second"]]
    for pair in comparisons:
        first, second = (tuple(pair[place]) for place in ("first", "second"))
        if first in results and second in results:
            texts = [f"{images}, `{method}`" for images, method in (first, second)]
            rows.append([*texts, difference(results[first], results[second])])
    heading = "Differences of accuracy between rows, paired over the seeds, * as above:"
    return [heading, markdown(rows, text_columns=2)] if len(rows) > 1 else []


def exactness(results: Rows) -> list[str]:
    """How far runs with adaptation are from plain ones, in every epoch."""
    rows = [["images", "method", "training loss", "training accuracy", "test accuracy"]]
    for (images, method), runs in results.items():
        if not images.endswith(ADAPTED) or ("plain", method) not in results:
            continue
        both = pairs(runs, results["plain", method])
        loss, accuracy = (
            max(largest(ours[f"train_{name}_by_epoch"], plain[f"train_{name}_by_epoch"]) for ours, plain in both)
            for name in ("loss", "accuracy_percent")
        )
        tested = max(abs(ours["accuracy_percent"] - plain["accuracy_percent"]) for ours, plain in both)
        rows.append([images, f"`{method}`", f"{loss:.1e}", f"{accuracy:.2f}", f"{tested:.2f}"])
    heading = "Largest differences between adapted and plain in any epoch and seed (accuracies in points):"
    return [heading, markdown(rows, text_columns=2)] if len(rows) > 1 else []


def largest(ours: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, others, strict=True))
