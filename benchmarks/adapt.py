"""Adapting ViT-B/16 against merely loading and saving its checkpoint.

    python benchmarks/adapt.py

Compared: the whole `adapt` stage (`ppvit.verbs.adapt.run`: load, adapt, compare logits in float64 and float32, save)
with cipher `block` at 224 px against `timm.create_model(..., checkpoint_path=...)` and `safetensors` saving. Random
weights. Aim: at most 3 times as long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
from inputs import CLASSES, configuration, jpeg, photographs, write_raw
from safetensors.torch import save_file
from timing import alternate, benchmark, print_table, spread

from ppvit.places import Places
from ppvit.verbs import adapt

ARCHITECTURE, SMOKE_ARCHITECTURE, ROUNDS = "vit_base_patch16_224", "vit_tiny_patch16_224", 7


def stage(folder: Path, architecture: str) -> Callable[[], None]:
    overrides = ["dataset.image_size=224", "cipher.block_size=16", f"model.name={architecture}"]
    config = configuration(folder, *overrides, f"model.checkpoint={folder / 'plain.safetensors'}")
    places = Places.of(config, root=folder)
    write_raw(places.raw, map(jpeg, photographs(CLASSES, 224)), map(jpeg, photographs(CLASSES, 224)))
    return lambda: adapt.run(config, places)


def load_and_save(folder: Path, architecture: str) -> None:
    model = timm.create_model(architecture, checkpoint_path=str(folder / "plain.safetensors"))
    save_file(model.state_dict(), folder / "saved.safetensors")


def main(smoke: bool) -> None:
    architecture = SMOKE_ARCHITECTURE if smoke else ARCHITECTURE
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as name:
        folder = Path(name)
        save_file(timm.create_model(architecture).state_dict(), folder / "plain.safetensors")
        contestants = {
            "adapt": stage(folder, architecture),
            "load and save": lambda: load_and_save(folder, architecture),
        }
        seconds = alternate(contestants, 1 if smoke else ROUNDS)
    print_table([architecture, "seconds"], [[name, spread(times)] for name, times in seconds.items()])
    print(f"adapt / load and save: {spread(seconds['adapt'] / seconds['load and save'])}")


if __name__ == "__main__":
    benchmark(main)
