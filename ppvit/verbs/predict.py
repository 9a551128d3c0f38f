"""Classifying an image with the fine-tuned model: the owner encrypts the query, the model sees ciphertext only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ppvit.ciphers.keyed import expected, load_cipher
from ppvit.config import Config
from ppvit.core.errors import PpvitError
from ppvit.core.provenance import Made, require_made_alike
from ppvit.data import images
from ppvit.data.plain import image_id
from ppvit.data.shards import read_manifest
from ppvit.models import model_input
from ppvit.places import Places
from ppvit.tuners import load_finetuned, read_finetuned_record


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
    record = read_finetuned_record(places.finetuned)
    require_made_alike(Made(places.finetuned, record, "finetune"), expected(config, cipher))
    classes = read_manifest(places.raw, "download", "dataset.json")["classes"]
    plain = np.stack([_read(path, config) for path in paths])
    encrypted = torch.from_numpy(cipher.encrypt(plain, image_id("query", 0) + np.arange(len(plain))))
    encrypted = encrypted.permute(0, 3, 1, 2) if encrypted.ndim == 4 else encrypted  # images, but not tokens
    model = load_finetuned(places.adapted, places.finetuned, record["num_classes"])
    with torch.inference_mode():
        probabilities = model(model_input(encrypted)).softmax(1)
    best = probabilities.topk(min(top, len(classes)), dim=1)
    return [
        [Prediction(classes[index], 100 * value) for value, index in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _read(path: Path, config: Config) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PpvitError(f"{path}: {error.strerror}; name an image file") from None
    plain = images.decode(data, str(path))
    return images.to_square(plain, config.dataset.image_size, config.encrypt.resize_filter, config.encrypt.crop)
