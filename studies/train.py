"""One run of a study: fine-tune, then evaluate. One process a run, so that its peak memory is of this run alone.

dvc repro lin2025/dvc.yaml:train@tiny-plain-melo_r4-0    (or: ../stages/python train.py lin2025 tiny plain melo_r4 0)
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from settings import ROOT, STUDIES, Run, data_folder, read_yaml

from ppvit.verbs import evaluate, finetune
from ppvit.config import Config
from ppvit.core.errors import one_line_errors
from ppvit.core.files import read_json, write_json

MEASURED = (  # of finetune's result file; speed and memory are of fine-tuning alone
    "train_loss",
    "trainable_parameters",
    "adapter_bytes",
    "peak_memory_bytes",
    "images_per_second",
    "wall_seconds",
    "device",
    "git_revision",
    "versions",
)


def measure(config: Config, data: Path, angles: bool = False) -> dict[str, Any]:
    """Train and evaluate on what ``prepare.py`` wrote into ``data``; with ``angles`` look at the trained matrices."""
    history: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as name, contextlib.chdir(ROOT):
        work = Path(name)
        os.environ["PPVIT_SCRATCH"] = str(work / "scratch")  # what a killed run left would make time and speed wrong
        places = (data / "encrypted", data / "model", work / "finetuned")
        started = time.process_time()
        finetune.run(config.finetune, *places, work / "finetune.json", lambda epoch, metrics: history.append(metrics))
        cpu_seconds = time.process_time() - started  # unlike the wall's, hardly changed by what else the machine does
        evaluate.run(config.evaluate, *places, work / "plots", work / "evaluate.json")
        trained, tested = read_json(work / "finetune.json", "train"), read_json(work / "evaluate.json", "train")
        found = {}
        if angles:
            from angles import measured_angles

            found = measured_angles(*places[1:])
    return {
        "accuracy_percent": tested["accuracy_percent"],
        "cross_entropy": tested["cross_entropy"],
        **{name: trained[name] for name in MEASURED},
        "cpu_seconds": round(cpu_seconds, 3),
        "train_loss_by_epoch": [metrics["train_loss"] for metrics in history],
        "train_accuracy_percent_by_epoch": [metrics["train_accuracy_percent"] for metrics in history],
        **found,
    }


def main(run: Run) -> None:
    angles = read_yaml(STUDIES / run.paper / "variants.yaml").get("angles", False)
    values = measure(run.config(), data_folder(run.size, run.images), angles)
    write_json(STUDIES / run.result, values)
    print(f"{run.result}: {values['accuracy_percent']:.1f} % in {values['wall_seconds']:.0f} s")


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 6 or not sys.argv[5].isdigit():
            sys.exit("usage: train.py <study> <size> <images> <method> <seed>")
        main(Run(*sys.argv[1:5], int(sys.argv[5])))
