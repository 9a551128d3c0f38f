"""Collecting what the attacker holds from the pipeline's files, and the truth that only scores what is found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppvit import images
from ppvit.adapt import fold_normalization, read_embedding
from ppvit.audit.view import KeySpace, View
from ppvit.ciphers import AffineMap
from ppvit.config import Config
from ppvit.encrypt import PlainImages
from ppvit.errors import PpvitError, UsageError
from ppvit.models import load_backbone, load_model, read_record
from ppvit.owner import load_cipher, public_record
from ppvit.shards import SPLITS, ShardReader, read_manifest
from ppvit.tuners import load_finetuned, read_finetuned_record

_PARAMETERS = {"cipher": "cipher", "key_id": "cipher.key_id", "image_size": "dataset.image_size", "model": "model.name"}


@dataclass(frozen=True)
class Truth:
    """What the attacker does not hold.

    Attributes:
        plain: the images under attack, uint8, (n, H, W, 3).
        key: the cipher's affine map.
    """

    plain: np.ndarray
    key: AffineMap


def gather(
    config: Config, raw: Path, encrypted: Path, embedded: Path, adapted: Path, finetuned: Path
) -> tuple[View, Truth]:
    """Read the attacker's view: shards, both models, the public checkpoint, and the pairs that are given away.

    Args: as of :func:`ppvit.audit.run`.

    Raises:
        UsageError: the splits hold fewer images than ``audit.known_pairs`` or ``audit.images`` ask for.
        PpvitError: shards or model were made with another key, cipher or size than the parameters say, or are missing.
    """
    cipher = load_cipher(config)
    space = KeySpace.of(cipher)
    manifest = read_manifest(encrypted)
    expected = public_record(config, cipher)
    _check_made_with(encrypted, manifest, expected, "encrypt")
    # compared with another checkpoint than its own, a model would seem to hold no key
    _check_made_with(adapted, read_record(adapted, "adapt"), {**expected, "model": config.model.name}, "adapt")
    _check_made_with(finetuned, read_finetuned_record(finetuned), expected, "finetune")
    _check_enough(config, manifest["counts"])
    plain = {split: PlainImages(raw, split, config.dataset, config.encrypt) for split in SPLITS}
    for split in SPLITS:
        if len(plain[split]) != manifest["counts"][split]:
            raise PpvitError(
                f"{encrypted} holds {manifest['counts'][split]} {split} images and {raw} gives {len(plain[split])}; "
                "encrypt again: dvc repro encrypt"
            )
    # the first k of one order, so that more pairs always include the fewer
    chosen = {"train": max(config.audit.known_pairs), "test": config.audit.images}
    shown = {split: _choose(len(plain[split]), count, config.audit.seed) for split, count in chosen.items()}
    ciphertext = {split: _read_encrypted(encrypted, split, manifest, shown[split]) for split in SPLITS}
    plaintext = {split: np.concatenate([plain[split].read(i, i + 1) for i in shown[split]]) for split in SPLITS}

    backbone = load_backbone(config.model.name, Path(config.model.checkpoint), config.dataset.image_size, embedded)
    view = View(
        space=space,
        block_size=cipher.block_size,
        encrypted=ciphertext["test"],
        known_plain=plaintext["train"],
        known_encrypted=ciphertext["train"],
        known_pairs=tuple(sorted(set(config.audit.known_pairs))),
        public=fold_normalization(read_embedding(backbone.model), backbone.mean, backbone.std),
        adapted=read_embedding(load_model(adapted, "adapt")),
        finetuned=read_embedding(load_finetuned(adapted, finetuned, manifest["num_classes"])),
        seed=config.audit.seed,
    )
    return view, Truth(plaintext["test"], cipher.affine_map())


def _check_made_with(folder: Path, record: dict[str, Any], expected: dict[str, Any], made_by: str) -> None:
    for name, parameter in _PARAMETERS.items():
        if name in expected and record.get(name) != expected[name]:
            raise PpvitError(
                f"{folder} was made with {parameter} {record.get(name)} and params.yaml says {expected[name]}; "
                f"make it again: dvc repro {made_by}"
            )


def _check_enough(config: Config, counts: dict[str, int]) -> None:
    largest = max(config.audit.known_pairs)
    if largest > counts["train"]:
        raise UsageError(
            f"audit.known_pairs asks for {largest} known images and there are {counts['train']} training images; "
            "name smaller numbers"
        )
    if config.audit.images > counts["test"]:
        raise UsageError(
            f"audit.images {config.audit.images} is more than the {counts['test']} test images; lower audit.images"
        )


def _choose(available: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, available)).permutation(available)[:count]


def _read_encrypted(folder: Path, split: str, manifest: dict[str, Any], indices: np.ndarray) -> np.ndarray:
    reader = ShardReader(folder, split, manifest["shards"])
    return np.stack([images.decode(reader.image(index), reader.name(index)) for index in indices])
