"""Measure the fine-tuned model on encrypted test shards; no key is needed."""

from __future__ import annotations

import sys

import numpy as np
from tqdm import tqdm

from ppvit.config import Config
from ppvit.core.files import atomic_output
from ppvit.core.provenance import Made, require_made_alike
from ppvit.core.results import Stopwatch, write_result
from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.evaluation.scores import BATCH, Scores, score, write_plots
from ppvit.models import read_record
from ppvit.places import Places
from ppvit.tuners import finetuned_id, load_finetuned, read_finetuned_record

HEADLINE = ("accuracy_percent", "cross_entropy", "calibration_error_percent")


def run(config: Config, places: Places) -> None:
    """Write the figures, and tables for plots.

    Args:
        config: ``evaluate`` is used.
        places: ``encrypted``, ``adapted`` and ``finetuned`` are read; ``plots`` (``confusion.csv``,
            ``class_accuracy.csv`` and ``calibration.csv``; classes are numbers, their names stay with the owner) and
            the result are written.

    Raises:
        PpvitError: shards or models missing, damaged or not made for each other.
    """
    watch = Stopwatch()
    dataset = EncryptedImages(places.encrypted, "test")
    require_made_alike(
        Made(dataset.folder, dataset.manifest, "encrypt"),
        Made(places.adapted, read_record(places.adapted, "adapt"), "adapt"),
        Made(places.finetuned, read_finetuned_record(places.finetuned), "finetune"),
    )
    model = load_finetuned(places.adapted, places.finetuned, dataset.num_classes)
    order = [np.arange(start, min(start + BATCH, len(dataset))) for start in range(0, len(dataset), BATCH)]
    batches = tqdm(
        load_batches(dataset, order), total=len(order), desc="evaluate", unit="batch", disable=None, file=sys.stderr
    )
    scores = score(model, batches, Scores(dataset.num_classes, config.evaluate.calibration_bins))
    with atomic_output(places.plots, directory=True) as folder:
        write_plots(folder, scores)
    values = {**scores.summary(), "finetuned_id": finetuned_id(places.finetuned)}
    write_result(places.result("evaluate"), values, watch, HEADLINE)
