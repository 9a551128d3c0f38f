"""Three ways to train beside each other: perceptual encryption, homomorphic encryption, none."""

from __future__ import annotations

from typing import Any

from ppvit.core.measures import Headline


def three_ways(values: dict[str, dict[str, Any]], headline: Headline) -> list[tuple[str, ...]]:
    """Rows of a table: perceptual encryption, a head under homomorphic encryption, no encryption; one data set.

    Args:
        values: result files by stage: ``adapt``, ``finetune``, ``evaluate``, ``verify``, ``audit``; ``he`` may miss.
        headline: of these results.

    Returns:
        The first row names the columns.
    """
    finetune, verify = values["finetune"], values["verify"]
    training = f"{finetune['trainable_parameters']:,} parameters, {finetune['epochs']} epochs"
    adapted = "exact adaptation, " if values["adapt"]["adapted"] else ""
    rows: list[tuple[str, ...]] = [
        ("way", headline.words, "training", "to the trainer", "what the trainer learns"),
        (
            f"perceptual encryption, {adapted}{finetune['method']}",
            headline.text(values["evaluate"][headline.name]),
            training,
            "encrypted images, model, labels",
            values["audit"]["verdict"],
        ),
    ]
    if he := values.get("he"):
        rows.append(
            (
                f"homomorphic encryption, linear head on {he['train_images']} images, {he['iterations']} iterations",
                headline.text(he[headline.name]),
                f"{he['iterations']} iterations, {he['key_switches']:,} key switches",
                "ciphertexts of features and labels, evaluation keys",
                "numbers of images, features, classes and iterations",
            )
        )
    if plain := headline.of(verify, "plain_"):  # exact adaptation trains as on plain images, so this is that accuracy
        row = (f"none, {finetune['method']}", plain, training)
        rows.append((*row, "images, model, labels", "everything"))
    if he := values.get("he"):
        accuracy = str(headline.of(he, "logistic_regression_"))
        row = ("none, logistic regression on the features of the homomorphic head", accuracy, "until it converges")
        rows.append((*row, "features, labels", "everything"))
    return rows
