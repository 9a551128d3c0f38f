"""Scoring a fine-tuned model on encrypted test shards."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from ppvit.core.progress import tqdm
from ppvit.core.provenance import Made, require_made_alike
from ppvit.core.sharing import by_all
from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.evaluation.scoring import BATCH, AnyScores, answers, scores_for
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

    Processes that share the work (:mod:`ppvit.core.sharing`) all get the scores of all images.

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

    def answered(own: Iterable[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        return answers(model, load_batches(dataset, list(own)))

    scores = scores_for(dataset.labelling, calibration_bins)
    # batch by batch in their order, so that figures are those of one process to the last bit
    shared = by_all(order, answered)
    for logits, labels in tqdm(shared, total=len(order), desc="evaluate", unit="batch", disable=None, file=sys.stderr):
        scores.add(logits, labels)
    return scores
