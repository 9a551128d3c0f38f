"""Why LE's AdaptNet is worse than none on digits: the same trained network under three kinds of batch statistics.

    python studies/adaptnet.py

Prints, for `le` and `etc` at `tiny` of nagamori2023, accuracy on test and training images with running statistics as
they are, with those of all positions pooled, and with each position's own, of 120 images, as in training.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import Run
from study import STUDIES, Study
from torch import nn
from torch.nn import functional

from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.models import model_input
from ppvit.models.adaptnet import LeAdaptNet
from ppvit.tuners import load_finetuned

BATCH = 120


@torch.inference_mode()
def accuracy_percent(model: nn.Module, images: EncryptedImages) -> float:
    order = [np.arange(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)]
    batches = load_batches(images, order)
    right = sum(int((model(model_input(pixels)).argmax(1) == labels).sum()) for pixels, labels in batches)
    return 100 * right / len(images)


@torch.inference_mode()
def pool(model: nn.Module, front: LeAdaptNet, images: EncryptedImages) -> None:
    """Running statistics of all positions of all images, as they reach the AdaptNet."""
    found: list[torch.Tensor] = []
    hook = front.register_forward_pre_hook(lambda _, given: found.append(front._cut(given[0]).flatten(0, 1)))
    accuracy_percent(model, images)
    hook.remove()
    features = functional.linear(torch.cat(found), front.weight)
    front.bn.running_mean.copy_(features.mean(0))
    front.bn.running_var.copy_(features.var(0))


def measure(run: Run) -> None:
    run.encrypt()
    run.stage("adapt")
    run.stage("finetune")
    splits = [EncryptedImages(run.places.encrypted, split) for split in ("test", "train")]
    model = load_finetuned(run.places.adapted, run.places.finetuned, splits[0].num_classes)
    (front,) = (each for each in model.modules() if isinstance(each, LeAdaptNet))

    def tell(statistics: str) -> None:
        test, train = (accuracy_percent(model, split) for split in splits)
        print(f"{run.variant.name}, {statistics}: {test:.1f} % of test, {train:.1f} % of training images", flush=True)

    tell("running statistics as they are")
    pool(model, front, splits[1])
    tell("those of all positions")
    front.bn.train()
    front.bn.momentum = 0.0
    tell("each position's own")


def main() -> None:
    for variant in Study(STUDIES / "nagamori2023").variants("tiny"):
        if variant["images"] in ("le", "etc") and variant["method"] == "pyramidnet_le":
            with tempfile.TemporaryDirectory(prefix="ppvit-study-") as folder:
                measure(Run(variant, Path(folder)))


if __name__ == "__main__":
    main()
