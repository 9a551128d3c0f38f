"""Reads what the attacker holds from the pipeline's files, and the truth, which serves for scoring alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ppvit.adaptation.embedding import Embedding, fold_normalization, read_embedding
from ppvit.audit.effort import STEPS
from ppvit.audit.view import KeySpace, View
from ppvit.ciphers import AffineMap, Cipher
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Audit, Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.provenance import Made, require_made_alike
from ppvit.data.batches import EncryptedImages
from ppvit.data.plain import PlainImages, image_id
from ppvit.data.views import Views
from ppvit.models import backbone_of, load_model
from ppvit.models.stems import patch_projection
from ppvit.places import Places
from ppvit.tuners import load_finetuned
from ppvit.tuners.made import made_models

_SPLITS = ("train", "test")  # known images and attacked ones; what holds of them holds of val
_PUBLIC = 256  # plain images of the attacker's own, of the same kind


@dataclass(frozen=True)
class Truth:
    """What the attacker does not hold.

    Attributes:
        plain: the images under attack, uint8, (n, H, W, 3).
        key: the cipher's affine map, or None where it is none.
    """

    plain: np.ndarray
    key: AffineMap | None


def collect(config: Config, places: Places) -> tuple[View, Truth]:
    """Read the attacker's view: shards, both models, the public checkpoint, and the pairs that are given away.

    Args: as of :func:`ppvit.verbs.audit.run`.

    Raises:
        UsageError: the splits hold fewer images than ``audit.known_pairs`` or ``audit.images`` ask for (their defaults
            are lowered instead).
        PpvitError: shards or model were made with another key, cipher or size than the parameters say, or are missing.
    """
    cipher = load_cipher(config)
    plain = {
        split: PlainImages(places.raw, split, config.dataset, config.encrypt, views=Views.of(config, split))
        for split in _SPLITS
    }
    space = KeySpace.of(cipher)
    shards = {split: EncryptedImages(places.encrypted, split) for split in _SPLITS}
    parameters = Made("params.yaml", cipher.record)
    # compared with another checkpoint than its own, a model would seem to hold no key
    asked = replace(parameters, record={**parameters.record, **plain["test"].made, "model": config.model.name})
    require_made_alike(
        asked,
        *(Made(images.folder, images.manifest, "encrypt") for images in shards.values()),
        *made_models(places.adapted, places.finetuned),
    )
    settings = _fitting(config.audit, {split: len(images) for split, images in shards.items()})
    settings = _telling(settings, space)
    for split, images in shards.items():
        require_same_images(plain[split], cipher, images)
    known, others = np.split(_order(len(plain["train"]), settings.seed), [max(settings.known_pairs)])
    pooled, public = np.split(others, [max(settings.pooled_images)])
    if not len(public):  # a small data set: the same images serve for all, of which no attack learns more
        pooled = public = np.concatenate([known, others])
    attacked, decoys = np.split(_order(len(plain["test"]), settings.seed), [settings.images])
    decoys = decoys[: max(0, settings.candidates - settings.images)]
    truth = _read_plain(plain["test"], attacked)
    mixed = np.random.default_rng(settings.seed).permutation(len(attacked) + len(decoys))
    models = _embeddings(config, places, shards["train"].num_classes)
    view = View(
        space=space,
        block_size=cipher.block_size,
        encrypted=shards["test"].ciphertext(attacked),
        seed=settings.seed,
        image_size=config.dataset.image_size,
        views=plain["train"].views,
        known_plain=_in_all_views(plain["train"], known),
        known_encrypted=shards["train"].ciphertext(shards["train"].in_all_views(known)),
        known_pairs=tuple(sorted(set(settings.known_pairs))),
        pooled=shards["train"].ciphertext(shards["train"].in_all_views(pooled[: max(settings.pooled_images)])),
        pooled_images=tuple(sorted({min(count, len(pooled)) for count in settings.pooled_images})),
        public_plain=_read_plain(plain["train"], public[:_PUBLIC]),
        candidates=np.concatenate([truth, _read_plain(plain["test"], decoys)])[mixed],
        oracle=lambda chosen: cipher.encrypt(chosen, image_id("query", 0) + np.arange(len(chosen))),
        training_steps=STEPS[0] if settings.training_steps == "auto" else settings.training_steps,
        **models,
    )
    return view, Truth(truth, cipher.affine_map())


def require_same_images(plain: PlainImages, cipher: Cipher, encrypted: EncryptedImages) -> None:
    """Refuse shards that are not of these plain images: other numbers, labels or views, or another first image.

    Raises:
        PpvitError: names both folders.
    """
    alike = len(plain) == len(encrypted) and np.array_equal(plain.labels, encrypted.labels())
    alike = alike and plain.views == encrypted.views
    for view in {0, plain.views - 1} if alike else ():
        ours = cipher.encrypt(plain.read(0, 1, view), plain.ids(0, 1, view)).astype(np.float64)
        theirs = encrypted.ciphertext(np.array([view * len(plain)])).astype(np.float64)
        # a cipher that computes with fractions may round the last digits otherwise on another machine
        alike = (
            alike
            and ours.shape == theirs.shape
            and np.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * np.abs(theirs).max())
        )
    if not alike:
        raise PpvitError(
            f"{encrypted.folder} does not hold the images of {plain.folder} (of {len(encrypted)} and {len(plain)}) as "
            "params.yaml says to encrypt them; encrypt again: dvc repro encrypt"
        )


def _order(available: int, seed: int) -> np.ndarray:
    # the first k of one order, so that more images always include the fewer
    return np.random.default_rng((seed, available)).permutation(available)


def _read_plain(plain: PlainImages, indices: np.ndarray, view: int = 0) -> np.ndarray:
    if not len(indices):
        return np.empty((0, plain.image_size, plain.image_size, 3), np.uint8)
    return np.concatenate([plain.read(index, index + 1, view) for index in indices])


def _in_all_views(plain: PlainImages, indices: np.ndarray) -> np.ndarray:
    return np.concatenate([_read_plain(plain, indices, view) for view in range(plain.views)])


def _embeddings(config: Config, places: Places, classes: int) -> dict[str, Embedding]:
    """The patch embeddings of the three models, where they have one that ciphertext goes through."""
    backbone = backbone_of(config, places.embedded)
    models = {
        "adapted": load_model(places.adapted, "adapt"),
        "finetuned": load_finetuned(places.adapted, places.finetuned, classes),
    }
    if patch_projection(models["adapted"]) is None:  # tokens of a secret network
        return {}
    public = fold_normalization(read_embedding(backbone.model), backbone.mean, backbone.std)
    return {"public": public} | {name: read_embedding(model) for name, model in models.items()}


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


def _telling(settings: Audit, space: KeySpace) -> Audit:
    """The default amounts of pooled ciphertexts without those that have fewer blocks than a block has values.

    Nothing tells so many values apart by so few blocks, and looking for their order takes minutes.
    """
    if settings.pooled_images != Audit().pooled_images:
        return settings
    enough = [count for count in settings.pooled_images if count * space.blocks >= space.values]
    return settings.model_copy(update={"pooled_images": enough or settings.pooled_images[-1:]})
