"""Tables of FGVC and VTAB-1k, ours beside the papers', with both means that circulate of VTAB-1k.

HTA, RLRR and AOFT average its 19 tasks; FacT and most others the means of its three groups, of seven, four and eight
tasks. One model has both: HTA's 74.7 is the former, and 76.9 the latter.
"""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

from study import Study
from table import Results, markdown

VTAB = ("natural", "specialised", "structured")
MEANS = {"tasks": "VTAB-1k, mean of 19 tasks", "groups": "VTAB-1k, mean of 3 groups", "fgvc": "FGVC, mean of 5"}
Scores = dict[str, dict[str, list[float]]]
"""Accuracies in percent by method and task, one a seed"""

STANDINS = """Stand-ins of VTAB-1k, 1,000 training images each and the model adapted to the key: CIFAR-10 as JPEG
(natural), PneumoniaMNIST (specialised), white shapes of our own drawing (structured). Percent correct, one seed. None
of them is one of the 19 tasks: beside the published means of a group only the order of rows can be compared."""
TASKS = (
    "Percent correct, ours / published (Dong et al. 2024), on ciphertext of `block` with the model adapted: {group}."
)
PUBLISHED = "Published means in percent, as computed from one figure a task or as printed:"
OURS = "The same means of ours, where all of their tasks have been run:"


def tasks_apart(results: Results) -> tuple[Results, Results]:
    """The results without a task, and those of tasks of benchmarks."""
    of_tasks = {variant: result for variant, result in results.items() if "task" in variant.axes}
    return {variant: result for variant, result in results.items() if variant not in of_tasks}, of_tasks


def tasks_in_tables(study: Study, results: Results) -> list[str]:
    """All that is shown of tasks; nothing where none has been run."""
    if not results:
        return []
    about, scores = study.about["benchmarks"], scores_of(results)
    parts = []
    if any(variant["benchmark"] == "standin" for variant in results):
        parts += [STANDINS, standins(about, scores)]
    for group, tasks in about["groups"].items():
        if any(task in found for found in scores.values() for task in tasks):
            parts += [TASKS.format(group=group), beside(about, group, scores)]
    ours = own_means(about, scores)
    return [*parts, PUBLISHED, published_means(about), *([OURS, ours] if ours else [])]


def scores_of(results: Results) -> Scores:
    scores: Scores = {}
    for variant, result in results.items():
        scores.setdefault(variant["method"], {}).setdefault(variant["task"], []).append(result["accuracy_percent"])
    return scores


def means(by_group: dict[str, list[float]]) -> dict[str, float]:
    """Both means of VTAB-1k, and that of FGVC."""
    return {
        "tasks": mean(value for group in VTAB for value in by_group[group]),
        "groups": mean(mean(by_group[group]) for group in VTAB),
        "fgvc": mean(by_group["fgvc"]),
    }


def standins(about: dict[str, Any], scores: Scores) -> str:
    """A row a method: ours on the three, and the published means of their groups."""
    rows = [["method", *VTAB, "mean", *(f"published, {group}" for group in VTAB), f"published, {MEANS['groups']}"]]
    for method, found in scores.items():
        ours = [spread(found.get(group, [])) for group in VTAB]
        whole = f"{mean(mean(found[group]) for group in VTAB):.1f}" if found.keys() >= set(VTAB) else "–"
        published = about["figures"].get(method)
        theirs = [f"{mean(published[group]):.1f}" for group in VTAB] if published else ["–"] * len(VTAB)
        last = f"{means(published)['groups']:.1f}" if published else "–"
        rows.append([f"`{method}`", *ours, whole, *theirs, last])
    return markdown(rows, text_columns=1)


def beside(about: dict[str, Any], group: str, scores: Scores) -> str:
    """A row a method, a column a task of a group."""
    tasks = about["groups"][group]
    rows = [["method", *tasks]]
    for method, found in scores.items():
        published = about["figures"].get(method, {}).get(group, ["–"] * len(tasks))
        rows.append(
            [
                f"`{method}`",
                *(f"{spread(found.get(task, []))} / {value}" for task, value in zip(tasks, published, strict=True)),
            ]
        )
    return markdown(rows, text_columns=1)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds, or a dash."""
    if not values:
        return "–"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def published_means(about: dict[str, Any]) -> str:
    """Both means of what has a figure a task, and what is printed as a mean alone."""
    names = {"hta_lora": "HTA", "melo": "LoRA", "full": "whole model"}
    rows = [["method", "source", *MEANS.values()]]
    for method, by_group in about["figures"].items():
        found = means(by_group)
        rows.append([names[method], "Dong et al. 2024, a figure a task", *(f"{found[kind]:.1f}" for kind in MEANS)])
    for row in about["means"]:
        rows.append([row["what"], row["source"], *("–" if row[kind] is None else f"{row[kind]:.1f}" for kind in MEANS)])
    return markdown(rows, text_columns=2)


def own_means(about: dict[str, Any], scores: Scores) -> str:
    """Ours, for methods that all tasks of a mean have been run with; empty where there is none."""
    rows = [["method", *MEANS.values()]]
    for method, found in scores.items():
        by_group = {
            group: [mean(found[task]) for task in tasks]
            for group, tasks in about["groups"].items()
            if found.keys() >= set(tasks)
        }
        vtab = by_group.keys() >= set(VTAB)
        if vtab or "fgvc" in by_group:
            whole = means({**{group: [0.0] for group in (*VTAB, "fgvc")}, **by_group})
            there = {"tasks": vtab, "groups": vtab, "fgvc": "fgvc" in by_group}
            rows.append([f"`{method}`", *(f"{whole[kind]:.1f}" if there[kind] else "–" for kind in MEANS)])
    return markdown(rows, text_columns=1) if len(rows) > 1 else ""
