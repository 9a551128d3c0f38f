"""The rows of Lin, Imaizumi and Kiya's Table I (arXiv 2507.11943), on as many images as there is time for.

Settings are those of ``studies/lin2025``, but for the number of images, epochs and the batch. With the folder of
weights and data that ``PPVIT_ASSETS`` names: CIFAR-10 as JPEG at 96 px and ViT-Ti pretrained on ImageNet. Without:
scikit-learn's digits at 32 px and the micro-ViT of ppvit, of which the order of the rows alone means something.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from timing import ROOT

from ppvit.config import Config
from ppvit.evaluation.shards import score_shards
from ppvit.places import Places
from ppvit.training.finetuning import finetune
from ppvit.tuners import save_finetuned
from ppvit.verbs import adapt, download, encrypt

IMAGES, METHODS = ("plain", "shuffle", "shuffle_adapted"), ("full", "melo_r4", "lora_patch_r4")
PUBLISHED = {  # percent of CIFAR-10, ViT-B/16, 200 epochs
    ("plain", "full"): 98.16,
    ("plain", "melo_r4"): 98.36,
    ("plain", "lora_patch_r4"): 97.98,
    ("shuffle", "full"): 96.16,
    ("shuffle", "melo_r4"): 90.05,
    ("shuffle", "lora_patch_r4"): 96.35,
}
SETS = {
    # size of the study: what is used, training and test images that there are, fewest that mean something
    "large": ("CIFAR-10 as JPEG, 96 px; ViT-Ti/16, ImageNet weights", 50_000, 10_000, 500),
    "tiny": ("no CIFAR-10 here: digits, 32 px; micro-ViT, glyph weights", 1437, 360, 100),
}


def size_here() -> str:
    """``large`` where both files are there, else ``tiny``."""
    folder = Path(os.environ.get("PPVIT_ASSETS") or "/nonexistent")
    needed = ("cifar10_jpeg_q75.tar.xz", "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors")
    return "large" if all((folder / name).is_file() for name in needed) else "tiny"


def plan(size: str, seconds: float, images_per_second: float, epochs: int) -> list[str]:
    """Overrides that make every row take its share of the time.

    Args:
        size: as of :func:`size_here`.
        seconds: for all rows.
        images_per_second: of training.
        epochs: of each row.
    """
    _, train, test, fewest = SETS[size]
    samples = 0.6 * seconds / (len(IMAGES) * len(METHODS)) * images_per_second  # the rest is preparing and measuring
    wanted = int(min(train, max(fewest, samples / epochs)))
    return [
        f"dataset.train_fraction={wanted / train:.6f}",
        f"dataset.test_fraction={min(1.0, max(fewest, wanted / 5) / test):.6f}",
        f"finetune.epochs={epochs}",
    ]


def rows(folder: Path, size: str, overrides: list[str]) -> Iterator[dict[str, Any]]:
    """Train and measure every row; yields it as soon as it is there."""
    sys.path.insert(0, str(ROOT / "studies"))
    from study import STUDIES, Study

    study = Study(STUDIES / "lin2025")
    wanted = {
        (variant["images"], variant["method"]): variant
        for variant in study.variants(size)
        if variant["seed"] == 0 and variant["images"] in IMAGES and variant["method"] in METHODS
    }
    prepared: dict[str, Places] = {}
    for (images, method), variant in wanted.items():
        config = variant.local_config(tuple(overrides))
        with contextlib.chdir(ROOT):  # where the models that come with ppvit lie
            if images not in prepared:
                prepared[images] = prepare(folder, images, config, prepared)
            yield {"images": images, "method": method, **trained(config, prepared[images], folder / images / method)}


def prepare(folder: Path, images: str, config: Config, others: dict[str, Places]) -> Places:
    """Shards and model of one kind of images; raw data are shared."""
    places = Places.of(config, root=folder / images)
    places = replace(places, raw=folder / "raw", embedded=ROOT / "models/pretrained/vit_micro_patch4_32.safetensors")
    if not others:
        download.run(config, places)
    encrypt.run(config, places)
    adapt.run(config, places)
    return places


def trained(config: Config, places: Places, folder: Path) -> dict[str, Any]:
    """What one row measures."""
    start = time.perf_counter()
    tuned = finetune(config.finetune, config.adversarial, places.encrypted, places.adapted)
    save_finetuned(tuned.tuner, tuned.model, folder, places.adapted, tuned.record)
    tuned.written()
    scores = score_shards(places.encrypted, places.adapted, folder).summary()
    return {
        "accuracy_percent": scores["accuracy_percent"],
        "test_images": scores["images"],
        "train_loss": tuned.values["train_loss"],
        "images_per_second": tuned.values["images_per_second"],
        "precision": tuned.values["precision"],
        "seconds": time.perf_counter() - start,
    }
