"""Figures of a keyed model: its accuracy, and what K1 to K4 leave of it; see `ppvit.verbs.threats`."""

from __future__ import annotations

from typing import Any

import numpy as np
from measure import Run

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.config.robustness import AUTO_STEPS
from ppvit.core.device import device
from ppvit.data.plain import PlainImages
from ppvit.evasion.at_owner import read_pixels
from ppvit.evasion.ball import GREY_LEVEL, Ball
from ppvit.evasion.cascade import Adversary, cascade
from ppvit.evasion.ciphered import through_cipher
from ppvit.evasion.sample import Sample, chosen, percent
from ppvit.evasion.surrogate import own_images, train_surrogate
from ppvit.models import backbone_of
from ppvit.places import Places
from ppvit.tuners import load_finetuned, read_finetuned_record

LEFT_OUT = ("wall_seconds", "peak_memory_bytes", "finetuned_id", "adapted_id", "result_sha256", "cpu_seconds")


def figures(run: Run) -> dict[str, Any]:
    done = {stage: run.stage(stage) for stage in ("encrypt", "adapt", "finetune", "evaluate", "threats")}
    return {
        "train_images": run.images("train"),
        "test_images": run.images("test"),
        "test_accuracy_percent": done["evaluate"]["accuracy_percent"],
        **{name: value for name, value in done["threats"].items() if name not in LEFT_OUT},
        "k3_key_published_accuracy_percent": run.call(accuracy_with_published_key, run.config, run.places),
        "cpu_seconds": round(sum(stage["cpu_seconds"] for stage in done.values()), 1),
    }


def accuracy_with_published_key(config: Config, places: Places) -> float:
    """K3 where the key has length 0: as `threats` measures it, but surrogates are made under the owner's own key."""
    cipher, settings = load_cipher(config), config.robustness
    classes = read_finetuned_record(places.finetuned)["num_classes"]
    model = load_finetuned(places.adapted, places.finetuned, classes).to(device()).eval().requires_grad_(False)
    owner = through_cipher(model, cipher)
    train, test = (PlainImages(places.raw, split, config.dataset, config.encrypt) for split in ("train", "test"))
    sample = Sample(*read_pixels(test, chosen(len(test), config.threats.images, settings.seed)))
    ball = Ball.of_grey_levels(settings.norm, settings.epsilon)
    public, standing = backbone_of(config, places.embedded), np.ones(len(sample), bool)
    for number in range(config.threats.surrogates):
        picked = own_images(len(train), config.threats.surrogate_images, config.threats.seed, number)
        surrogate = train_surrogate(config, public, cipher, *read_pixels(train, picked), classes, device())
        step, seed = settings.step_size * GREY_LEVEL, settings.seed + number
        steps = AUTO_STEPS if settings.steps == "auto" else settings.steps
        adversary = Adversary(ball, step, classes, seed, steps)
        standing &= cascade(["pgd"], adversary, surrogate, sample, judge=owner)["pgd"]
    return percent(standing)
