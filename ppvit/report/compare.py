"""Three ways to train beside each other: perceptual encryption, homomorphic encryption, none."""

from __future__ import annotations

from typing import Any

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
