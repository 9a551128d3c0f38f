"""Figures of pre-training without labels: its features, and a linear head on them."""

from __future__ import annotations

from typing import Any

from measure import Run

OF_PRETRAINING = ("train_loss", "val_knn_accuracy_percent", "val_linear_accuracy_percent", "val_spread_percent")


def figures(run: Run) -> dict[str, Any]:
    run.encrypt()
    run.stage("adapt")
    start, found = run.places.adapted, {}
    if run.variant["method"] != "untrained":
        pretrained = run.stage("pretrain")
        start = run.places.pretrained
        found = {f"pretrain_{name}": pretrained[name] for name in OF_PRETRAINING}
        found["pretrain_cpu_seconds"] = round(pretrained["cpu_seconds"], 1)
    whole = run.changed("encrypt.views=1")  # the head trains on pictures as they are tested, not on parts of them
    shards = run.places.results.parent / "whole"
    run.stage("encrypt", whole, encrypted=shards)
    run.stage("finetune", whole, adapted=start, encrypted=shards)
    tested = run.stage("evaluate", whole, adapted=start, encrypted=shards)
    return {"images": tested["images"], "accuracy_percent": tested["accuracy_percent"], **found}
