"""One run of the study: fine-tune on plain images, then attack. One process a run.

dvc repro loft/dvc.yaml:methods@tiny-vit-loft-100  (in studies/; or, here: ../../stages/python run.py tiny vit loft 100)
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from ppvit.verbs import adapt, encrypt, finetune, robustness
from ppvit import places as paths
from ppvit.config import Config, load
from ppvit.core.errors import one_line_errors
from ppvit.core.files import read_json, write_json

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent.parent
OF_TRAINING = ("trainable_parameters", "train_loss", "heldout_robust_accuracy_percent")
LEFT_OUT = ("wall_seconds", "peak_memory_bytes", "finetuned_id")  # of the attack, which is not what is compared


def configuration(size: str, model: str, method: str, labels: int) -> Config:
    """The parameters of a run; names as in ``variants.yaml``."""
    variants = yaml.safe_load((HERE / "variants.yaml").read_text(encoding="utf-8"))
    chosen, way = variants["sizes"][size], variants["methods"][method]
    overrides = [*variants["all"], *chosen["all"], *chosen["models"][model]["overrides"], *way["overrides"]]
    overrides += [*way.get(model, []), *way.get(size, []), f"finetune.epochs={chosen['epochs'][labels]}"]
    overrides = [text.replace("$PPVIT_ASSETS", os.environ.get("PPVIT_ASSETS", "assets")) for text in overrides]
    config = load(ROOT / "params.yaml", overrides)
    fraction = config.dataset.train_fraction * labels / 100
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"train_fraction": fraction})})


def measure(config: Config, raw: Path) -> dict[str, Any]:
    """Train, then attack."""
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as name:
        work = Path(name)
        os.environ["PPVIT_SCRATCH"] = str(work / "scratch")  # what a killed run left would make times wrong
        places = (work / "encrypted", work / "adapted", work / "finetuned")
        encrypt.run(config, raw, places[0])
        adapt.run(config, paths.PRETRAINED, places[1], work / "adapt.json")
        started = time.process_time()
        finetune.run(config.finetune, *places, work / "finetune.json", adversarial=config.adversarial)
        trained_seconds = time.process_time() - started  # unlike the wall's, hardly changed by other work
        robustness.run(config.robustness, *places, work / "curve", work / "robustness.json")
        trained, attacked = read_json(work / "finetune.json", "run"), read_json(work / "robustness.json", "run")
        images = read_json(places[0] / "manifest.json", "run")["counts"]["train"]
        curve = (work / "curve" / "curve.csv").read_text(encoding="utf-8").split()[1:]
    return {
        "train_images": images,
        "train_cpu_seconds": round(trained_seconds, 1),
        **{name: trained[name] for name in OF_TRAINING if name in trained},
        **{name: value for name, value in attacked.items() if name not in LEFT_OUT},
        "curve": {epsilon: float(accuracy) for epsilon, accuracy in (line.split(",") for line in curve)},
    }


def main(size: str, model: str, method: str, labels: int) -> None:
    with contextlib.chdir(ROOT):  # where the paths of ppvit.places and params.yaml start
        values = measure(configuration(size, model, method, labels), HERE.parent / "data" / size / "raw")
    write_json(HERE / "results" / size / f"{model}-{method}-{labels}.json", values)
    found = (values[f"{name}_accuracy_percent"] for name in ("clean", "headline"))
    print(f"{size} {model} {method} {labels} %:", *(f"{value:.1f}" for value in found))


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 5 or not sys.argv[4].isdigit():
            sys.exit("usage: run.py <size> <model> <method> <percent of labels>")
        main(*sys.argv[1:4], int(sys.argv[4]))
