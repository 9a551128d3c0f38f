"""Peak memory of `encrypt` and `finetune` with ten times as many images.

    python benchmarks/memory.py

Compared: the largest resident memory of a process of its own for each run, on 1,000 and on 10,000 images of 64 px, one
process; `finetune` makes a whole epoch (LoRA on a ViT of two layers).
Aim: constant, whatever the number of images.
Measured (2 cores, 2026-11-20): encrypt 71 MiB and 71 MiB, finetune 853 MiB and 855 MiB (torch itself, mostly).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from inputs import CLASSES, configuration, photographs, write_raw
from timing import print_table, spread

from ppvit.data.images import encode_png
from ppvit.core.results import peak_memory_bytes

COUNTS, SIZE, ROUNDS = (1_000, 10_000), 64, 2
MODEL = {"img_size": SIZE, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2}


def run_stage(stage: str, folder: Path) -> None:
    """Run one stage in this process and print its peak memory in bytes."""
    if stage == "prepare":
        return prepare(folder, int(folder.name))
    overrides = [f"dataset.image_size={SIZE}", "cipher.block_size=16", "finetune.epochs=1"]
    config = configuration(folder, *overrides, "finetune.batch_size=32")
    if stage == "encrypt":
        from ppvit.verbs import encrypt

        encrypt.run(config, folder / "raw", folder / "encrypted")
    else:
        from ppvit.verbs import finetune

        finetune.run(config.finetune, folder / "encrypted", folder / "adapted", folder / "tuned", folder / "tuned.json")
    print(peak_memory_bytes())


def prepare(folder: Path, images: int) -> None:
    """Raw shards of so many training images, and a model that fits them."""
    import timm

    from ppvit.models import MICRO_ARCHITECTURE, Backbone, save_model
    from ppvit.ciphers.keyed import load_cipher, public_record

    encoded = [encode_png(image) for image in photographs(500, SIZE)]
    train = (encoded[number % len(encoded)] for number in range(images))
    write_raw(folder / "raw", train, encoded[:CLASSES], "png")
    config = configuration(folder, f"dataset.image_size={SIZE}", "cipher.block_size=16")
    model = timm.create_model(MICRO_ARCHITECTURE, num_classes=CLASSES, **MODEL).eval()
    backbone = Backbone(model, MICRO_ARCHITECTURE, dict(MODEL), (0.5,) * 3, (0.5,) * 3)
    save_model(folder / "adapted", backbone, public_record(config, load_cipher(config)))


def measure(stage: str, folder: Path) -> int:
    environment = os.environ | {"PPVIT_WORKERS": "1" if stage == "encrypt" else "0", "PPVIT_SCRATCH": str(folder)}
    done = subprocess.run(_command(stage, folder), env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def _command(stage: str, folder: Path) -> list[str]:
    return [sys.executable, __file__, stage, str(folder)]


def main() -> None:
    peaks: dict[tuple[str, int], list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as name:
        folders = {count: Path(name) / str(count) for count in COUNTS}
        for folder in folders.values():
            folder.mkdir()
            # not in this process: Linux hands the peak of a parent on to its children
            subprocess.run(_command("prepare", folder), check=True)
        for _ in range(ROUNDS):
            for stage in ("encrypt", "finetune"):
                for count, folder in folders.items():
                    peaks.setdefault((stage, count), []).append(measure(stage, folder))
    rows = []
    for stage in ("encrypt", "finetune"):
        few, many = (np.array(peaks[stage, count]) / 2**20 for count in COUNTS)
        rows.append([stage, spread(few, 0), spread(many, 0), spread(many / few)])
    print("peak memory in MiB: median (min-max)")
    print_table(["stage", *(f"{count:,} images" for count in COUNTS), "ratio"], rows)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_stage(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
