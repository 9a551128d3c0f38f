"""One cipher of the study: fine-tuned adapted and unadapted, then attacked.

dvc repro ciphers/dvc.yaml:run@etc        (in studies/; or, here: ../../stages/python run.py etc)
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ppvit.verbs import adapt, audit, encrypt, evaluate, finetune
from ppvit import places as paths
from ppvit.config import Config, load
from ppvit.data.plain import BATCH, PlainImages
from ppvit.core.errors import one_line_errors
from ppvit.core.files import read_json, write_json
from ppvit.ciphers.keyed import load_cipher
from ppvit.core.results import Stopwatch

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent.parent
EPOCHS = 5
CONVMIXER = [
    "model.name=convmixer_micro_patch4",
    "finetune.batch_norm=affine",  # it starts from random weights
    "model.pretrained=false",
    "model.adaptive_matrix=true",
    "adapt.enabled=false",
    "finetune.method=full",
    "finetune.learning_rate=0.002",
    "finetune.epochs=10",
]


def main(variant: str) -> None:
    settings = yaml.safe_load((HERE / "variants.yaml").read_text(encoding="utf-8"))["variants"][variant]
    overrides = [f"cipher.name={variant.split('-')[0]}", f"finetune.epochs={EPOCHS}", *settings["overrides"]]
    config = load(overrides=overrides)
    values: dict[str, Any] = {"cipher": variant}
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as name:
        work = Path(name)
        encrypt.run(config, paths.raw(config), work / "encrypted")
        values |= costs(config, work / "encrypted")
        exact = load_cipher(config).affine_map() is not None
        rounds = {"unadapted": False} | ({"adapted": True} if exact else {})
        for model, enabled in rounds.items():
            way = config.adapt.model_copy(update={"enabled": enabled})
            values |= train(config.model_copy(update={"adapt": way}), work, model)
        if settings["convmixer"]:
            values |= train(load(overrides=[*overrides, *CONVMIXER]), work, "convmixer")
        attacked = "adapted" if exact else "unadapted"
        audit.run(
            config,
            raw=paths.raw(config),
            encrypted=work / "encrypted",
            embedded=paths.PRETRAINED,
            adapted=work / attacked,
            finetuned=work / f"{attacked}-finetuned",
            pictures=work / "pictures",
            result=work / "audit.json",
        )
        values |= leaks(read_json(work / "audit.json", "audit"))
    write_json(HERE / "results" / f"{variant}.json", values)


def costs(config: Config, encrypted: Path) -> dict[str, float]:
    """Time of the cipher alone on images in memory, and size of the shards."""
    cipher = load_cipher(config)
    plain = PlainImages(paths.raw(config), "train", config.dataset, config.encrypt)
    images = plain.read(0, BATCH)
    cipher.encrypt(images[:1], plain.ids(0, 1))  # derives what depends on the key alone
    watch, count = Stopwatch(), 0
    while watch.seconds() < 1:
        cipher.encrypt(images, plain.ids(0, BATCH))
        count += len(images)
    manifest = read_json(encrypted / "manifest.json", "encrypt")
    size = sum(path.stat().st_size for path in encrypted.glob("*.tar"))
    return {
        "encrypted_images_per_second": round(count / watch.seconds()),
        "bytes_per_image": round(size / sum(manifest["counts"].values())),
    }


def train(config: Config, work: Path, model: str) -> dict[str, float]:
    """Adapt or not, fine-tune, evaluate."""
    adapted, finetuned = work / model, work / f"{model}-finetuned"
    adapt.run(config, paths.PRETRAINED, adapted, work / "adapt.json")
    finetune.run(config.finetune, work / "encrypted", adapted, finetuned, work / "finetune.json")
    evaluate.run(config.evaluate, work / "encrypted", adapted, finetuned, work / "plots", work / "evaluate.json")
    result = {
        f"{model}_accuracy_percent": read_json(work / "evaluate.json", "evaluate")["accuracy_percent"],
        f"{model}_parameters": read_json(work / "adapt.json", "adapt")["parameters"],
        f"{model}_trained_parameters": read_json(work / "finetune.json", "finetune")["trainable_parameters"],
    }
    difference = read_json(work / "adapt.json", "adapt").get("max_logit_difference_float64")
    return result | ({"max_logit_difference_float64": difference} if model == "adapted" else {})


def leaks(result: dict[str, Any]) -> dict[str, Any]:
    """Of every attack the key, the similarity and the images told apart; and the verdict."""
    endings = ("_key_recovered_percent", "_ssim", "_top1_percent", "_key_bits", "_images_needed", "_strength_percent")
    kept = {name: value for name, value in result.items() if name.endswith(endings) or name.startswith("ssim_of_")}
    return kept | {"verdict": result["verdict"]}


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 2:
            sys.exit("usage: run.py <variant of variants.yaml>")
        with contextlib.chdir(ROOT):  # where the paths of ppvit.places and params.yaml start
            main(sys.argv[1])
        print(json.dumps(read_json(HERE / "results" / f"{sys.argv[1]}.json", "run"), indent=1))
