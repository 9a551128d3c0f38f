"""What a busy machine costs: training, and the whole default run, alone and beside two processes that never wait.

    python benchmarks/busy.py               # training; about five minutes, on a machine with nothing else to do
    python benchmarks/busy.py --pipeline    # `dvc repro` in a fresh copy, three times; half an hour

Compared: ppvit's choice (`ppvit.core.process.share_processors`: threads of OpenMP sleep while they wait), the libraries
as they come (they spin, some 10 ms each time), sleeping at once, and one thread; each in a process of its own,
since the libraries read the choice when they are loaded. Training: `ppvit.training.finetuning.finetune`, LoRA of rank 8
on the micro-ViT, one epoch of 320 images.
Aim: beside two busy processes the default run takes at most 3 times as long as alone; alone nothing is lost.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from inputs import configuration, copy_repository, photographs, save_random_model, write_raw
from timing import benchmark, print_table, spread

from ppvit.config import Config
from ppvit.core.process import share_processors
from ppvit.data.images import encode_png
from ppvit.places import Places

IMAGES, SMOKE_IMAGES, ROUNDS, BUSY = 320, 16, 3, 2
WAYS = {
    # what the process that is timed finds in its environment, beside nothing that names threads or waiting
    "ours": {},
    "as libraries come": {"PPVIT_BENCHMARK_PLAIN": "1"},
    "sleep at once": {"GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
# how long libgomp spins by itself, which goes before the policy: for processes that this script does not start itself
PLAIN_PIPELINE = {"GOMP_SPINCOUNT": "300000"}


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that never wait."""
    with ExitStack() as stack:
        for _ in range(processes):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


def clean(more: dict[str, str], scratch: Path) -> dict[str, str]:
    """This environment without what the user chose for threads."""
    names = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return {**kept, "PPVIT_SCRATCH": str(scratch), "PPVIT_WORKERS": "", **more}


def prepare(folder: Path, images: int) -> tuple[Config, Places]:
    """Encrypted images and a micro-ViT with random weights."""
    from ppvit.models import MICRO
    from ppvit.verbs import encrypt

    config = configuration(folder, "finetune.epochs=1")
    places = Places.of(config, root=folder)
    encoded = [encode_png(image) for image in photographs(images, 32)]
    write_raw(places.raw, encoded, encoded[:10], "png")
    encrypt.run(config, places)
    save_random_model(config, places, **MICRO)
    return config, places


def train(folder: Path) -> dict[str, float]:
    """One epoch in this process: images a second, and seconds of processor time an image."""
    if not os.environ.get("PPVIT_BENCHMARK_PLAIN"):
        share_processors()
    from ppvit.data.batches import EncryptedImages
    from ppvit.training.finetuning import finetune

    config = configuration(folder, "finetune.epochs=1")
    places = Places.of(config, root=folder)
    dataset, start = EncryptedImages(places.encrypted, "train"), time.process_time()
    finetuned = finetune(config.finetune, config.adversarial, places.encrypted, places.adapted)
    finetuned.written()
    spent = time.process_time() - start
    return {"images": finetuned.values["images_per_second"], "processor": 1000 * spent / len(dataset)}


def train_apart(folder: Path, way: str) -> dict[str, float]:
    command, environment = [sys.executable, __file__, "--train", str(folder)], clean(WAYS[way], folder / "scratch")
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def training(smoke: bool) -> None:
    """The table of training."""
    measured: dict[tuple[str, int], list[dict[str, float]]] = {}
    ways = list(WAYS)[:2] if smoke else list(WAYS)
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as name:
        folder = Path(name)
        prepare(folder, SMOKE_IMAGES if smoke else IMAGES)
        for _ in range(1 if smoke else ROUNDS):
            for processes in (0, BUSY):
                for way in ways:
                    with busy(processes):
                        found = train(folder) if smoke else train_apart(folder, way)
                    measured.setdefault((way, processes), []).append(found)
    figures = {
        (*at, what): np.array([each[what] for each in found])
        for at, found in measured.items()
        for what in ("images", "processor")
    }
    rows = []
    for processes in (0, BUSY):
        plain = figures["as libraries come", processes, "images"]
        for way in ways:
            images, spent = figures[way, processes, "images"], figures[way, processes, "processor"]
            ratios = spread(images / plain), spread(images / figures[way, 0, "images"])
            rows.append([str(processes), way, spread(images, 1), *ratios, spread(spent, 0)])
    print("training: median (min-max)")
    header = ["busy processes beside", "threads", "images/s", "times as it comes", "times alone", "processor ms/image"]
    print_table(header, rows)


def default_run(smoke: bool) -> None:
    """The table of the default run; as a smoke test, of its first stages."""
    runs = {
        "ours, alone": ({}, 0),
        "as libraries come, alone": (PLAIN_PIPELINE, 0),
        f"ours, beside {BUSY} busy processes": ({}, BUSY),
    }
    targets = ["settings", "download"] if smoke else []
    rows, first = [], 0.0
    for name, (environment, processes) in runs.items():
        with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as scratch:
            copy = Path(scratch) / "ppvit"
            copy_repository(copy)
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            with busy(processes):
                subprocess.run(
                    [sys.executable, "-m", "dvc", "repro", "--quiet", *targets],
                    cwd=copy, env=clean(environment, Path(scratch) / "scratch"), check=True,
                )  # fmt: skip
                seconds = time.perf_counter() - start
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        first = first or seconds
        rows.append([name, f"{seconds:.0f}", f"{seconds / first:.2f}", f"{processor:.0f}"])
        print(f"{name}: {seconds:.0f} s", file=sys.stderr)
    print_table(["`dvc repro` of a fresh copy", "s", "times the first", "processor s"], rows)


def main(smoke: bool, pipeline: bool) -> None:
    if pipeline:
        default_run(smoke)
    else:
        training(smoke)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        print(json.dumps(train(Path(sys.argv[2]))))
    else:
        benchmark(main, ("--pipeline", {"action": "store_true", "help": "`dvc repro` instead of training"}))
