"""Adapting ViT-B/16 against merely loading and saving its checkpoint.

    python benchmarks/adapt.py

Compared: the whole `adapt` stage (`ppvit.verbs.adapt.run`: load, adapt, compare logits in float64 and float32, save) with
cipher `block` at 224 px against `timm.create_model(..., checkpoint_path=...)` and `safetensors` saving. Random weights.
Aim: at most 3 times as long.
Measured (2 cores, 2026-11-20): 1.95 s, 2.0 (1.4-2.4) times as long as loading and saving; on a busy machine 3.2
(2.5-6.2). One image is compared; with two, and random initial weights, it was 4.2 (3.8-6.1), on a busy machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
from inputs import configuration
from safetensors.torch import save_file
from timing import alternate, print_table, spread

from ppvit.verbs import adapt

ARCHITECTURE, ROUNDS = "vit_base_patch16_224", 7


def stage(folder: Path) -> Callable[[], None]:
    overrides = ["dataset.image_size=224", "cipher.block_size=16", f"model.name={ARCHITECTURE}"]
    config = configuration(folder, *overrides, f"model.checkpoint={folder / 'plain.safetensors'}")
    return lambda: adapt.run(config, folder / "unused", folder / "adapted", folder / "adapt.json")


def load_and_save(folder: Path) -> None:
    model = timm.create_model(ARCHITECTURE, checkpoint_path=str(folder / "plain.safetensors"))
    save_file(model.state_dict(), folder / "saved.safetensors")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as name:
        folder = Path(name)
        save_file(timm.create_model(ARCHITECTURE).state_dict(), folder / "plain.safetensors")
        seconds = alternate({"adapt": stage(folder), "load and save": lambda: load_and_save(folder)}, ROUNDS)
    print_table(["ViT-B/16", "seconds"], [[name, spread(times)] for name, times in seconds.items()])
    print(f"adapt / load and save: {spread(seconds['adapt'] / seconds['load and save'])} (aim: at most 3)")


if __name__ == "__main__":
    main()
