"""Training on one card: images/s and share of the card's peak, against a bare timm + peft loop; then a published table.

    python benchmarks/gpu.py --out DIR                             # within eight minutes, on the GPU
    python benchmarks/gpu.py --device cpu --seconds 60 --out DIR   # the same, tiny, to see that it works

Compared: `ppvit.training.loop.Training` on encrypted shards at 224 px (reading, decoding, schedule, clipping and
metrics included, checkpoints not) against forward pass, loss, backward pass and fused AdamW under bfloat16 autocast
over one batch that lies on the card already; random weights, rank 8. *Share of peak*: floating-point operations that
the method needs, counted by torch.utils.flop_counter, over what the card's data sheet promises for dense bfloat16. Then
the readers alone, gradient checkpointing, `PPVIT_COMPILE=1`, and the rows of Lin's Table I (`benchmarks/lin_rows.py`)
on as many images as the time allows. What does not fit is left out and named. DIR/gpu.json has all figures so far.

Where ppvit is not installed, PYTHONPATH=. finds it; of the packages in pyproject.toml DVC, DVCLive and matplotlib are
not needed. For the rows on CIFAR-10, PPVIT_ASSETS names the folder of studies/README.md.
Aim: at least 0.95 of the bare loop; the readers at least as fast as the fastest model.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lin_rows
import timm
import torch
from inputs import CLASSES, configuration, photographs, write_raw
from peaks import Budget, peak_flops
from steps import Repeated, read, speed
from timing import benchmark, print_table

from ppvit.core.device import device
from ppvit.core.workers import available_cpus
from ppvit.data.batches import EncryptedImages, readers_kept
from ppvit.data.images import encode_png
from ppvit.data.readers import loader_workers
from ppvit.models import MICRO, MICRO_ARCHITECTURE
from ppvit.places import Places
from ppvit.training.hardware import Arithmetic
from ppvit.verbs import encrypt

METHODS = ("full", "lora", "melo")
CARD = (  # name, timm's name and arguments, batch size
    ("ViT-Ti/16", "vit_tiny_patch16_224", {}, 512),
    ("ViT-S/16", "vit_small_patch16_224", {}, 256),
    ("ViT-B/16", "vit_base_patch16_224", {}, 128),
)
CPU = (("micro-ViT, 32 px", MICRO_ARCHITECTURE, MICRO, 16),)
CARD_IMAGES, CARD_SECONDS = 2048, 4.0  # in an epoch; of steady training in a measurement
CPU_IMAGES, CPU_SECONDS = 64, 1.0
# until which share of the time which part may begin something new; the rows have the rest
UNTIL = {"speed": 0.4, "readers": 0.5, "compiled": 0.6, "rows": 0.97}


class TimeUp(Exception):
    """The seconds are over."""


class Report:
    """What was measured and what was left out, on disk at any time."""

    def __init__(self, out: Path | None, about: dict[str, Any]) -> None:
        self._path = None if out is None else out / "gpu.json"
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Any] = {"about": about, "speed": [], "readers": {}, "rows": [], "left_out": []}
        self.write()

    def add(self, part: str, figures: Any) -> None:
        if isinstance(self.found[part], dict):
            self.found[part] |= figures
        else:
            self.found[part].append(figures)
        print(f"{part}: {figures}", flush=True)
        self.write()

    def write(self) -> None:
        if self._path is not None:
            self._path.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")


def main(smoke: bool, device: str, seconds: float, out: Path | None) -> None:
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "1"
    elif device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: torch sees no GPU; use --device cpu to see that this script runs")
    budget = Budget(seconds)
    report = Report(out, about())
    print(f"on {report.found['about']}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as folder, stopped_after(seconds):
        os.environ["PPVIT_SCRATCH"] = folder
        try:
            measure(Path(folder), budget, report, smoke)
        except TimeUp:
            report.add("left_out", f"what came after {budget.passed():.0f} s")
    show(report.found)


def measure(folder: Path, budget: Budget, report: Report, smoke: bool) -> None:
    on_card = device().type == "cuda"
    models, methods = (CARD, METHODS) if on_card else (CPU, METHODS[1:2] if smoke else METHODS)
    images, steady = (CARD_IMAGES, CARD_SECONDS) if on_card else (CPU_IMAGES, 0.0 if smoke else CPU_SECONDS)
    dataset = Repeated(shards(folder, images, 224 if on_card else 32, 16 if on_card else 4))
    cases = [(*model, method) for method in methods for model in models]
    peak = peak_flops(report.found["about"]["device"])
    with readers_kept(dataset):
        for case in cases:
            if wanted(report, budget, "speed", case):
                report.add("speed", speed(*case, dataset, steady, peak))
        known = {(each["model"], each["method"]): each["images_per_second"] for each in report.found["speed"]}
        if wanted(report, budget, "readers", ("readers",)):
            report.add("readers", read(dataset, models[-1][-1], steady))
        largest = cases[len(models) - 1]  # all of it trained
        if largest[::4] in known and wanted(report, budget, "readers", ("gradient checkpointing", *largest)):
            rate = known[largest[::4]]
            report.add("speed", speed(*largest, dataset, steady, peak, rate, gradient_checkpointing=True))
        for case in reversed(cases if on_card else ()):  # the largest model first: its seconds of compiling pay most
            if case[::4] in known and wanted(report, budget, "compiled", ("compiled", *case)):
                report.add("speed", speed(*case, dataset, steady, peak, known[case[::4]], compiled=True))
    published(folder / "rows", budget, report, smoke)


def about() -> dict[str, Any]:
    """The machine."""
    on_card = device().type == "cuda"
    card = torch.cuda.get_device_name() if on_card else "cpu"
    peak = peak_flops(card)
    return {
        "device": card,
        "peak_tflops": peak and peak / 1e12,
        "memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1) if on_card else None,
        "torch": torch.__version__,
        "cores": available_cpus(),
        "readers": loader_workers(),
        **Arithmetic.of("auto").record(),
    }


def wanted(report: Report, budget: Budget, part: str, what: tuple[Any, ...]) -> bool:
    """Whether there is time to begin something; what is left out is noted."""
    if budget.left(UNTIL[part]) > 0:
        return True
    report.add("left_out", " ".join(each for each in what if isinstance(each, str) and not timm.is_model(each)))
    return False


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Whatever goes on then, such as the compiler, is stopped."""

    def stop(*_: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again, for the first may be swallowed by a destructor
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def shards(folder: Path, count: int, size: int, patch: int) -> EncryptedImages:
    """Encrypted photographs, of which there are few, again and again."""
    config = configuration(folder, f"dataset.image_size={size}", f"cipher.block_size={patch}", "dataset.val_fraction=0")
    places = Places.of(config, root=folder)
    some = [encode_png(image) for image in photographs(min(count, 128), size)]
    write_raw(places.raw, (some[number % len(some)] for number in range(count)), some[:CLASSES], "png")
    encrypt.run(config, places)
    return EncryptedImages(places.encrypted, "train")


def published(folder: Path, budget: Budget, report: Report, smoke: bool) -> None:
    """The rows of the table, one after the other."""
    size = lin_rows.size_here() if device().type == "cuda" else "tiny"
    known = [each["images_per_second"] for each in report.found["speed"]] or [100.0]
    epochs, batch = (5, 64) if device().type == "cuda" else (1, 16)
    overrides = lin_rows.plan(size, 1.0 if smoke else budget.left(UNTIL["rows"]), min(known), epochs)
    overrides += [f"finetune.batch_size={batch}"]
    report.found["about"] |= {"rows": lin_rows.SETS[size][0], "rows_settings": "; ".join(overrides)}
    for number, row in enumerate(lin_rows.rows(folder, size, overrides)):
        report.add("rows", row)
        if smoke and number == 0:
            break
        if budget.left(UNTIL["rows"]) < row["seconds"]:
            report.add("left_out", f"rows of the table after the first {number + 1}")
            break


def show(found: dict[str, Any]) -> None:
    """The tables."""
    print()
    columns = ("model", "method", "batch", "compiled", "gradient_checkpointing", "images_per_second", "peak_percent")
    columns += ("memory_gib", "bare_images_per_second", "bare_memory_gib", "against_bare", "first_seconds")
    print_table(list(columns), [[str(each.get(column, "")) for column in columns] for each in found["speed"]])
    rates = [each["images_per_second"] for each in found["speed"]]
    if found["readers"] and rates:
        alone = found["readers"]["images_per_second"]
        print(f"\nreaders alone: {alone:,} images/s, {alone / max(rates):.2f} times what the fastest model takes")
    if found["rows"]:
        print(f"\n{found['about']['rows']}; {found['about']['rows_settings']}\n")
        lines = [
            [
                row["images"],
                row["method"],
                f"{row['accuracy_percent']:.2f}",
                str(lin_rows.PUBLISHED.get((row["images"], row["method"]), "")),
                f"{row['images_per_second']:,.0f}",
            ]
            for row in found["rows"]
        ]
        print_table(["images", "method", "percent correct", "published", "images/s"], lines)
    if found["left_out"]:
        print("\nleft out: " + "; ".join(found["left_out"]))


OPTIONS = (
    ("--device", {"choices": ["auto", "cuda", "cpu"], "default": "auto", "help": "auto: the GPU where there is one"}),
    ("--seconds", {"type": float, "default": 480.0, "help": "stop by then, with what there is (default 480)"}),
    ("--out", {"type": Path, "default": None, "help": "folder for gpu.json"}),
)


if __name__ == "__main__":
    benchmark(main, *OPTIONS)
