"""Figures of robust fine-tuning: accuracy on clean images and under attack, and what training cost."""

from __future__ import annotations

import csv
from typing import Any

from measure import Run

OF_TRAINING = ("trainable_parameters", "train_loss", "val_robust_accuracy_percent")
LEFT_OUT = (
    "wall_seconds",
    "peak_memory_bytes",
    "finetuned_id",
    "adapted_id",
    "result_sha256",
    "cpu_seconds",
)  # of the attack


def figures(run: Run) -> dict[str, Any]:
    done = {stage: run.stage(stage) for stage in ("encrypt", "adapt", "finetune", "robustness")}
    trained = done["finetune"]
    with open(run.places.curves / "curve.csv", encoding="utf-8") as file:
        curve = {row["epsilon"]: float(row["accuracy_percent"]) for row in csv.DictReader(file)}
    return {
        "train_images": run.images("train"),
        "train_cpu_seconds": round(trained["cpu_seconds"], 1),
        **{name: trained[name] for name in OF_TRAINING if name in trained},
        **{name: value for name, value in done["robustness"].items() if name not in LEFT_OUT},
        "curve": curve,
    }
