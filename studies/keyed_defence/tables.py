"""The tables of this study: what every attacker leaves of every model."""

from __future__ import annotations

from typing import Any

from study import Study
from table import Results, markdown

Rows = dict[tuple[str, str], dict[str, Any]]
"""by cipher and training"""

ATTACKERS = ("k1", "k2", "k3", "k4")
NOTE = """{train_images} training images; {norm}, eps {epsilon:g} grey levels of the plain image for every attacker; the
same {images} test images in all rows, one training seed. Accuracies in percent. Clean: of all {test_images} images.
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


def attackers_table(results: Rows) -> str:
    """Every attacker of every model."""
    rows = [["cipher", "training", "clean", "K1", "K2", "K2's key", "K3", "K4", "minimum", "wrong key"]]
    for (cipher, training), result in results.items():
        k1, k2, k3, k4 = (accuracy(result, name) for name in ATTACKERS)
        clean, wrong = f"{result['test_accuracy_percent']:.1f}", accuracy(result, "naive")
        rows.append([f"`{cipher}`", training, clean, k1, k2, recovery(result), k3, k4, minimum(result), wrong])
    return markdown(rows, text_columns=2)


def published_key_table(results: Rows) -> str:
    """What is left of every attacker when the key has length 0."""
    rows = [["cipher", "training", "K1 = K2", "K3", "K4", "minimum"]]
    for (cipher, training), result in results.items():
        k1, k3, k4 = (result[f"{name}_accuracy_percent"] for name in ("k1", "k3_key_published", "k4"))
        rows.append([f"`{cipher}`", training, *(f"{value:.0f}" for value in (k1, k3, k4, min(k1, k3, k4)))])
    return markdown(rows, text_columns=2)


def sections(study: Study, size: str, results: Results) -> list[str]:
    rows = {(variant["cipher"], variant["training"]): result for variant, result in results.items()}
    table = attackers_table(rows)
    doubted = [DOUBTED] if "†" in table else []
    return [NOTE.format(**next(iter(rows.values()))), table, *doubted, PUBLISHED, published_key_table(rows)]
