"""Scoring a fine-tuned model on encrypted test shards."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ppvit.core.progress import tqdm
from ppvit.core.provenance import Made, require_made_alike
from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.evaluation.scoring import BATCH, AnyScores, score, scores_for
from ppvit.models.features import head_and_features
from ppvit.tuners import load_finetuned
from ppvit.tuners.linear import Linear
from ppvit.tuners.made import made_models


def score_shards(encrypted: Path, adapted: Path, finetuned: Path, calibration_bins: int = 15) -> AnyScores:
    """Predictions on every encrypted test image, scored.

    Args:
        encrypted: folder of shards.
        adapted, finetuned: folders of the model.
        calibration_bins: see :func:`ppvit.evaluation.scoring.scores_for`.

    Raises:
        PpvitError: shards or models missing, damaged or not made for each other.
    """
    dataset = EncryptedImages(encrypted, "test")
    tuned, base = made_models(adapted, finetuned)
    require_made_alike(Made(dataset.folder, dataset.manifest, "encrypt"), tuned, base)
    model = load_finetuned(adapted, finetuned, dataset.num_classes)
    if tuned.record["method"] == Linear.name:  # the rest is as it was before training, and in the next run
        model, splits = head_and_features(model, {"test": dataset})
        dataset = splits["test"]
    order = [np.arange(start, min(start + BATCH, len(dataset))) for start in range(0, len(dataset), BATCH)]
    batches = tqdm(
        load_batches(dataset, order), total=len(order), desc="evaluate", unit="batch", disable=None, file=sys.stderr
    )
    return score(model, batches, scores_for(dataset.labelling, calibration_bins))
