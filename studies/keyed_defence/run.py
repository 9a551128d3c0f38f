"""One row of the study: encrypt, adapt, fine-tune, then attack as K1 to K4. One process a row.

dvc repro keyed_defence/dvc.yaml:robust@block-loft   (in studies/; or, here: ../../stages/python run.py block loft)
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ppvit.verbs import adapt, encrypt, evaluate, finetune, threats
from ppvit import places as paths
from ppvit.evasion.ball import Ball
from ppvit.evasion.ball import GREY_LEVEL
from ppvit.config import Config, load
from ppvit.data.plain import PlainImages
from ppvit.core.errors import UsageError, one_line_errors
from ppvit.core.files import read_json, write_json
from ppvit.models import model_input
from ppvit.ciphers.keyed import load_cipher
from ppvit.evasion.cascade import Adversary, cascade
from ppvit.evasion.sample import Sample, chosen, percent
from ppvit.evasion.ciphered import through_cipher
from ppvit.evasion.surrogate import own_images, train_surrogate
from ppvit.tuners import load_finetuned, read_finetuned_record

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent.parent
RAW = HERE.parent / "data" / "tiny" / "raw"
LEFT_OUT = ("wall_seconds", "peak_memory_bytes", "finetuned_id")


def configuration(cipher: str, training: str) -> Config:
    """The parameters of a row; names as in ``variants.yaml``.

    Raises:
        UsageError: an unknown name.
    """
    variants = yaml.safe_load((HERE / "variants.yaml").read_text(encoding="utf-8"))
    if cipher not in variants["ciphers"] or training not in variants["trainings"]:
        raise UsageError(
            f"variants.yaml has no cipher '{cipher}' or no training '{training}'; it has "
            f"{', '.join(variants['ciphers'])} and {', '.join(variants['trainings'])}"
        )
    overrides = [*variants["all"], *variants["trainings"][training], *variants["ciphers"][cipher]]
    return load(ROOT / "params.yaml", overrides)


def measure(config: Config) -> dict[str, Any]:
    """Train, then attack; accuracies in percent, names as in ``results/threats.json``."""
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as name:
        work = Path(name)
        os.environ["PPVIT_SCRATCH"] = str(work / "scratch")  # what a killed run left would make times wrong
        encrypted, adapted, finetuned = (work / stage for stage in ("encrypted", "adapted", "finetuned"))
        encrypt.run(config, RAW, encrypted)
        adapt.run(config, paths.PRETRAINED, adapted, work / "adapt.json")
        finetune.run(
            config.finetune, encrypted, adapted, finetuned, work / "finetune.json", adversarial=config.adversarial
        )
        evaluate.run(config.evaluate, encrypted, adapted, finetuned, work / "plots", work / "evaluate.json")
        threats.run(config, RAW, paths.PRETRAINED, adapted, finetuned, work / "threats.json")
        published = accuracy_with_published_key(config, adapted, finetuned)
        attacked = read_json(work / "threats.json", "run")
        tested = read_json(work / "evaluate.json", "run")
        images = read_json(encrypted / "manifest.json", "run")["counts"]
    return {
        "train_images": images["train"],
        "test_images": images["test"],
        "test_accuracy_percent": tested["accuracy_percent"],
        **{name: value for name, value in attacked.items() if name not in LEFT_OUT},
        "k3_key_published_accuracy_percent": published,
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def accuracy_with_published_key(config: Config, adapted: Path, finetuned: Path) -> float:
    """K3 where the key has length 0: as `threats` measures it, but surrogates are made under the owner's own key."""
    cipher, settings = load_cipher(config), config.robustness
    classes = read_finetuned_record(finetuned)["num_classes"]
    owner = through_cipher(load_finetuned(adapted, finetuned, classes).eval().requires_grad_(False), cipher)
    train, test = (PlainImages(RAW, split, config.dataset, config.encrypt) for split in ("train", "test"))
    sample = read_sample(test, chosen(len(test), config.threats.images, settings.seed))
    ball = Ball.of_grey_levels(settings.norm, settings.epsilon)
    standing = np.ones(len(sample), bool)
    for number in range(config.threats.surrogates):
        learnt = read_sample(
            train, own_images(len(train), config.threats.surrogate_images, config.threats.seed, number)
        )
        surrogate = train_surrogate(
            config, paths.PRETRAINED, cipher, learnt.images, learnt.labels, classes, torch.device("cpu")
        )
        adversary = Adversary(ball, settings.step_size * GREY_LEVEL, classes, settings.seed + number)
        standing &= cascade(["pgd"], adversary, surrogate, sample, judge=owner)["pgd"]
    return percent(standing)


def read_sample(plain: PlainImages, order: np.ndarray) -> Sample:
    images = np.concatenate([plain.read(index, index + 1) for index in order])
    return Sample(model_input(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(plain.labels[order]))


def main(cipher: str, training: str) -> None:
    with contextlib.chdir(ROOT):  # where the paths of ppvit.places and params.yaml start
        values = measure(configuration(cipher, training))
    write_json(HERE / "results" / f"{cipher}-{training}.json", values)
    print(f"{cipher}, {training}: {values['verdict']}")


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 3:
            sys.exit("usage: run.py <cipher> <training>")
        main(*sys.argv[1:])
