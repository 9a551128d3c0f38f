"""The table and the plot of this study: accuracy, cost and leak of every cipher."""

from __future__ import annotations

from typing import Any

import matplotlib.figure
from study import Study
from table import Results, markdown, svg

from ppvit.audit import ATTACKS
from ppvit.audit.rows import NOT_ATTACKED
from ppvit.ciphers import CIPHERS

NOTE = """Accuracies in percent: *unadapted* trains the public weights on ciphertext as they are, *adapted* those
transformed by the key (– where no exact adaptation exists), *ConvMixer* trains a small one from random weights with a
learned permutation matrix after its first layer (Qi 2023; – where it was not run). Leaks in percent of everything, 0
being a guess: with the public checkpoint and the trained model (weights), ten known pairs (known), an oracle (chosen),
a hundred ciphertexts (pooled), one ciphertext (jigsaw, feature, min diff), a network trained on pairs under other keys
(inverse), and how often the plain image is picked out of 100 (match). *Not attacked*: no good attack of ours applies,
which is no evidence of safety: NeuraCrypt's encodings have been matched to their images at 100 % (arXiv 2108.07256).
Images/s are of the cipher alone on one core, measured beside other work: only their order of magnitude tells ciphers
apart."""
_LINE = 1.3  # percentage points of accuracy that a line of names takes in the plot


def sections(study: Study, size: str, results: Results) -> list[str]:
    return [NOTE, cipher_table(list(results.values()))]


def cipher_table(results: list[dict[str, Any]]) -> str:
    """A row a cipher, a column an attack that was made on any of them."""
    shown = [name for name, attack in ATTACKS.items() if any(f"{name}_{attack.figure}" in each for each in results)]
    header = ["cipher", "unadapted", "adapted", "ConvMixer", "parameters", "images/s", "bytes/image"]
    header += [ATTACKS[name].column for name in shown]
    return markdown([header, *([*_costs(each), *(leak(each, name) for name in shown)] for each in results)], 1)


def _costs(result: dict[str, Any]) -> list[str]:
    figures = {
        "cipher": "",
        "unadapted_accuracy_percent": ".1f",
        "adapted_accuracy_percent": ".1f",
        "convmixer_accuracy_percent": ".1f",
        "adapted_parameters" if "adapted_parameters" in result else "unadapted_parameters": ",d",
        "encrypted_images_per_second": ",d",
        "bytes_per_image": ",d",
    }
    return [format(result[name], form) if name in result else "–" for name, form in figures.items()]


def leak(result: dict[str, Any], attack: str) -> str:
    """The figure of an attack; where others have published a better one, that too."""
    value = result.get(name := f"{attack}_{ATTACKS[attack].figure}")
    published = CIPHERS[result["cipher"].partition("-")[0]].published
    unfit = name in result and (not applies(result, attack) or (value == 0 and attack in published))
    cell = NOT_ATTACKED if unfit else "–" if value is None else f"{value:.0f}"
    return f"{cell} (published: {published[attack][0]:.0f})" if attack in published else cell


def applies(result: dict[str, Any], attack: str) -> bool:
    """Whether an attack could be made on a cipher.

    The audit writes no figure where it could not. Before, it wrote 0 with no key and the ciphertext for images.
    """
    value = result.get(f"{attack}_{ATTACKS[attack].figure}")
    strength = result.get(f"{attack}_strength_percent")
    found_key = result.get(f"{attack}_key_recovered_percent") is not None
    found_images = result.get(f"{attack}_ssim") != result.get("ssim_of_ciphertext")
    return value is not None and bool(value > 0 or strength or found_key or found_images)


def ciphertext_leak_percent(result: dict[str, Any]) -> float | None:
    """How far the best of the attacks that need only ciphertext gets, 0 .. 100; None where none could be made."""
    attacks = [name for name, attack in ATTACKS.items() if attack.ciphertext_only and applies(result, name)]
    return max((result[f"{name}_strength_percent"] for name in attacks), default=None)


def plots(study: Study, size: str, results: Results) -> dict[str, tuple[str, bytes]]:
    """Up is more accurate, left leaks less; a cipher that nothing with ciphertext alone attacks is not shown."""
    leaks = [(best, each) for each in results.values() if (best := ciphertext_leak_percent(each)) is not None]
    figure = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    styles = {"adapted": ("o", "full"), "unadapted": ("o", "none"), "convmixer": ("^", "full")}
    for model, (marker, fill) in styles.items():
        shown = [(best, result) for best, result in leaks if f"{model}_accuracy_percent" in result]
        axes.plot(
            [best for best, _ in shown],
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
    for best, result in sorted(leaks, key=lambda each: -each[1]["unadapted_accuracy_percent"]):
        accuracy, column = result["unadapted_accuracy_percent"], round(best / 20)
        height = min(accuracy, taken.get(column, 200.0) - _LINE)
        taken[column] = height
        left = best > 35
        axes.annotate(
            result["cipher"],
            (best, accuracy),
            (best + (-5 if left else 3), height),
            fontsize=7,
            horizontalalignment="right" if left else "left",
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.5},
        )
