"""Figures of this study: what training measures on validation images. Nothing is evaluated."""

from __future__ import annotations

from typing import Any

from measure import Run, by_epoch


def figures(run: Run) -> dict[str, Any]:
    run.encrypt()
    run.stage("adapt")
    trained = run.stage("finetune")
    names = ("train_loss", "val_accuracy_percent")
    figures = {name: trained[name] for name in (*names, "images_per_second", "cpu_seconds")}
    return figures | {f"{name}_by_epoch": by_epoch(run, name) for name in names}
