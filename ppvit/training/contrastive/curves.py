"""How good features are while a network is pre-trained: nearest neighbours, a linear classifier, and their spread.

Labels are looked at here alone, and choose nothing. Source of both protocols: solo-learn (da Costa et al., arXiv
2106.01775), whose linear classifier is trained by SGD; ours is logistic regression on standardised features, to its
optimum, which has no learning rate to choose.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from ppvit.core.device import device
from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.evasion.pgd import frozen
from ppvit.models import model_input
from ppvit.training.contrastive.networks import features_of
from ppvit.training.endings import Diverged
from ppvit.training.selection import Selection

NEIGHBOURS, SHARPNESS = 20, 0.07  # of a vote by exp(cosine similarity / 0.07)
MOST_IMAGES = 10_000  # of training that are looked at
STRENGTH = 0.1  # C of the logistic regression
BATCH = 256
KNN, LINEAR, SPREAD = "val_knn_accuracy_percent", "val_linear_accuracy_percent", "val_spread_percent"
COLLAPSED = 5.0  # percent of spread; ViTs with random weights have about 15


class Curves(Selection):
    """Measures a network every few epochs, and keeps the last weights.

    Args:
        network: whose features are measured, in eval mode.
        train, val: splits; nothing is measured where val holds no image, or where images carry several labels.
        every: epochs between two measurements; the last epoch is always measured.
        epochs: of the run.
    """

    def __init__(
        self, network: nn.Module, train: EncryptedImages, val: EncryptedImages, every: int, epochs: int
    ) -> None:
        super().__init__()
        self._network, self._train, self._val = network, train, val
        self._every, self._epochs = every, epochs

    def end_epoch(self, epoch: int, model: nn.Module) -> dict[str, float]:
        super().end_epoch(epoch, model)
        due = epoch % self._every == 0 or epoch == self._epochs
        if not due or not len(self._val) or self._val.labels().ndim != 1:
            return {}
        bank, labels = self._features(self._train)
        queries, truth = self._features(self._val)
        answers = {KNN: neighbours(bank, labels, queries), LINEAR: linear(bank, labels, queries)}
        right = {name: 100 * float(np.mean(answer == truth)) for name, answer in answers.items()}
        return right | {SPREAD: 100 * spread(queries)}

    def _features(self, images: EncryptedImages) -> tuple[np.ndarray, np.ndarray]:
        rows = features_of_all(self._network, images, MOST_IMAGES)
        return rows, images.labels()[: len(rows)]


def features_of_all(network: nn.Module, images: EncryptedImages, most: int) -> np.ndarray:
    """Features of the first images, in eval mode, float32 (at most ``most``, D).

    Raises:
        Diverged: they are not numbers.
    """
    order = np.arange(min(len(images), most))
    batches = np.split(order, range(BATCH, len(order), BATCH))
    with frozen(network), torch.no_grad():
        inputs = (model_input(batch.to(device())) for batch, _ in load_batches(images, batches))
        rows = np.concatenate([features_of(network, batch).cpu().numpy() for batch in inputs])
    if not np.isfinite(rows).all():
        raise Diverged("the features of images are not numbers; lower pretrain.learning_rate")
    return rows


def neighbours(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Classes by vote of the nearest features, int64 (m,).

    Args:
        bank, labels: float32 (n, D) and int64 (n,).
        queries: float32 (m, D).
    """
    voting = KNeighborsClassifier(
        min(NEIGHBOURS, len(bank)), weights=lambda far: np.exp((1 - far) / SHARPNESS), metric="cosine"
    )
    answers: np.ndarray = voting.fit(bank.astype(np.float64), labels).predict(queries.astype(np.float64))
    return answers


def spread(features: np.ndarray) -> float:
    """How far directions of features are from being all the same: 0, collapsed, to 1, none preferred.

    The root of the summed variance of features of length 1. A probe that standardises, as :func:`linear` does, hardly
    shows a collapse. Source: Chen and He, arXiv 2011.10566, Fig. 2, who look at a mean deviation.

    Args:
        features: float32 (n, D).
    """
    rows = features.astype(np.float64)
    directions = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return float(np.sqrt(directions.var(axis=0).sum()))


def linear(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Classes by logistic regression on standardised features; arguments as of :func:`neighbours`."""
    if len(np.unique(labels)) < 2:
        return np.full(len(queries), labels[0])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500))
    answers: np.ndarray = probe.fit(bank, labels).predict(queries)
    return answers
