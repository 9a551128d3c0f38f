"""The table of this study: what features are worth, by how many views the owner draws."""

from __future__ import annotations

from collections.abc import Iterator

from study import Study
from table import Results, markdown

from ppvit.core.measures import wilson_percent

NOTE = """Accuracies in percent. Test: a linear head on frozen features, {images} test images, Wilson's 95 % interval in
brackets. k-NN, linear and spread (100: no direction preferred, 0: collapsed): on validation images, after the last
epoch. CPU time: of pre-training, one thread."""


def sections(study: Study, size: str, results: Results) -> Iterator[str]:
    rows = [["images", "method", "views", "seed", "test", "k-NN", "linear", "spread", "loss", "CPU time, s"]]
    for variant, result in results.items():
        hits, images = round(result["accuracy_percent"] * result["images"] / 100), result["images"]
        low, high = wilson_percent(hits, images)
        measured = [
            result.get(f"pretrain_val_{name}_percent") for name in ("knn_accuracy", "linear_accuracy", "spread")
        ]
        texts = ["–" if value is None else f"{value:.1f}" for value in measured]
        passing = [result.get("pretrain_train_loss"), result.get("pretrain_cpu_seconds")]
        texts += ["–" if value is None else f"{value:.4g}" for value in passing]
        axes = [str(variant[axis]) for axis in ("images", "method", "views", "seed")]
        rows.append([*axes, f"{result['accuracy_percent']:.1f} ({low:.1f} to {high:.1f})", *texts])
    yield NOTE.format(images=next(iter(results.values()))["images"])
    yield markdown(rows, text_columns=4)
