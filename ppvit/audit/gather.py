"""Collecting what the attacker holds from the pipeline's files, and the truth that only scores what is found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppvit import images
from ppvit.audit.view import KeySpace, View
from ppvit.ciphers import AffineMap
from ppvit.config import Audit, Config
from ppvit.embedding import Embedding, fold_normalization, read_embedding
from ppvit.encrypt import PlainImages, image_id
from ppvit.errors import PpvitError, UsageError
from ppvit.models import load_backbone, load_model, read_record
from ppvit.owner import load_cipher, public_record
from ppvit.shards import SPLITS, ShardReader, read_manifest
from ppvit.stems import patch_projection
from ppvit.tuners import load_finetuned, read_finetuned_record

_PUBLIC = 256  # plain images of the attacker's own, of the same kind
_PARAMETERS = {"cipher": "cipher", "key_id": "cipher.key_id", "image_size": "dataset.image_size", "model": "model.name"}


@dataclass(frozen=True)
class Truth:
    """What the attacker does not hold.

    Attributes:
        plain: the images under attack, uint8, (n, H, W, 3).
        key: the cipher's affine map, or None where it is none.
    """

    plain: np.ndarray
    key: AffineMap | None


def gather(
    config: Config, raw: Path, encrypted: Path, embedded: Path, adapted: Path, finetuned: Path
) -> tuple[View, Truth]:
    """Read the attacker's view: shards, both models, the public checkpoint, and the pairs that are given away.

    Args: as of :func:`ppvit.audit.run`.

    Raises:
        UsageError: the splits hold fewer images than ``audit.known_pairs`` or ``audit.images`` ask for (their defaults
            are lowered instead).
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
    settings = _fitting(config.audit, manifest["counts"])
    plain = {split: PlainImages(raw, split, config.dataset, config.encrypt) for split in SPLITS}
    for split in SPLITS:
        if len(plain[split]) != manifest["counts"][split]:
            raise PpvitError(
                f"{encrypted} holds {manifest['counts'][split]} {split} images and {raw} gives {len(plain[split])}; "
                "encrypt again: dvc repro encrypt"
            )
    known, others = np.split(_order(len(plain["train"]), settings.seed), [max(settings.known_pairs)])
    pooled, public = np.split(others, [max(settings.pooled_images)])
    if not len(public):  # a small data set: the same images serve for all, of which no attack learns more
        pooled = public = np.concatenate([known, others])
    attacked, decoys = np.split(_order(len(plain["test"]), settings.seed), [settings.images])
    decoys = decoys[: max(0, settings.candidates - settings.images)]
    truth = _read_plain(plain["test"], attacked)
    mixed = np.random.default_rng(settings.seed).permutation(len(attacked) + len(decoys))
    models = _embeddings(config, embedded, adapted, finetuned, manifest["num_classes"])
    view = View(
        space=space,
        block_size=cipher.block_size,
        encrypted=_read_encrypted(encrypted, "test", manifest, attacked),
        seed=settings.seed,
        image_size=config.dataset.image_size,
        known_plain=_read_plain(plain["train"], known),
        known_encrypted=_read_encrypted(encrypted, "train", manifest, known),
        known_pairs=tuple(sorted(set(settings.known_pairs))),
        pooled=_read_encrypted(encrypted, "train", manifest, pooled[: max(settings.pooled_images)]),
        pooled_images=tuple(sorted({min(count, len(pooled)) for count in settings.pooled_images})),
        public_plain=_read_plain(plain["train"], public[:_PUBLIC]),
        candidates=np.concatenate([truth, _read_plain(plain["test"], decoys)])[mixed],
        oracle=lambda chosen: cipher.encrypt(chosen, image_id("query", 0) + np.arange(len(chosen))),
        training_steps=settings.training_steps,
        **models,
    )
    return view, Truth(truth, cipher.affine_map())


def _order(available: int, seed: int) -> np.ndarray:
    # the first k of one order, so that more images always include the fewer
    return np.random.default_rng((seed, available)).permutation(available)


def _read_plain(plain: PlainImages, indices: np.ndarray) -> np.ndarray:
    if not len(indices):
        return np.empty((0, plain.image_size, plain.image_size, 3), np.uint8)
    return np.concatenate([plain.read(index, index + 1) for index in indices])


def _embeddings(
    config: Config, embedded: Path, adapted: Path, finetuned: Path, classes: int
) -> dict[str, Embedding | None]:
    """The patch embeddings of the three models, where they have one that ciphertext goes through."""
    backbone = load_backbone(
        config.model.name,
        Path(config.model.checkpoint),
        config.dataset.image_size,
        embedded,
        config.model.pretrained,
    )
    models = {"adapted": load_model(adapted, "adapt"), "finetuned": load_finetuned(adapted, finetuned, classes)}
    if patch_projection(models["adapted"]) is None:  # tokens of a secret network
        return {}
    public = fold_normalization(read_embedding(backbone.model), backbone.mean, backbone.std)
    return {"public": public} | {name: read_embedding(model) for name, model in models.items()}


def _check_made_with(folder: Path, record: dict[str, Any], expected: dict[str, Any], made_by: str) -> None:
    for name, parameter in _PARAMETERS.items():
        if name in expected and record.get(name) != expected[name]:
            raise PpvitError(
                f"{folder} was made with {parameter} {record.get(name)} and params.yaml says {expected[name]}; "
                f"make it again: dvc repro {made_by}"
            )


def _fitting(settings: Audit, counts: dict[str, int]) -> Audit:
    """The parameters, with defaults lowered to the images that there are; what was asked for must be there.

    Raises:
        UsageError: other than default values ask for more images than a split has.
    """
    default = Audit()
    largest = max(settings.known_pairs)
    if largest > counts["train"]:
        if settings.known_pairs != default.known_pairs:
            raise UsageError(
                f"audit.known_pairs asks for {largest} known images and there are {counts['train']} training images; "
                "name smaller numbers"
            )
        fewer = [pairs for pairs in settings.known_pairs if pairs <= counts["train"]]
        settings = settings.model_copy(update={"known_pairs": fewer})
    if settings.images > counts["test"]:
        if settings.images != default.images:
            raise UsageError(
                f"audit.images {settings.images} is more than the {counts['test']} test images; lower audit.images"
            )
        settings = settings.model_copy(update={"images": counts["test"]})
    return settings


def _read_encrypted(folder: Path, split: str, manifest: dict[str, Any], indices: np.ndarray) -> np.ndarray:
    reader = ShardReader(folder, split, manifest["shards"])
    if not len(indices):
        return np.empty((0, *manifest["shape"]), manifest["dtype"])
    return np.stack([images.decode_array(reader.image(index), reader.name(index)) for index in indices])
