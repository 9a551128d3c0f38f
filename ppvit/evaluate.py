"""Key-free evaluation on encrypted test shards: accuracy, confusion, cross-entropy, calibration."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ppvit.batches import EncryptedImages, load_batches, require_same_key
from ppvit.config import Evaluate
from ppvit.errors import PpvitError
from ppvit.files import atomic_output
from ppvit.models import model_input, read_record
from ppvit.results import Stopwatch, write_result
from ppvit.tuners import finetuned_id, load_finetuned

BATCH = 64


class Scores:
    """Sums over predictions from which all figures follow; memory does not grow with the number of images.

    Args:
        num_classes: C.
        calibration_bins: equal-width bins of the largest probability.

    Attributes:
        confusion: int64, (C, C), rows are the true classes.
    """

    def __init__(self, num_classes: int, calibration_bins: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self._cross_entropy = 0.0
        self._bins = np.zeros((3, calibration_bins))  # images, summed confidence, right answers

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (n, C) in any float dtype, labels int64 (n,).

        Raises:
            PpvitError: a logit is not a number.
        """
        logits = logits.double().cpu()
        labels = labels.cpu()
        if not torch.isfinite(logits).all():
            raise PpvitError("the model's logits are not numbers; fine-tune with a lower finetune.learning_rate")
        self._cross_entropy += functional.cross_entropy(logits, labels, reduction="sum").item()
        confidence, predicted = functional.softmax(logits, 1).max(1)
        np.add.at(self.confusion, (labels.numpy(), predicted.numpy()), 1)
        bins = self._bins.shape[1]
        places = np.clip(np.ceil(confidence.numpy() * bins).astype(int) - 1, 0, bins - 1)  # bins ((b-1)/B, b/B]
        right = (predicted == labels).numpy()
        for row, weights in enumerate((None, confidence.numpy(), right)):
            self._bins[row] += np.bincount(places, weights, minlength=bins)

    @property
    def images(self) -> int:
        """Number of predictions."""
        return int(self.confusion.sum())

    def accuracy_percent(self) -> float:
        """Share of right predictions."""
        return 100.0 * np.trace(self.confusion) / self.images

    def class_accuracy_percent(self) -> np.ndarray:
        """Share of right predictions of every class (recall), (C,); NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            return 100.0 * np.diag(self.confusion) / self.confusion.sum(1)

    def cross_entropy(self) -> float:
        """Mean negative log-likelihood in nats."""
        return self._cross_entropy / self.images

    def calibration_error_percent(self) -> float:
        """Expected calibration error (Guo et al., arXiv 1706.04599, Eq. 3)."""
        return 100.0 * np.abs(self._bins[2] - self._bins[1]).sum() / self.images

    def calibration_rows(self) -> list[tuple[float, float, int]]:
        """Mean confidence in percent, accuracy in percent and images of every bin that has any."""
        filled = self._bins[:, self._bins[0] > 0].T
        return [(100 * confidence / count, 100 * right / count, int(count)) for count, confidence, right in filled]

    def summary(self) -> dict[str, Any]:
        """The figures as result files name them."""
        return {
            "accuracy_percent": self.accuracy_percent(),
            "class_accuracy_min_percent": float(np.nanmin(self.class_accuracy_percent())),
            "cross_entropy": self.cross_entropy(),
            "calibration_error_percent": self.calibration_error_percent(),
            "images": self.images,
        }


def device() -> torch.device:
    """The GPU where there is one, unless ``ACCELERATE_USE_CPU`` says otherwise (as accelerate reads it)."""
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    torch.backends.cudnn.allow_tf32 = False  # convolutions would compute with 10 bits of mantissa; figures are fp32's
    return torch.device("cuda" if torch.cuda.is_available() and not use_cpu else "cpu")


def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], scores: Scores) -> Scores:
    """Run a model over batches of images, uint8 (n, 3, H, W), and count its predictions in ``scores``."""
    place = device()
    model = model.to(place).eval()
    with torch.inference_mode():
        for images, labels in batches:
            scores.add(model(model_input(images.to(place))), labels)
    return scores


def run(settings: Evaluate, encrypted: Path, adapted: Path, finetuned: Path, plots: Path, result: Path) -> None:
    """Evaluate the fine-tuned model on the encrypted test shards.

    Args:
        settings: the ``evaluate`` section.
        encrypted, adapted, finetuned: folders that the earlier stages wrote.
        plots: folder for ``confusion.csv``, ``class_accuracy.csv`` and ``calibration.csv``; classes are numbers here,
            their names stay with the owner.
        result: JSON of the figures.

    Raises:
        PpvitError: shards or models missing, damaged or not made for each other.
    """
    watch = Stopwatch()
    dataset = EncryptedImages(encrypted, "test")
    require_same_key(dataset.manifest, read_record(adapted, "adapt"))
    model = load_finetuned(adapted, finetuned, dataset.num_classes)
    order = [np.arange(start, min(start + BATCH, len(dataset))) for start in range(0, len(dataset), BATCH)]
    batches = tqdm(
        load_batches(dataset, order), total=len(order), desc="evaluate", unit="batch", disable=None, file=sys.stderr
    )
    scores = score(model, batches, Scores(dataset.num_classes, settings.calibration_bins))
    with atomic_output(plots, directory=True) as folder:
        write_plots(folder, scores)
    write_result(result, {**scores.summary(), "finetuned_id": finetuned_id(finetuned)}, watch)


def write_plots(folder: Path, scores: Scores) -> None:
    """Tables for ``dvc plots``: one row a (true, predicted) image pair, a class, a calibration bin."""
    pairs = [
        (actual, predicted)
        for (actual, predicted), count in np.ndenumerate(scores.confusion)
        for _ in range(count)  # DVC's confusion template counts rows
    ]
    _write_csv(folder / "confusion.csv", ("actual", "predicted"), pairs)
    accuracies = enumerate(scores.class_accuracy_percent().tolist())
    _write_csv(folder / "class_accuracy.csv", ("class", "accuracy_percent"), accuracies)
    header = ("confidence_percent", "accuracy_percent", "images")
    _write_csv(folder / "calibration.csv", header, scores.calibration_rows())


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
