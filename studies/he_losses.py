"""Which loss trains a head best under encryption: the sigmoid's cubic or a parabola for the softmax, at equal depth.

    python studies/he_losses.py                     # digits, pixels; a few seconds
    python studies/he_losses.py <folder of assets>  # and photographs, features of ViT-Ti at 224 px; minutes

Both take four levels an iteration. The arithmetic is the plain twin's. Every split: 1024 images to train on, the rest
in halves; the learning rate is chosen on the first half, accuracy is that on the other. The exact softmax is shown for
what a better approximation could still gain. The results are in `he_losses.md`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import softmax
from sklearn.datasets import load_digits

from ppvit.config import load
from ppvit.he.parties.features import backbone_of, extract, fit_whitening
from ppvit.he.tiles.softmax import coefficients
from ppvit.he.tiles.twin import C1, C3, momentum
from ppvit.pipeline import STAGES
from ppvit.places import Places

IMAGES, COMPONENTS, SPLITS = 1024, 63, 20
RATES = (1, 2, 4, 6, 8, 12)
VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
PHOTOGRAPHS = {"cifar10": ("cifar10_jpeg_q75.tar.xz", 2200), "pneumoniamnist": ("pneumoniamnist.npz", 1500)}


def photographs(assets: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 192) and labels (n,) of the first training images of a set, in seeded order."""
    archive, count = PHOTOGRAPHS[name]
    settings = {
        "dataset.name": name,
        "dataset.path": assets / archive,
        "dataset.image_size": 224,
        "cipher.block_size": 16,
        "model.name": VIT,
        "model.checkpoint": assets / f"{VIT}.safetensors",
    }
    config = load(None, [f"{each}={value}" for each, value in settings.items()])
    with tempfile.TemporaryDirectory() as folder:
        places = Places.of(config, Path(folder))
        STAGES["download"].run(config, places)
        return extract(config, places.raw, "train", count, backbone_of(config, places.embedded))


def train(features: np.ndarray, truth: np.ndarray, iterations: int, rate: float, probability: Callable) -> tuple:
    """Nesterov's method; returns weights (C, d) and max |z|."""
    weights = ahead = np.zeros((truth.shape[1], features.shape[1]))
    largest = 0.0
    for iteration in range(iterations):
        logits = features @ ahead.T
        largest = max(largest, float(np.abs(logits).max()))
        stepped = ahead + rate / len(features) * (truth - probability(logits)).T @ features
        weights, ahead = stepped, stepped + momentum(iteration) * (stepped - weights)
    return weights, largest


def losses(classes: int) -> dict[str, Callable]:
    k0, k1, k2 = coefficients(classes)
    return {
        "cubic": lambda z: 0.5 + C1 * z + C3 * z**3,
        "parabola": lambda z: k0 + k1 * z + k2 * z**2,
        "exact softmax": lambda z: softmax(z, axis=1),
    }


def splits(features: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Whitened features and labels, training and other images, of every split."""
    made = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(labels))
        kept, others = order[:IMAGES], order[IMAGES:]
        whitening = fit_whitening(features[kept], COMPONENTS)
        made.append((whitening(features[kept]), labels[kept], whitening(features[others]), labels[others]))
    return made


def accuracies(made: list, classes: int, iterations: int, rate: float, probability: Callable) -> tuple:
    """Accuracy in percent on both halves, (splits, 2), and max |z|."""
    rows, largest = [], 0.0
    for x, y, other_x, other_y in made:
        weights, reached = train(x, np.eye(classes)[y], iterations, rate, probability)
        right = np.argmax(other_x @ weights.T, axis=1) == other_y
        rows.append([100 * half.mean() for half in np.array_split(right, 2)])
        largest = max(largest, reached)
    return np.array(rows), largest


def main() -> None:
    digits = load_digits()
    sets = {"digits": (digits.data / 16, digits.target)}
    for assets in map(Path, sys.argv[1:2]):
        sets |= {name: photographs(assets, name) for name in PHOTOGRAPHS}
    header = ("features", "T", "loss", "rate", "test %", "against cubic", "max abs z")
    for cells in (header, ["---"] * len(header)):
        print("| " + " | ".join(cells) + " |")
    for name, (features, labels) in sets.items():
        classes, made = int(labels.max()) + 1, splits(features, labels)
        for iterations in (2, 3, 4, 5):
            cubic = None
            for loss, probability in losses(classes).items():
                tried = {rate: accuracies(made, classes, iterations, rate, probability) for rate in RATES}
                rate = max(RATES, key=lambda each, tried=tried: tried[each][0][:, 0].mean())
                test = tried[rate][0][:, 1]
                gain = test - (test if cubic is None else cubic)
                against = "" if cubic is None else f"{gain.mean():+.2f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.2f}"
                cubic = test if cubic is None else cubic
                cells = (name, iterations, loss, rate, f"{test.mean():.2f}", against, f"{tried[rate][1]:.1f}")
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
