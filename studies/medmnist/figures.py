"""Figures of this study: AUC and ACC of MedMNIST's evaluator, with their intervals."""

from __future__ import annotations

from typing import Any

from measure import Run

TESTED = (
    "auroc",
    "auroc_low",
    "auroc_high",
    "accuracy_percent",
    "accuracy_low_percent",
    "accuracy_high_percent",
    "balanced_accuracy_percent",
)
TRAINED = ("selected_epoch", "val_auroc", "train_loss", "trainable_parameters", "cpu_seconds")


def figures(run: Run) -> dict[str, Any]:
    run.encrypt()
    run.stage("adapt")
    trained, tested = run.stage("finetune"), run.stage("evaluate")
    return {name: tested[name] for name in TESTED} | {name: trained[name] for name in TRAINED}
