"""Classifying plain images: the owner encrypts them, the model sees ciphertext only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppvit.ciphers import Cipher
from ppvit.core.errors import PpvitError
from ppvit.core.provenance import Made, require_made_alike
from ppvit.core.reading import read_bounded
from ppvit.data import decoding, images
from ppvit.data.decoded import is_narrow
from ppvit.data.plain import image_id
from ppvit.data.tar_index import IMAGE_BYTES
from ppvit.datasets.source import warn
from ppvit.models import model_input
from ppvit.models.tasks import task_of
from ppvit.tuners import load_finetuned
from ppvit.tuners.made import made_models


def probabilities(
    plain: np.ndarray, cipher: Cipher, adapted: Path, finetuned: Path, asked: Made | None = None
) -> Tensor:
    """Probability of every class, float32, (n, C); each image's add up to 1, or multi-label, each is its own.

    Args:
        plain: uint8, (n, H, W, 3), of the cipher's size.
        cipher: with the key under which the model was trained.
        adapted, finetuned: folders of the model.
        asked: what the model must have been made with beside the cipher: how the images were prepared, and
            ``num_classes``.

    Raises:
        PpvitError: a model of another key, cipher or size, or a damaged one.
    """
    tuned, base = made_models(adapted, finetuned)
    asked = asked or Made("the images to predict", {})
    require_made_alike(tuned, base, Made(asked.what, {**cipher.record, **asked.record}))
    encrypted = torch.from_numpy(cipher.encrypt(plain, image_id("query", 0) + np.arange(len(plain))))
    encrypted = encrypted.permute(0, 3, 1, 2) if encrypted.ndim == 4 else encrypted  # images, but not tokens
    model = load_finetuned(adapted, finetuned, tuned.record["num_classes"])
    with torch.inference_mode():
        logits: Tensor = model(model_input(encrypted))
    return task_of(tuned.record["task"]).probabilities(logits)


def read_images(
    paths: list[Path],
    size: int,
    resize_filter: str = "bicubic",
    crop: str = "center",
    value_range: Sequence[float] | None = None,
    frames: str = "error",
) -> np.ndarray:
    """Image files at the model's size, uint8, (n, size, size, 3).

    Args:
        paths: files of any kind in :data:`ppvit.data.decoding.IMAGE_EXTENSIONS`.
        size, resize_filter, crop: see :func:`ppvit.data.images.to_square`.
        value_range, frames: see :func:`ppvit.data.decoding.decode`.

    Raises:
        PpvitError: a file is missing, no regular one, too large or no image.
    """
    plain = []
    for path in paths:
        try:
            data = read_bounded(path, IMAGE_BYTES)
        except OSError as error:
            raise PpvitError(f"{path}: {error.strerror}; name an image file") from None
        found = decoding.decoded(data, str(path), frames)
        if found.extremes and value_range and is_narrow(found.extremes, value_range):
            warn(
                f"{path}: its values, {found.extremes[0]:g} .. {found.extremes[1]:g}, use less than a sixteenth of the "
                f"data set's range, {value_range[0]:g} .. {value_range[1]:g}; check that both are on one scale"
            )
        plain.append(images.to_square(decoding.brought(found, str(path), value_range), size, resize_filter, crop))
    return np.stack(plain)
