"""Three ways to train beside each other, and every cipher: table and plot from the results of `studies/ciphers`."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import matplotlib.figure

from ppvit.audit import ATTACKS
from ppvit.ciphers import CIPHERS

NOT_ATTACKED = "not attacked"
_LINE = 1.3  # percentage points of accuracy that a line of names takes in the plot

WAYS = ("way", "accuracy", "training", "to the trainer", "what the trainer learns")


def three_ways(values: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of ``WAYS``: perceptual encryption, a head under homomorphic encryption, no encryption; one data set.

    Args:
        values: result files by stage: ``adapt``, ``finetune``, ``evaluate``, ``verify``, ``audit``; ``he`` may miss.
    """
    finetune, verify = values["finetune"], values["verify"]
    training = f"{finetune['trainable_parameters']:,} parameters, {finetune['epochs']} epochs"
    adapted = "exact adaptation, " if values["adapt"]["adapted"] else ""
    rows: list[tuple[str, ...]] = [
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


def cipher_table(results: list[dict[str, Any]]) -> str:
    """One row a cipher, one column an attack, as a Markdown table."""
    header = cipher_header()
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *map(cipher_row, results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cipher_header() -> list[str]:
    """The columns of :func:`cipher_row`."""
    costs = ["cipher", "unadapted", "adapted", "ConvMixer", "parameters", "images/s", "bytes/image"]
    return [*costs, *(attack.column for attack in ATTACKS.values())]


def cipher_row(result: dict[str, Any]) -> list[str]:
    """Accuracies, costs, and the figure of every attack.

    An attack that cannot be made on the cipher is no attack that found nothing, so its cell is not 0. Where others have
    published a better figure, the cell has it too.

    Args:
        result: of one variant of a cipher; ``cipher`` is its name, which starts with that of the cipher and a hyphen.
    """

    def text(name: str, form: str, missing: str = "–") -> str:
        value = result.get(name)
        return missing if value is None else format(value, form)

    parameters = "adapted_parameters" if "adapted_parameters" in result else "unadapted_parameters"
    row = [
        result["cipher"],
        text("unadapted_accuracy_percent", ".1f"),
        text("adapted_accuracy_percent", ".1f"),
        text("convmixer_accuracy_percent", ".1f"),
        text(parameters, ",d"),
        text("encrypted_images_per_second", ",d"),
        text("bytes_per_image", ",d"),
    ]
    published = CIPHERS[result["cipher"].partition("-")[0]].published
    for name, attack in ATTACKS.items():
        cell = text(f"{name}_{attack.figure}", ".0f", NOT_ATTACKED)
        row.append(f"{cell} (published: {published[name][0]:.0f})" if name in published else cell)
    return row


def ciphertext_leak_percent(result: dict[str, Any]) -> float | None:
    """How far the best of the attacks that need only ciphertext gets, 0 .. 100; None where none could be made."""
    names = [name for name, attack in ATTACKS.items() if attack.ciphertext_only]
    found = [result.get(f"{name}_strength_percent") for name in names]
    return max((strength for strength in found if strength is not None), default=None)


def accuracy_against_leak(results: list[dict[str, Any]]) -> bytes:
    """A scatter plot as SVG, the same bytes for the same results: up is more accurate, left leaks less.

    Ciphers on which no attack from ciphertext alone could be made are left out: nobody knows where they belong.
    """
    points = [(leak, each) for each in results if (leak := ciphertext_leak_percent(each)) is not None]
    figure = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    styles = (("adapted", "o", "full"), ("unadapted", "o", "none"), ("convmixer", "^", "full"))
    for model, marker, fill in styles:
        name = f"{model}_accuracy_percent"
        axes.plot(
            [leak for leak, result in points if name in result],
            [result[name] for _, result in points if name in result],
            marker,
            fillstyle=fill,
            linestyle="",
            label={"convmixer": "ConvMixer, learned matrix"}.get(model, f"ViT, {model}"),
        )
    _name_points(axes, points)
    axes.set(xlabel="leak to the best ciphertext-only attack, percent", ylabel="accuracy, percent")
    axes.set(title="Accuracy against leak; weights and known pairs leak more, see the table")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ppvit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _name_points(axes: Any, points: list[tuple[float, dict[str, Any]]]) -> None:
    """Write the names beside the unadapted points, which every cipher has; near each other one below the other."""
    taken: dict[int, float] = {}
    for leak, result in sorted(points, key=lambda point: -float(point[1]["unadapted_accuracy_percent"])):
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
