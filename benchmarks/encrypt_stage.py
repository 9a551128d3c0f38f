"""The whole `encrypt` stage: what encryption adds to storing plain shards, and what a second process brings.

    python benchmarks/encrypt_stage.py

Compared: `ppvit.verbs.encrypt.run` on 4,000 JPEG photographs of 256 px, brought to 224 px, with cipher `block` against
`none` (one process), and with two processes against one (`block`); the time that processes take to start is included.
Aim: `block` takes at most 1.15 times as long as `none`; two processes are at least 1.5 times as fast as one.
Threads instead of processes start faster and scale no better.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from inputs import configuration, jpeg, photographs, write_raw
from joblib.externals.loky import get_reusable_executor
from timing import alternate, benchmark, print_table, spread

from ppvit.places import Places
from ppvit.verbs import encrypt

TRAIN, TEST, SOURCE_SIZE, ROUNDS = 3600, 400, 256, 5
SMOKE_TRAIN, SMOKE_TEST = 20, 10


def stage(folder: Path, cipher: str, workers: int) -> Callable[[], None]:
    """One run of the stage, from raw shards to encrypted ones, in a fresh pool of processes."""
    overrides = [
        "dataset.image_size=224",
        "cipher.block_size=16",
        f"cipher.name={cipher}",
        "model.name=vit_tiny_patch16_224",
    ]
    config = configuration(folder, *overrides)
    places = Places.of(config, root=folder, raw=folder / "raw")

    def run() -> None:
        os.environ["PPVIT_WORKERS"] = str(workers)
        encrypt.run(config, places)
        if workers > 1:
            get_reusable_executor().shutdown(wait=True)

    return run


def main(smoke: bool) -> None:
    train, test = (SMOKE_TRAIN, SMOKE_TEST) if smoke else (TRAIN, TEST)
    folder = Path(tempfile.mkdtemp(prefix="ppvit-benchmark-"))
    try:
        encoded = [jpeg(image) for image in photographs(train + test, SOURCE_SIZE)]
        write_raw(folder / "raw", encoded[:train], encoded[train:])
        contestants = {
            "block, one process": stage(folder, "block", 1),
            "none, one process": stage(folder, "none", 1),
            "block, two processes": stage(folder, "block", 2),
        }
        seconds = alternate(contestants, 1 if smoke else ROUNDS)
    finally:
        shutil.rmtree(folder)
    print_table(
        ["stage", "seconds", "images/s"],
        [[name, spread(times), spread((train + test) / times, 0)] for name, times in seconds.items()],
    )
    one, none, two = seconds.values()
    print(f"block / none, one process: {spread(one / none)} times as long (aim: at most 1.15)")
    print(f"two processes / one, block: {spread(one / two)} times as fast (aim: at least 1.5)")


if __name__ == "__main__":
    benchmark(main)
