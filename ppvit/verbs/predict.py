"""Classify images with the fine-tuned model, as its owner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.provenance import Made
from ppvit.data.plain import prepared
from ppvit.data.sealed import read_dataset
from ppvit.evaluation.prediction import probabilities, read_images
from ppvit.places import Places


@dataclass(frozen=True)
class Prediction:
    """A class and its probability in percent."""

    name: str
    percent: float


def run(config: Config, places: Places, paths: list[Path], top: int = 3) -> list[list[Prediction]]:
    """The most probable classes of every image.

    Args:
        config: ``dataset.image_size`` and ``frames``, ``cipher``, ``encrypt`` are used, as when the shards were made.
        places: ``raw`` (for the class names and the range of grey values), ``adapted`` and ``finetuned`` are read.
        paths: image files.
        top: how many classes.

    Raises:
        PpvitError: an image is missing or cannot be decoded; no key; a model of another key.
    """
    cipher = load_cipher(config)
    dataset, _ = read_dataset(places.raw)
    classes, preparing = dataset["classes"], prepared(config.encrypt, dataset)
    plain = read_images(paths, config.dataset.image_size, **preparing, frames=config.dataset.frames)
    asked = Made(f"{places.raw}, by params.yaml,", {**preparing, "num_classes": len(classes)})
    best = probabilities(plain, cipher, places.adapted, places.finetuned, asked).topk(min(top, len(classes)), dim=1)
    return [
        [Prediction(classes[index], 100 * value) for value, index in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
