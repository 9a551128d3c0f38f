"""What the owner checks when the model comes back: honest reference points with the key in hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvit import keys
from ppvit.ciphers import Cipher
from ppvit.config import Config
from ppvit.embedding import decrypt_embedding, read_embedding, write_embedding
from ppvit.encrypt import BATCH, PlainImages
from ppvit.errors import PpvitError
from ppvit.evaluate import Scores, score
from ppvit.owner import load_cipher, public_record
from ppvit.results import Stopwatch, write_result
from ppvit.stems import patch_projection
from ppvit.tuners import finetuned_id, load_finetuned, read_finetuned_record


def run(config: Config, raw: Path, adapted: Path, finetuned: Path, result: Path) -> None:
    """Measure the fine-tuned model on test images that are encrypted here and now.

    ``accuracy_percent``: under the owner's key, which must equal what the trainer reports;
    ``plain_accuracy_percent``: on plain images, with the adaptation undone;
    ``wrong_key_accuracy_percent``: under other keys (mean of ``verify.wrong_keys``), about chance when the key matters.

    Args:
        config: checked parameters.
        raw: folder that `download` wrote.
        adapted, finetuned: folders that the earlier stages wrote.
        result: JSON of the figures.

    Raises:
        PpvitError: the model was not made for this key, cipher or image size; no key.
    """
    watch = Stopwatch()
    cipher = load_cipher(config)
    record = read_finetuned_record(finetuned)
    require_own(record, config, cipher, finetuned)
    plain = PlainImages(raw, "test", config.dataset, config.encrypt)
    model = load_finetuned(adapted, finetuned, record["num_classes"])

    def accuracy(network: nn.Module, used: Cipher | None) -> float:
        scores = Scores(record["num_classes"], config.evaluate.calibration_bins)
        return score(network, batches(plain, used), scores).accuracy_percent()

    values = {"accuracy_percent": accuracy(model, cipher)}
    if cipher.keyed:
        others = [load_cipher(config, wrong_key(number)) for number in range(config.verify.wrong_keys)]
        values["wrong_key_accuracy_percent"] = float(np.mean([accuracy(model, other) for other in others]))
    values["chance_percent"] = 100.0 * np.bincount(plain.labels).max() / len(plain)
    if not cipher.keyed or (cipher.affine_map() is not None and patch_projection(model) is not None):
        undo_adaptation(model, cipher)
        values["plain_accuracy_percent"] = accuracy(model, None)
    values["images"] = len(plain)
    values["finetuned_id"] = finetuned_id(finetuned)
    write_result(result, values, watch)


def wrong_key(number: int) -> keys.Key:
    """A fixed key that is nobody's, so that reruns give the same figures."""
    return keys.Key(bytes([number % 256]) * keys.SECRET_BYTES)


def undo_adaptation(model: nn.Module, cipher: Cipher) -> None:
    """Turn a model for ciphertext into one for plain images, in place: it then takes plain ones."""
    model.cpu()
    if not cipher.keyed:
        return
    write_embedding(model, decrypt_embedding(read_embedding(model), cipher.affine_map()))


def batches(plain: PlainImages, cipher: Cipher | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (n, 3, H, W), encrypted where a cipher is given (or its tokens), and labels, int64 (n,)."""
    for start in range(0, len(plain), BATCH):
        stop = min(start + BATCH, len(plain))
        images = plain.read(start, stop)
        if cipher is not None:
            images = cipher.encrypt(images, plain.ids(start, stop))
        encrypted = torch.from_numpy(images)
        encrypted = encrypted.permute(0, 3, 1, 2) if encrypted.ndim == 4 else encrypted
        yield encrypted, torch.from_numpy(plain.labels[start:stop])


def require_own(record: dict[str, Any], config: Config, cipher: Cipher, finetuned: Path) -> None:
    """Refuse a model that was made for another key, cipher or image size than ``params.yaml`` says."""
    expected = public_record(config, cipher)
    for name in ("key_id", "cipher", "image_size"):
        if record[name] != expected[name]:
            raise PpvitError(
                f"{finetuned} was trained with {name} {record[name]}, params.yaml says {expected[name]}; "
                "set it back or run dvc repro finetune"
            )
