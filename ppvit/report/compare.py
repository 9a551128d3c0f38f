"""Three ways to train beside each other, and every cipher: table and plot from the results of `studies/ciphers`."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import matplotlib.figure

# what needs nothing but ciphertext, and so threatens whoever merely stores or sends it
CIPHERTEXT_ONLY = ("pooled", "jigsaw", "feature_reconstruction", "min_difference", "inverse_network")
_LEAKS = {
    "weights": "weights",
    "known_plaintext": "known",
    "chosen_plaintext": "chosen",
    "pooled": "pooled",
    "jigsaw": "jigsaw",
    "feature_reconstruction": "feature",
    "min_difference": "min diff",
    "inverse_network": "inverse",
}
_LINE = 1.3  # percentage points of accuracy that a line of names takes in the plot
HEADER = ["cipher", "unadapted", "adapted", "ConvMixer", "parameters", "images/s", "bytes/image", *_LEAKS.values()]
HEADER += ["match", "key bits"]


WAYS = ("way", "accuracy", "training", "to the trainer", "what the trainer learns")


def three_ways(values: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of ``WAYS``: perceptual encryption, a head under homomorphic encryption, no encryption; one data set.

    Args:
        values: result files by stage: ``adapt``, ``finetune``, ``evaluate``, ``verify``, ``audit``; ``he`` may miss.
    """
    finetune, verify = values["finetune"], values["verify"]
    training = f"{finetune['trainable_parameters']:,} parameters, {finetune['epochs']} epochs"
    adapted = "exact adaptation, " if values["adapt"]["adapted"] else ""
    rows = [
        (
            f"perceptual encryption, {adapted}{finetune['method']}",
            f"{values['evaluate']['accuracy_percent']:.2f} %",
            training,
            "encrypted images, model, labels",
            values["audit"]["verdict"],
        )
    ]
    if he := values.get("he"):
        rows.append(
            (
                f"homomorphic encryption, linear head on {he['train_images']} images, {he['iterations']} iterations",
                f"{he['accuracy_percent']:.2f} %",
                f"{he['iterations']} iterations, {he['key_switches']:,} key switches",
                "ciphertexts of features and labels, evaluation keys",
                "numbers of images, features, classes and iterations",
            )
        )
    if "plain_accuracy_percent" in verify:  # exact adaptation trains as on plain images, so this is that accuracy
        row = (f"none, {finetune['method']}", f"{verify['plain_accuracy_percent']:.2f} %", training)
        rows.append((*row, "images, model, labels", "everything"))
    if he := values.get("he"):
        accuracy = f"{he['logistic_regression_accuracy_percent']:.2f} %"
        row = ("none, logistic regression on the features of the homomorphic head", accuracy, "until it converges")
        rows.append((*row, "features, labels", "everything"))
    return rows


def cipher_rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row a cipher, as texts in the order of ``HEADER``."""
    return [_row(result) for result in results]


def _row(result: dict[str, Any]) -> list[str]:
    def text(name: str, form: str) -> str:
        value = result.get(name)
        return "–" if value is None else format(value, form)

    parameters = "adapted_parameters" if "adapted_parameters" in result else "unadapted_parameters"
    return [
        result["cipher"],
        text("unadapted_accuracy_percent", ".1f"),
        text("adapted_accuracy_percent", ".1f"),
        text("convmixer_accuracy_percent", ".1f"),
        text(parameters, ",d"),
        text("encrypted_images_per_second", ",d"),
        text("bytes_per_image", ",d"),
        *(text(f"{attack}_strength_percent", ".0f") for attack in _LEAKS),
        text("matching_top1_percent", ".0f"),
        text("brute_force_key_bits", ".0f"),
    ]


def cipher_table(results: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [HEADER, ["---"] + ["---:"] * (len(HEADER) - 1), *cipher_rows(results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ciphertext_leak_percent(result: dict[str, Any]) -> float:
    """How far the best of the attacks that need only ciphertext gets, 0 .. 100."""
    return max(result.get(f"{attack}_strength_percent") or 0.0 for attack in CIPHERTEXT_ONLY)


def accuracy_against_leak(results: list[dict[str, Any]]) -> bytes:
    """A scatter plot as SVG, the same bytes for the same results: up is more accurate, left leaks less."""
    figure = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    styles = (("adapted", "o", "full"), ("unadapted", "o", "none"), ("convmixer", "^", "full"))
    for model, marker, fill in styles:
        shown = [result for result in results if f"{model}_accuracy_percent" in result]
        axes.plot(
            [ciphertext_leak_percent(result) for result in shown],
            [result[f"{model}_accuracy_percent"] for result in shown],
            marker,
            fillstyle=fill,
            linestyle="",
            label={"convmixer": "ConvMixer, learned matrix"}.get(model, f"ViT, {model}"),
        )
    _name_points(axes, results)
    axes.set(xlabel="leak to the best ciphertext-only attack, percent", ylabel="accuracy, percent")
    axes.set(title="Accuracy against leak; weights and known pairs leak more, see the table")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ppvit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _name_points(axes: Any, results: list[dict[str, Any]]) -> None:
    """Write the names beside the unadapted points, which every cipher has; near each other one below the other."""
    taken: dict[int, float] = {}
    places = [(ciphertext_leak_percent(result), result["unadapted_accuracy_percent"], result) for result in results]
    for leak, accuracy, result in sorted(places, key=lambda place: -place[1]):
        column = round(leak / 20)
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
