"""The library: a folder of images encrypted, a model adapted and fine-tuned, without params.yaml and without DVC.

The owner calls :func:`import_images`, :func:`encrypt_images`, :func:`adapt` and :func:`predict`, which take the key or
plain images; :func:`finetune` and :func:`evaluate` need neither. Every function writes a folder, whole or not at all,
that the next one reads; folders are those of the pipeline, so that both can be mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import Cipher
from ppvit.config import NO_MODEL, Adversarial, Augment, Dataset, Encrypt, Finetune, checked
from ppvit.core.files import require_apart
from ppvit.core.provenance import Made
from ppvit.core.scratch import cache_folder
from ppvit.data.encrypted import write_encrypted
from ppvit.data.plain import PlainImages, plain_splits
from ppvit.data.storing import Storing
from ppvit.data.views import Views
from ppvit.datasets import CHOICES, open_source
from ppvit.datasets.raw import write_raw
from ppvit.evaluation.prediction import probabilities, read_images
from ppvit.evaluation.shards import score_shards
from ppvit.models import load_backbone, recorded, save_model
from ppvit.training.finetuning import finetune as train
from ppvit.tuners import save_finetuned
from ppvit.tuners.records import read_finetuned_record


def import_images(
    source: Path | str,
    out: Path | str,
    image_size: int,
    *,
    dataset: str = "imagefolder",
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    seed: int = 0,
    resize_filter: str = "bicubic",
    crop: str = "center",
    value_range: Sequence[float] = (),
    window: Sequence[float] = (),
    frames: str = "error",
    bad_images: str = "error",
    duplicates: str = "warn",
    views: Views | None = None,
    **choices: Any,
) -> dict[str, PlainImages]:
    """Take images as they are, as raw shards, and give them at one size.

    Args:
        source: folder, tar or zip of ``train/<class>/`` and ``test/<class>/``, or of ``<class>/`` alone.
        out: folder of the raw shards.
        image_size: side in pixels.
        dataset: another kind of source, see ``ppvit list datasets``.
        test_fraction: share held out as test, stratified, where the source has no test split.
        val_fraction: share of the training images held out for validation, where the source has no validation split.
        seed: which images are held out, and the order of all.
        resize_filter, crop, value_range, window: as of the section ``encrypt``.
        bad_images, duplicates, frames: as of the section ``dataset``.
        views: random views of the training images, such as ``Views(4, "flip_crop", key)``; by default there are none.
        choices: further parameters of that section, such as ``subset``, which only some data sets read.

    Returns:
        ``train``, ``val`` and ``test`` images; ``.classes`` are the names of the classes.

    Raises:
        UsageError: an unknown data set, or a parameter out of range.
        PpvitError: images are missing or damaged.
    """
    require_apart(Path(source), Path(out))
    settings = checked(
        Dataset,
        name=dataset,
        path=str(source),
        image_size=image_size,
        val_fraction=val_fraction,
        seed=seed,
        bad_images=bad_images,
        duplicates=duplicates,
        frames=frames,
        **choices,
    )
    given = {"value_range": [*map(float, value_range)], "window": [*map(float, window)]}
    preparing = checked(Encrypt, resize_filter=resize_filter, crop=crop, **given)
    read = {name: getattr(settings, name) for name in CHOICES}
    opened = open_source(dataset, Path(source), cache_folder(), test_fraction, seed, **read)
    write_raw(opened, settings, Path(out))
    return plain_splits(Path(out), settings, preparing, views)


def encrypt_images(
    plain: dict[str, PlainImages],
    cipher: Cipher,
    out: Path | str,
    *,
    images_per_shard: int = 512,
    compress: bool = False,
    repeated_values: Literal["stored", "once"] = "stored",
) -> None:
    """Write images of every split as encrypted WebDataset shards, a folder a split; the trainer's.

    Args:
        plain: by the name of the split.
        cipher: with its key in place.
        out: folder of the shards.
        images_per_shard: images in one tar.
        compress: whether the images are compressed, which takes longer and pays for ``none`` and smooth pictures.
        repeated_values: ``once`` stores values that repeat once, where images were enlarged by a whole number.

    Raises:
        UsageError: no value repeats, or a parameter out of range.
        PpvitError: a class is missing in a split, an image cannot be decoded, the disk is full.
    """
    settings = checked(Encrypt, images_per_shard=images_per_shard, compress=compress, repeated_values=repeated_values)
    largest = max(plain.values(), key=len)
    storing = Storing.of(settings.compress, settings.repeated_values == "once", largest, cipher)
    write_encrypted(plain, cipher, Path(out), settings.images_per_shard, storing)


def adapt(
    model: str,
    cipher: Cipher,
    out: Path | str,
    *,
    checkpoint: Path | str | None = None,
    enabled: bool = True,
    images: np.ndarray | None = None,
    mean: Sequence[float] | Literal["none"] = (),
    std: Sequence[float] | Literal["none"] = (),
) -> dict[str, float]:
    """Adapt a pretrained timm model to the key, exactly, and write it; the trainer's.

    Args:
        model: name of a timm model; or ``vit_micro_patch4_32``, whose weights come with ppvit.
        cipher: with its key in place.
        out: folder of the model.
        checkpoint: weights file; by default those that come with ppvit, or timm's hub is asked.
        enabled: False writes the model unadapted, as a baseline.
        images: a few plain images to compare on, besides noise: uint8 (n, H, W, 3), such as
            ``plain["train"].read(0, 4)``.
        mean, std: of the input by colour, pixels in 0..1; by default what the checkpoint says, ``"none"`` for none.

    Returns:
        Largest differences of logits between the plain model on plain images and the adapted one on encrypted ones.

    Raises:
        UsageError: an unknown model, or one that cannot be adapted to this cipher.
        PpvitError: weights that cannot be read.
    """
    backbone = load_backbone(model, Path(checkpoint or NO_MODEL), cipher.image_size, mean=mean, std=std)
    measured = adapt_model(backbone, cipher, enabled, images)
    record = {**cipher.record, "model": model, "adapted": enabled, **recorded(backbone)}
    save_model(Path(out), backbone, record)
    return measured


def finetune(
    encrypted: Path | str,
    adapted: Path | str,
    out: Path | str,
    *,
    log: Callable[[int, dict[str, float]], None] | None = None,
    attack: dict[str, Any] | None = None,
    augment: dict[str, Any] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Fine-tune on encrypted training images and write the adapter, or the whole model, of the best epoch on ``val``.

    Args:
        encrypted, adapted: folders of shards and model.
        out: folder of the result.
        log: called after every epoch with its number and metrics.
        attack: parameters of the section ``adversarial``, where ``adversarial`` is at or trades.
        augment: parameters of the section ``augment``, such as ``{"names": ["mixup"]}``.
        parameters: those of the section ``finetune``: ``method="lora"``, ``rank=8``, ``epochs=10``, ...

    Returns:
        Loss and accuracy in training and on the validation images, of the epoch that was kept; number of trained
        parameters.

    Raises:
        UsageError: an unknown parameter or method, or a value out of range.
        PpvitError: shards and model are missing, damaged or not made for each other.
    """
    settings, against = checked(Finetune, **parameters), checked(Adversarial, **(attack or {}))
    changed = checked(Augment, **(augment or {}))
    finetuned = train(settings, against, Path(encrypted), Path(adapted), log, changed)
    if finetuned.is_main_process:
        save_finetuned(finetuned.tuner, finetuned.model, Path(out), Path(adapted), finetuned.record)
        finetuned.written()
    return finetuned.values


def evaluate(encrypted: Path | str, adapted: Path | str, finetuned: Path | str) -> dict[str, Any]:
    """Accuracy, cross-entropy and calibration on the encrypted test images; multi-label, AUROC and average precision.

    Raises:
        PpvitError: shards or models are missing, damaged or not made for each other.
    """
    return score_shards(Path(encrypted), Path(adapted), Path(finetuned)).summary()


def predict(
    images: Sequence[Path | str] | np.ndarray,
    cipher: Cipher,
    adapted: Path | str,
    finetuned: Path | str,
    *,
    resize_filter: str = "bicubic",
    crop: str = "center",
    frames: str = "error",
) -> np.ndarray:
    """Encrypt plain images and classify them.

    Args:
        images: files, or pixels, uint8 (n, H, W, 3), of the cipher's size.
        cipher: with the key under which the model was trained.
        adapted, finetuned: folders of the model.
        resize_filter, crop, frames: of files: as given to :func:`import_images`. The range of values above 8 bits
            is that of the shards that the model was trained on.

    Returns:
        Probability of every class, float32, (n, C); each image's add up to 1, or multi-label, each is its own.

    Raises:
        PpvitError: an image cannot be read; a model of another key, cipher or size.
    """
    asked = None
    if isinstance(images, np.ndarray):
        plain = images
    else:
        value_range = read_finetuned_record(Path(finetuned)).get("value_range")
        paths = [Path(each) for each in images]
        plain = read_images(paths, cipher.image_size, resize_filter, crop, value_range, frames)
        asked = Made("the images to predict", {"resize_filter": resize_filter, "crop": crop})
    return probabilities(plain, cipher, Path(adapted), Path(finetuned), asked).numpy()
