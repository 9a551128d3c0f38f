"""Measure the fine-tuned model on encrypted test shards; no key is needed."""

from __future__ import annotations

import sys

from ppvit.config import Config
from ppvit.core.files import atomic_output
from ppvit.core.provenance import one_model
from ppvit.core.results import Stopwatch, write_result
from ppvit.core.sharing import is_main
from ppvit.evaluation.shards import score_shards
from ppvit.places import Places

HEADLINE = ("accuracy_percent", "balanced_accuracy_percent", "auroc", "cross_entropy", "calibration_error_percent")


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
    for remark in scores.remarks():
        print(f"warning: {remark}", file=sys.stderr)
    with atomic_output(places.plots, known_by="calibration.csv") as folder:
        scores.write_plots(folder)
    write_result(places.result("evaluate"), values, watch, HEADLINE)
