"""The tables of the study, from its results.    dvc repro keyed_defence/dvc.yaml:table (in studies/)"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import yaml

from ppvit.core.errors import one_line_errors
from ppvit.core.files import read_json

HERE = Path(__file__).parent.resolve()

Results = dict[tuple[str, str], dict[str, Any]]
"""by cipher and training"""

ATTACKERS = ("k1", "k2", "k3", "k4")
HEAD = """# Accuracy under attack of keyed models

Made by `dvc repro keyed_defence/dvc.yaml:table` from `results`. Digits at 32 px, the embedded micro-ViT,
{train_images} training images; {norm}, eps {epsilon:g} grey levels of the plain image for every attacker; the same
{images} test images in all rows, one training seed. Accuracies in percent. Clean: of all {test_images} test images.
Minimum: the smallest of K1 to K4, in brackets its 95 % interval (Wilson); what differs by less is not told apart.

K1 knows the key (PGD-20, APGD-CE, APGD-T in turn, through the cipher). K2 holds the weights, recovers the key and goes
on as K1. K3 transfers PGD-20 from {k3_surrogates} models made under other keys. K4 asks {k4_queries} times for classes
(Square). Wrong key: PGD-20 through a key that is not the owner's; that is what a keyed defence looks like when nobody
attacks it, and no robustness."""
DOUBTED = """† An attacker without the key does better than K1: K1's gradients are masked, and the row is not to be
believed."""
PUBLISHED = """## Key length 0

The same models, the key published: K2 is K1, since there is nothing to recover, and K3 makes its surrogates under that
same key. Without a cipher there is nothing else."""


def planned() -> list[tuple[str, str]]:
    """Cipher and training of every row, in the order of ``variants.yaml``."""
    stages = yaml.safe_load((HERE / "variants.yaml").read_text(encoding="utf-8"))["stages"]
    return [row for axes in stages.values() for row in product(axes["cipher"], axes["training"])]


def result_path(cipher: str, training: str) -> Path:
    return HERE / "results" / f"{cipher}-{training}.json"


def load_results() -> Results:
    """All results; one that is missing is an error that names the stage."""
    return {row: read_json(result_path(*row), "keyed_defence/dvc.yaml") for row in planned()}


def accuracy(result: dict[str, Any], name: str) -> str:
    """In whole percent, or a dash where there is no such attacker."""
    value = result.get(f"{name}_accuracy_percent")
    return "–" if value is None else f"{value:.0f}"


def minimum(result: dict[str, Any]) -> str:
    """The headline with its interval, marked where it is not to be believed."""
    low, high = result["interval_low_percent"], result["interval_high_percent"]
    believed = result["masking_white_box_strongest"] and result["masking_square_no_better"]
    return f"{accuracy(result, 'headline')} ({low:.0f} to {high:.0f})" + ("" if believed else "†")


def recovery(result: dict[str, Any]) -> str:
    """How much of the key K2 recovers, from what, in what time."""
    if "k2_attack" not in result:
        return "–"
    source = {"weights": "weights", "known_plaintext": "10 known pairs"}[result["k2_attack"]]
    return f"{result['k2_key_recovered_percent']:.0f} %, {source}, {1000 * result['k2_key_seconds']:.0f} ms"


def attackers_table(results: Results) -> str:
    """Every attacker of every model."""
    rows = [["cipher", "training", "clean", "K1", "K2", "K2's key", "K3", "K4", "minimum", "wrong key"]]
    for (cipher, training), result in results.items():
        k1, k2, k3, k4 = (accuracy(result, name) for name in ATTACKERS)
        clean, wrong = f"{result['test_accuracy_percent']:.1f}", accuracy(result, "naive")
        rows.append([f"`{cipher}`", training, clean, k1, k2, recovery(result), k3, k4, minimum(result), wrong])
    return markdown(rows)


def published_key_table(results: Results) -> str:
    """What is left of every attacker when the key has length 0."""
    rows = [["cipher", "training", "K1 = K2", "K3", "K4", "minimum"]]
    for (cipher, training), result in results.items():
        k1, k3, k4 = (result[f"{name}_accuracy_percent"] for name in ("k1", "k3_key_published", "k4"))
        rows.append([f"`{cipher}`", training, *(f"{value:.0f}" for value in (k1, k3, k4, min(k1, k3, k4)))])
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table of a header and rows; all but the first two columns are aligned to the right."""
    rule = ["---"] * 2 + ["---:"] * (len(rows[0]) - 2)
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def render() -> str:
    """Both tables as Markdown."""
    results = load_results()
    first = next(iter(results.values()))
    table = attackers_table(results)
    parts = [HEAD.format(**first), table, *([DOUBTED] if "†" in table else []), PUBLISHED, published_key_table(results)]
    return "\n\n".join(parts) + "\n"


def main(folder: Path) -> None:
    """Write ``threats.md`` into a folder."""
    (folder / "threats.md").write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors():
        main(HERE)
