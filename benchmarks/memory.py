"""Peak memory of `encrypt` and `finetune` with ten times as many images.

    python benchmarks/memory.py

Compared: the largest resident memory of a process of its own for each run, on 1,000 and on 10,000 images of 64 px, one
process; `finetune` makes a whole epoch (LoRA on a ViT of two layers).
Aim: constant, whatever the number of images.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from inputs import CLASSES, configuration, photographs, save_random_model, write_raw
from timing import benchmark, print_table, spread

from ppvit.config import Config
from ppvit.core.results import peak_memory_bytes
from ppvit.data.images import encode_png
from ppvit.places import Places

COUNTS, SIZE, ROUNDS = (1_000, 10_000), 64, 2
SMOKE_COUNTS = (20, 30)
MODEL = {"img_size": SIZE, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2}


def run_stage(stage: str, folder: Path) -> int:
    """Run one stage in this process; returns the largest resident memory so far, in bytes."""
    overrides = [
        f"dataset.image_size={SIZE}",
        "cipher.block_size=16",
        "finetune.epochs=1",
        "model.name=vit_tiny_patch16_224",
    ]
    config = configuration(folder, *overrides, "finetune.batch_size=32")
    places = Places.of(config, root=folder)
    if stage == "prepare":
        prepare(config, places, int(folder.name))
    elif stage == "encrypt":
        from ppvit.verbs import encrypt

        encrypt.run(config, places)
    else:
        from ppvit.verbs import finetune

        finetune.run(config, places)
    return peak_memory_bytes()


def prepare(config: Config, places: Places, images: int) -> None:
    """Raw shards of so many training images, and a model that fits them."""
    encoded = [encode_png(image) for image in photographs(min(images, 500), SIZE)]
    train = (encoded[number % len(encoded)] for number in range(images))
    write_raw(places.raw, train, encoded[:CLASSES], "png")
    save_random_model(config, places, **MODEL)


def run_apart(stage: str, folder: Path) -> int:
    """The same in a process of its own: Linux hands the peak of a parent on to its children."""
    environment = os.environ | {"PPVIT_WORKERS": "1" if stage == "encrypt" else "0", "PPVIT_SCRATCH": str(folder)}
    command = [sys.executable, __file__, stage, str(folder)]
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main(smoke: bool) -> None:
    peaks: dict[tuple[str, int], list[int]] = {}
    measure = run_stage if smoke else run_apart
    counts = SMOKE_COUNTS if smoke else COUNTS
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as name:
        folders = {count: Path(name) / str(count) for count in counts}
        for folder in folders.values():
            folder.mkdir()
            measure("prepare", folder)
        for _ in range(1 if smoke else ROUNDS):
            for stage in ("encrypt", "finetune"):
                for count, folder in folders.items():
                    peaks.setdefault((stage, count), []).append(measure(stage, folder))
    rows = []
    for stage in ("encrypt", "finetune"):
        few, many = (np.array(peaks[stage, count]) / 2**20 for count in counts)
        rows.append([stage, spread(few, 0), spread(many, 0), spread(many / few)])
    print("peak memory in MiB: median (min-max)")
    print_table(["stage", *(f"{count:,} images" for count in counts), "ratio"], rows)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(run_stage(sys.argv[1], Path(sys.argv[2])))
    else:
        benchmark(main)
