"""What runs start from: a small ResNet that learnt to name rendered glyphs, and ResNets pre-trained without labels."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from study import ROOT, STUDIES, Study, expanded

from ppvit.config import Config, load
from ppvit.core.files import atomic_output
from ppvit.pipeline import STAGES
from ppvit.places import Places

FOLDER = STUDIES / "data" / "loft"
OUT = FOLDER / "resnet10_micro_cifar.safetensors"
STEPS, BATCH, LEARNING_RATE = 1500, 64, 3e-3


def prepare(axes: dict[str, Any]) -> None:
    """Train what a variant starts from, where it is not there yet.

    Glyphs take two minutes on a core; pre-training without labels takes longer, see README.md.
    """
    model, _, method = axes["model"].partition("_")
    if method:
        out = FOLDER / f"{axes['size']}-{axes['model']}.safetensors"
        if not out.exists():
            pretrain_without_labels(axes["size"], axes["model"], out)
    elif model == "resnet" and not OUT.exists():
        pretrain()


def config_without_labels(size: str, model: str) -> Config:
    """Images of the size, the network, and what ``variants.yaml`` sets below ``pretraining``."""
    study = Study(STUDIES / "loft")
    own, method = study.plan["pretraining"][size], model.partition("_")[2]
    network = study.plan["settings"]["model"][model]
    network = network["all"] if isinstance(network, dict) else network
    overrides = [
        *(each for each in study.shared["size"][size] if each.startswith("dataset.")),
        *own["all"],
        *own.get("own", []),
        *own.get(method, []),
        *(each for each in network if not each.startswith("model.checkpoint")),
        f"pretrain.method={method}",
    ]
    return load(None, [expanded(each) for each in overrides])


def pretrain_without_labels(size: str, model: str, out: Path) -> None:
    """Run the pipeline up to ``pretrain``; weights stay, and beside them the curves of training."""
    config = config_without_labels(size, model)
    print(f"{out.stem}: {config.pretrain.epochs} epochs without labels", file=sys.stderr, flush=True)
    raw = STUDIES / "data" / size / "raw"
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as folder:
        places = Places.of(config, Path(folder), raw=raw, embedded=Places.of(config, ROOT).embedded)
        for stage in ("download", "encrypt", "adapt", "pretrain"):
            if stage != "download" or not (raw / "dataset.json").exists():
                STAGES[stage].run(config, places)
        FOLDER.mkdir(parents=True, exist_ok=True)
        kept = {".csv": places.results / "pretrain" / "curves.csv", out.suffix: places.pretrained / "model.safetensors"}
        for suffix, path in kept.items():  # the weights last: where they are, all is there
            with atomic_output(out.with_suffix(suffix)) as temporary:
                temporary.write_bytes(path.read_bytes())


def pretrain() -> None:
    import timm
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional
    from tqdm import tqdm

    import ppvit.models  # noqa: F401  its models become timm models
    from ppvit.training import glyphs
    from ppvit.training.pretraining import learning_rate_factor

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = timm.create_model("resnet10_micro_cifar", num_classes=len(glyphs.CLASSES)).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, STEPS))
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    for _ in (bar := tqdm(range(STEPS), disable=None)):
        images, labels = glyphs.render(BATCH, generator)
        loss = functional.cross_entropy(model((images / 255 - mean) / std), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(OUT) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)
