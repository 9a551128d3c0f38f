"""Measure the fine-tuned model on encrypted test shards; no key is needed."""

from __future__ import annotations

import sys
from typing import Any

from ppvit.config import Config
from ppvit.core.files import atomic_output
from ppvit.core.provenance import one_model
from ppvit.core.results import Stopwatch, write_result
from ppvit.core.sharing import is_main
from ppvit.evaluation.shards import score_shards
from ppvit.places import Places


def run(config: Config, places: Places) -> None:
    """Write the figures, and tables for plots.

    Args:
        config: ``evaluate`` is used.
        places: ``encrypted``, ``adapted`` and ``finetuned`` are read; ``plots`` (``confusion.csv``,
            ``class_accuracy.csv``, ``calibration.csv``, and multi-label ``labels.csv``; classes are numbers, their
            names stay with the owner) and the result are written.

    Raises:
        PpvitError: shards or models missing, damaged or not made for each other.
    """
    watch = Stopwatch()
    with one_model(places.adapted, places.finetuned) as identity:
        scores = score_shards(places.encrypted, places.adapted, places.finetuned, config.evaluate.calibration_bins)
    if not is_main():
        return
    values = {**scores.summary(), **identity}
    print(measured(values))
    for remark in scores.remarks():
        print(f"warning: {remark}", file=sys.stderr)
    with atomic_output(places.plots, known_by="calibration.csv") as folder:
        scores.write_plots(folder)
    write_result(places.result("evaluate"), values, watch)


def measured(values: dict[str, Any]) -> str:
    """The figures that most ask for, in a line: AUROC and accuracy, as MedMNIST has them, and how sure they are.

    Args:
        values: of the result.
    """
    told = []
    if "auroc" in values:
        low, high = values["auroc_low"], values["auroc_high"]
        told.append(f"AUROC {values['auroc']:.4f} (95 % interval {low:.4f} to {high:.4f})")
    accuracy = f"accuracy {values['accuracy_percent']:.2f} %"
    if "accuracy_low_percent" in values:
        low, high = values["accuracy_low_percent"], values["accuracy_high_percent"]
        accuracy += f" ({low:.2f} to {high:.2f} %)"
    return f"{values['images']:,} test images: {', '.join([*told, accuracy])}"
