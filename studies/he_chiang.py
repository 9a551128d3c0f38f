"""Features of Chiang (arXiv 2304.03807): a file of weights that stands in for torchvision's, and a check of real ones.

python studies/he_chiang.py stand-in regnet.pth     # RegNetX-400MF of torchvision, drawn at random
python studies/he_chiang.py check data/raw/mnist regnet_x_400mf-adf1edd5.pth     # after `ppvit download`

The check prints figures of the features beside those of the author's program, which uses torchvision's first weights
(IMAGENET1K_V1), pixels in 0..1 that are not normalised, and PIL's bilinear resizing to 224.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SETTINGS = (
    "dataset.name=mnist",
    "dataset.first_images=128",
    "dataset.val_fraction=0",
    "dataset.image_size=224",
    "encrypt.resize_filter=bilinear",
    "model.name=regnetx_004_tv",
    "model.mean=none",
    "model.std=none",
)
# of the author's program, 128 images and 400 features; the order of the images does not matter here
EXPECTED = {"largest": 12.528, "mean": 0.6083, "zeros, %": 6.9}
CLASSES = [18, 20, 10, 13, 13, 6, 13, 13, 9, 13]


def stand_in(path: Path) -> None:
    """Weights with torchvision's names, and batch statistics of noise, so that features keep their size."""
    import torch
    from torchvision.models import regnet_x_400mf

    torch.manual_seed(0)
    model = regnet_x_400mf(weights=None).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over the batches below
    with torch.no_grad():
        for _ in range(4):
            model(torch.rand(16, 3, 64, 64))
    torch.save(model.state_dict(), path)


def check(raw: Path, weights: Path) -> None:
    """Print figures of the features beside the author's."""
    from ppvit.config import load
    from ppvit.he.parties.features import backbone_of, extract

    config = load(None, [*SETTINGS, f"model.checkpoint={weights}"])
    features, labels = extract(config, raw, "train", 128, backbone_of(config, raw))
    found = [features.max(), features.mean(), 100 * (features == 0).mean()]
    for (name, expected), value in zip(EXPECTED.items(), found, strict=True):
        print(f"{name}: {value:.4f}, expected {expected}")
    print(f"images of each class: {np.bincount(labels, minlength=10).tolist()}, expected {CLASSES}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["stand-in"] and len(sys.argv) == 3:
        stand_in(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["check"] and len(sys.argv) == 4:
        check(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit("usage: he_chiang.py stand-in <file> | check <folder that download wrote> <weights>")
