"""Classify images with the fine-tuned model, as its owner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.errors import UsageError
from ppvit.core.provenance import Made
from ppvit.data.labels import LabelSets
from ppvit.data.plain import prepared
from ppvit.data.sealed import read_dataset
from ppvit.evaluation.prediction import probabilities, read_images
from ppvit.models.tasks import THRESHOLD
from ppvit.places import Places

TOP = 3  # classes told of an image of which one is true


@dataclass(frozen=True)
class Prediction:
    """A class and its probability in percent."""

    name: str
    percent: float


def run(
    config: Config, places: Places, paths: list[Path], top: int | None = None, threshold: float | None = None
) -> list[list[Prediction]]:
    """The most probable classes of every image; where images carry several labels, those above a threshold.

    Args:
        config: ``dataset.image_size`` and ``frames``, ``cipher``, ``encrypt`` are used, as when the shards were made.
        places: ``raw`` (for the class names and the range of deep values), ``adapted`` and ``finetuned`` are read.
        paths: image files.
        top: how many, at most; by default 3, and of several labels all.
        threshold: probability above which one of several labels is told; by default one half.

    Raises:
        UsageError: a threshold where every image is of one class.
        PpvitError: an image is missing or cannot be decoded; no key; a model of another key.
    """
    cipher = load_cipher(config)
    dataset, _ = read_dataset(places.raw)
    classes, task, preparing = dataset["classes"], dataset["task"], prepared(config.encrypt, dataset)
    several = task == LabelSets.task
    if threshold is not None and not several:
        raise UsageError("--threshold is for data sets whose images carry several labels; leave it out")
    count = min(top or (len(classes) if several else TOP), len(classes))
    least = (THRESHOLD if threshold is None else threshold) if several else -1.0
    plain = read_images(paths, config.dataset.image_size, **preparing, frames=config.dataset.frames)
    asked = Made(f"{places.raw}, by params.yaml,", {**preparing, "num_classes": len(classes), "task": task})
    best = probabilities(plain, cipher, places.adapted, places.finetuned, asked).topk(count, dim=1)
    return [
        [Prediction(classes[index], 100 * value) for value, index in zip(values, indices, strict=True) if value > least]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
