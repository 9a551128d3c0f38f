"""Fine-tuning inside the stage against a bare timm + peft loop over batches that are already in memory.

    python benchmarks/finetune_step.py

Compared: one epoch of `ppvit.training.loop.Training` (shards on disk, decoding, gradient clipping, schedule, metrics
and a checkpoint included) against forward, loss, backward and AdamW on the same model and adapters, as timm and peft
have them, over preloaded float batches; and `ppvit.data.batches.load_batches` alone against what the stage consumes.
LoRA of rank 8; micro-ViT at 32 px and ViT-Ti/16 at 96 and 224 px, random weights. No reading processes, the default on
a CPU; one thread, and its processor time, because threads that wait on a busy machine drown the difference.
Also: the largest relative difference of the loss in any step of an epoch, both ways on the same batches and optimiser.
Aim: the stage makes at least 1.2 times the bare loop's images/s; the loader alone at least 3 times what a model takes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from inputs import CLASSES, configuration, encrypted_photographs
from timing import alternate, benchmark, print_table, spread
from torch.nn import functional

from ppvit.config import Config
from ppvit.data.batches import EncryptedImages, epoch_batches, load_batches
from ppvit.models import MICRO, MICRO_ARCHITECTURE, model_input
from ppvit.places import Places
from ppvit.training.checkpoint import Checkpoint
from ppvit.training.loop import Training, make_accelerator
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import make_tuner
from ppvit.tuners.fused import fused

CASES: tuple[tuple[str, dict[str, Any], int, int, int], ...] = (
    # name, arguments of the timm model, batch size, images an epoch, rounds
    ("micro-ViT, 32 px, 65 tokens", MICRO, 32, 640, 7),
    ("ViT-Ti/16, 96 px, 37 tokens", {"img_size": 96}, 32, 256, 7),
    ("ViT-Ti/16, 224 px, 197 tokens", {"img_size": 224}, 16, 64, 5),
)
SMOKE_CASES = (("micro-ViT, 32 px", MICRO, 8, 16, 1),)


def model(config: Config, arguments: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_tuner(config.finetune).attach(timm.create_model(MICRO_ARCHITECTURE, num_classes=CLASSES, **arguments))


def stage(folder: Path, config: Config, arguments: dict[str, Any]) -> Callable[[], None]:
    dataset = EncryptedImages(Places.of(config, root=folder).encrypted, "train")

    def run() -> None:
        checkpoint = Checkpoint({}, folder / "scratch")
        tuned = fused(model(config, arguments))
        optimizer = make_optimizer(config.finetune, tuned)
        Training(config.finetune, make_accelerator("fp32"), tuned, optimizer, dataset, checkpoint).run()
        checkpoint.remove()

    return run


def bare(folder: Path, config: Config, arguments: dict[str, Any]) -> Callable[[], None]:
    loaded = [(model_input(images), labels) for images, labels in batches(folder, config)]

    def run() -> None:
        tuned = model(config, arguments).train()
        optimizer = torch.optim.AdamW([each for each in tuned.parameters() if each.requires_grad], lr=1e-3)
        for images, labels in loaded:
            functional.cross_entropy(tuned(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def difference(folder: Path, config: Config, arguments: dict[str, Any]) -> float:
    """Largest relative difference of the loss in any step of an epoch of training, fused and stock."""
    models = [fused(model(config, arguments)).train(), model(config, arguments).train()]
    optimizers = [make_optimizer(config.finetune, each) for each in models]
    found = []
    for images, labels in batches(folder, config):
        losses = [functional.cross_entropy(each(model_input(images)), labels) for each in models]
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(abs(losses[0].item() / losses[1].item() - 1))
    return max(found)


def batches(folder: Path, config: Config) -> list[tuple[torch.Tensor, torch.Tensor]]:
    dataset = EncryptedImages(Places.of(config, root=folder).encrypted, "train")
    return list(load_batches(dataset, epoch_batches(len(dataset), config.finetune.batch_size, 0, 0)))


def measure(folder: Path, arguments: dict[str, Any], batch_size: int, images: int, rounds: int) -> list[str]:
    size = arguments["img_size"]
    overrides = [f"dataset.image_size={size}", f"cipher.block_size={arguments.get('patch_size', 16)}"]
    config = configuration(folder, *overrides, f"finetune.batch_size={batch_size}", "finetune.epochs=1")
    encrypted_photographs(folder, config, images)
    contestants = {
        "stage": stage(folder, config, arguments),
        "bare": bare(folder, config, arguments),
        "loader": lambda: batches(folder, config),
    }
    seconds = alternate(contestants, rounds, clock=time.process_time)
    speeds = [spread(images / seconds[name], 0) for name in ("stage", "bare", "loader")]
    ratios = [spread(seconds["bare"] / seconds["stage"]), spread(seconds["stage"] / seconds["loader"], 1)]
    return [*speeds, *ratios, f"{difference(folder, config, arguments):.1e}"]


def main(smoke: bool) -> None:
    os.environ["PPVIT_WORKERS"] = "0"
    torch.set_num_threads(1)
    rows = []
    for name, *case in SMOKE_CASES if smoke else CASES:
        with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as folder:
            rows.append([name, *measure(Path(folder), *case)])
    print("images a second of processor time: median (min-max)")
    print_table(["model", "stage", "bare loop", "loader alone", "stage / bare", "loader / stage", "loss apart"], rows)


if __name__ == "__main__":
    benchmark(main)
