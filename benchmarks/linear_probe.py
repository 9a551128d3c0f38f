"""Linear probing on features that are computed once against passing every image through the backbone in every epoch.

    python benchmarks/linear_probe.py

Compared: `ppvit.training.finetuning.finetune` with `finetune.method=linear`, ten epochs, on one thread: nothing kept
(`PPVIT_KEPT_GIB=0`), kept for the first time, and found in scratch. Loading shards and model, hashing and writing
features are in the times. The micro-ViT that comes with ppvit at 32 px, and ViT-Ti/16 at 96 px with the weights in the
folder that `PPVIT_ASSETS` names, else random ones. Trained heads are compared bit by bit.
Aim: at least 5 times as fast, the same bits.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from inputs import configuration, encrypted_photographs
from timing import ROOT, alternate, benchmark, print_table, spread

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.models import backbone_of, save_model
from ppvit.places import Places
from ppvit.training.finetuning import finetune

PRETRAINED = Path(os.environ.get("PPVIT_ASSETS", "")) / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
TINY = ("model.name=vit_tiny_patch16_224", "dataset.image_size=96", "cipher.block_size=16")
CASES: tuple[tuple[str, tuple[str, ...], int, int], ...] = (
    # name, parameters, images, rounds
    ("micro-ViT, 32 px", (), 1000, 3),
    ("ViT-Ti/16, 96 px", TINY, 500, 3),
)
SMOKE_CASES = (("micro-ViT, 32 px", (), 32, 1),)


def contestants(folder: Path, config: Config, heads: dict[str, bytes]) -> dict[str, Callable[[], None]]:
    """The three ways of training; each leaves its head in ``heads``."""
    places = Places.of(config, root=folder)

    def train(name: str, keep: str, anew: bool) -> None:
        scratch = folder / "scratch" / ("kept" if keep != "0" else "none")
        if anew:
            shutil.rmtree(scratch, ignore_errors=True)
        os.environ |= {"PPVIT_KEPT_GIB": keep, "PPVIT_SCRATCH": str(scratch)}
        scratch.parent.mkdir(exist_ok=True)
        found = finetune(config.finetune, config.adversarial, places.encrypted, places.adapted)
        found.written()
        heads[name] = found.model.get_submodule("head").weight.detach().numpy().tobytes()

    return {
        "whole": lambda: train("whole", "0", True),
        "first": lambda: train("first", "4", True),
        "found": lambda: train("found", "4", False),
    }


def measure(folder: Path, overrides: tuple[str, ...], images: int, rounds: int) -> list[str]:
    if overrides:
        known = PRETRAINED.is_file()
        overrides = (*overrides, f"model.checkpoint={PRETRAINED}" if known else "model.pretrained=false")
    config = configuration(folder, *overrides, "finetune.method=linear", "finetune.epochs=10")
    places = encrypted_photographs(folder, config, images)
    backbone, cipher = backbone_of(config, Places.of(config, root=ROOT).embedded), load_cipher(config)
    adapt_model(backbone, cipher)
    save_model(places.adapted, backbone, cipher.record)
    heads: dict[str, bytes] = {}
    seconds = alternate(contestants(folder, config, heads), rounds, clock=time.process_time)
    ratios = [spread(seconds["whole"] / seconds[name], 1) for name in ("first", "found")]
    same = "yes" if len(set(heads.values())) == 1 else "no"
    return [*(spread(seconds[name], 1) for name in ("whole", "first", "found")), *ratios, same]


def main(smoke: bool) -> None:
    os.environ["PPVIT_WORKERS"] = "0"
    torch.set_num_threads(1)
    rows = []
    for name, *case in SMOKE_CASES if smoke else CASES:
        with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as folder:
            rows.append([name, *measure(Path(folder), *case)])
    print("seconds of processor time for ten epochs: median (min-max)")
    header = ["model", "whole model", "first run", "later runs", "times as fast", "later", "same bits"]
    print_table(header, rows)


if __name__ == "__main__":
    benchmark(main)
