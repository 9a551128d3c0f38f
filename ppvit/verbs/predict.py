"""Classify images with the fine-tuned model, as its owner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.provenance import Made
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
        config: ``dataset.image_size``, ``cipher`` and ``encrypt`` are used, as when the shards were made.
        places: ``raw`` (for the class names), ``adapted`` and ``finetuned`` are read.
        paths: image files.
        top: how many classes.

    Raises:
        PpvitError: an image is missing or cannot be decoded; no key; a model of another key.
    """
    cipher = load_cipher(config)
    classes = read_dataset(places.raw)[0]["classes"]
    resizing = {"resize_filter": config.encrypt.resize_filter, "crop": config.encrypt.crop}
    plain = read_images(paths, config.dataset.image_size, **resizing)
    asked = Made(f"{places.raw}, by params.yaml,", {**resizing, "num_classes": len(classes)})
    best = probabilities(plain, cipher, places.adapted, places.finetuned, asked).topk(min(top, len(classes)), dim=1)
    return [
        [Prediction(classes[index], 100 * value) for value, index in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
