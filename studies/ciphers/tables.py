"""The table and the plot of this study: accuracy, cost and leak of every cipher."""

from __future__ import annotations

from typing import Any

import matplotlib.figure
from study import Study
from table import Results, markdown, svg

from ppvit.audit import ATTACKS

NOTE = """Accuracies in percent: *unadapted* trains the public weights on ciphertext as they are, *adapted* those
transformed by the key (– where no exact adaptation exists), *ConvMixer* trains a small one from random weights with a
learned permutation matrix after its first layer (Qi 2023; – where it was not run). Leaks in percent of everything, 0
being a guess: with the public checkpoint and the trained model (weights), ten known pairs (known), an oracle (chosen),
a hundred ciphertexts (pooled), one ciphertext (jigsaw, feature, min diff), a network trained on pairs under other keys
(inverse), and how often the plain image is picked out of 100 (match). *Not attacked*: no good attack of ours applies,
which is no evidence of safety; NeuraCrypt's encodings, for one, have been matched to their images at 100 % (arXiv
2108.07256). Images/s are of the cipher alone on one core, measured beside other work: only their order of magnitude
tells ciphers apart."""
NOT_ATTACKED = "not attacked"
_LINE = 1.3  # percentage points of accuracy that a line of names takes in the plot


def sections(study: Study, size: str, results: Results) -> list[str]:
    shown = {name: attack.column for name, attack in ATTACKS.items() if name not in ("matching", "brute_force")}
    header = ["cipher", "unadapted", "adapted", "ConvMixer", "parameters", "images/s", "bytes/image", *shown.values()]
    rows = [[*header, ATTACKS["matching"].column, ATTACKS["brute_force"].column]]
    rows += [_row(result, list(shown), _no_good(study, result)) for result in results.values()]
    return [NOTE, markdown(rows, text_columns=1)]


def _row(result: dict[str, Any], attacks: list[str], no_good: list[str]) -> list[str]:
    def text(name: str, form: str) -> str:
        value = result.get(name)
        return "–" if value is None else format(value, form)

    def leak(attack: str, figure: str) -> str:
        return text(f"{attack}_{figure}", ".0f") if applies(result, attack, no_good) else NOT_ATTACKED

    return [
        result["cipher"],
        text("unadapted_accuracy_percent", ".1f"),
        text("adapted_accuracy_percent", ".1f"),
        text("convmixer_accuracy_percent", ".1f"),
        text("adapted_parameters" if "adapted_parameters" in result else "unadapted_parameters", ",d"),
        text("encrypted_images_per_second", ",d"),
        text("bytes_per_image", ",d"),
        *(leak(attack, "strength_percent") for attack in attacks),
        leak("matching", "top1_percent"),
        text("brute_force_key_bits", ".0f"),
    ]


def applies(result: dict[str, Any], attack: str, no_good: list[str]) -> bool:
    """Whether an attack did anything to this cipher: one that does not apply gives the ciphertext back, and no key."""
    found_images = result.get(f"{attack}_ssim") != result["ssim_of_ciphertext"]
    found_key = result.get(f"{attack}_key_recovered_percent") is not None
    return attack not in no_good and (found_images or found_key or result[f"{attack}_strength_percent"] > 0)


def _no_good(study: Study, result: dict[str, Any]) -> list[str]:
    return study.plan["no_good_attack"].get(result["cipher"], [])


def ciphertext_leak_percent(result: dict[str, Any], no_good: list[str]) -> float | None:
    """How far the best of the attacks that need only ciphertext gets, 0 .. 100; None where none of them applies."""
    attacks = [name for name, attack in ATTACKS.items() if attack.ciphertext_only and applies(result, name, no_good)]
    return max((result[f"{name}_strength_percent"] for name in attacks), default=None)


def plots(study: Study, size: str, results: Results) -> dict[str, tuple[str, bytes]]:
    """Up is more accurate, left leaks less; a cipher that nothing with ciphertext alone attacks is not shown."""
    found = [(ciphertext_leak_percent(result, _no_good(study, result)), result) for result in results.values()]
    leaks = [(leak, result) for leak, result in found if leak is not None]
    figure = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    styles = {"adapted": ("o", "full"), "unadapted": ("o", "none"), "convmixer": ("^", "full")}
    for model, (marker, fill) in styles.items():
        shown = [(leak, result) for leak, result in leaks if f"{model}_accuracy_percent" in result]
        axes.plot(
            [leak for leak, _ in shown],
            [result[f"{model}_accuracy_percent"] for _, result in shown],
            marker,
            fillstyle=fill,
            linestyle="",
            label={"convmixer": "ConvMixer, learned matrix"}.get(model, f"ViT, {model}"),
        )
    _name_points(axes, leaks)
    axes.set(xlabel="leak to the best ciphertext-only attack, percent", ylabel="accuracy, percent")
    axes.set(title="Accuracy against leak; weights and known pairs leak more, see the table")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return {"leaks": ("accuracy against leak", svg(figure))}


def _name_points(axes: Any, leaks: list[tuple[float, dict[str, Any]]]) -> None:
    """Write the names beside the unadapted points, which every cipher has; near each other one below the other."""
    taken: dict[int, float] = {}
    for leak, result in sorted(leaks, key=lambda each: -each[1]["unadapted_accuracy_percent"]):
        accuracy, column = result["unadapted_accuracy_percent"], round(leak / 20)
        height = min(accuracy, taken.get(column, 200.0) - _LINE)
        taken[column] = height
        left = leak > 35
        axes.annotate(
            result["cipher"],
            (leak, accuracy),
            (leak + (-5 if left else 3), height),
            fontsize=7,
            horizontalalignment="right" if left else "left",
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.5},
        )
