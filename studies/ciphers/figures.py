"""Figures of a cipher: fine-tuned adapted and unadapted, its cost, and what the audit's attacks find."""

from __future__ import annotations

from typing import Any

from measure import Run

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.reading import read_json
from ppvit.core.results import Stopwatch
from ppvit.data.plain import BATCH, PlainImages
from ppvit.places import Places

CONVMIXER = (
    "model.name=convmixer_micro_patch4",
    "finetune.batch_norm=affine",  # it starts from random weights
    "model.pretrained=false",
    "model.adaptive_matrix=true",
    "adapt.enabled=false",
    "finetune.method=full",
    "finetune.learning_rate=0.002",
    "finetune.epochs=10",
)
KEPT = ("_key_recovered_percent", "_ssim", "_top1_percent", "_key_bits", "_images_needed", "_strength_percent")


def figures(run: Run) -> dict[str, Any]:
    run.stage("encrypt")
    values = {"cipher": run.variant["cipher"], **run.call(costs, run.config, run.places)}
    exact = load_cipher(run.config).affine_map() is not None
    models = {"unadapted": ("adapt.enabled=false",)} | ({"adapted": ("adapt.enabled=true",)} if exact else {})
    if run.variant["cipher"] in run.variant.study.plan["convmixer"]:
        models["convmixer"] = CONVMIXER
    for model, overrides in models.items():
        values |= trained(run, model, run.changed(*overrides))
    attacked = "adapted" if exact else "unadapted"
    found = run.stage("audit", **places_of(run, attacked))
    kept = {name: value for name, value in found.items() if name.endswith(KEPT) or name.startswith("ssim_of_")}
    return values | kept | {"verdict": found["verdict"]}


def places_of(run: Run, model: str) -> dict[str, Any]:
    folder = run.places.results.parent
    return {"adapted": folder / model, "finetuned": folder / f"{model}-finetuned"}


def trained(run: Run, model: str, config: Config) -> dict[str, Any]:
    """Adapt or not, fine-tune, evaluate."""
    adapted, finetuned, evaluated = (
        run.stage(stage, config, **places_of(run, model)) for stage in ("adapt", "finetune", "evaluate")
    )
    values = {
        f"{model}_accuracy_percent": evaluated["accuracy_percent"],
        f"{model}_parameters": adapted["parameters"],
        f"{model}_trained_parameters": finetuned["trainable_parameters"],
    }
    proof = "max_logit_difference_float64"
    return values | ({proof: adapted[proof]} if model == "adapted" and proof in adapted else {})


def costs(config: Config, places: Places) -> dict[str, float]:
    """Time of the cipher alone on images in memory, and size of the shards."""
    cipher = load_cipher(config)
    plain = PlainImages(places.raw, "train", config.dataset, config.encrypt)
    images = plain.read(0, BATCH)
    cipher.encrypt(images[:1], plain.ids(0, 1))  # derives what depends on the key alone
    watch, count = Stopwatch(), 0
    while watch.seconds() < 1:
        cipher.encrypt(images, plain.ids(0, BATCH))
        count += len(images)
    splits = [read_json(path, "encrypt")["count"] for path in places.encrypted.glob("*/manifest.json")]
    size = sum(path.stat().st_size for path in places.encrypted.glob("*/*.tar"))
    return {
        "encrypted_images_per_second": round(count / watch.seconds()),
        "bytes_per_image": round(size / sum(splits)),
    }
