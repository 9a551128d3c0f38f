"""How well scores tell the images of a class from all others: areas under the curves, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

KEPT_SCORES = 2**26  # exact areas up to here, 320 MiB; the 50,000 images and 1,000 classes of ImageNet's test are below
_COUNTS = 2**24  # of images in all bins, beyond that; 128 MiB
_MOST_BINS = 2**12
_WIDEST = 32.0  # log-odds beyond it share the outermost bins: a probability within 1e-14 of 0 or 1


@dataclass(frozen=True)
class Areas:
    """One class against all others.

    Attributes:
        auroc: area under the ROC curve, ties counted half.
        average_precision: mean precision over the images of the class, highest score first (no interpolation).
    """

    auroc: float
    average_precision: float


class Ranking:
    """Scores by class, and whose images are of it.

    All scores are kept as float32, and the areas exact, up to ``KEPT_SCORES`` of them. Beyond, images are counted in
    bins of equal width in log-odds: memory stays the same however many follow, and an area is off by no more than
    half of the pairs that share a bin, which :meth:`error` tells.

    The areas are scikit-learn's, in float64; torchmetrics' are float32, and of scores outside 0..1 it takes the
    sigmoid, which makes ties of large ones (its issue 2819).

    Args:
        classes: C.
        kept: scores, over all classes, up to which areas are exact.
    """

    def __init__(self, classes: int, kept: int = KEPT_SCORES) -> None:
        self._classes, self._kept, self._images = classes, kept, 0
        self._scores: list[Tensor] = []
        self._carried: list[Tensor] = []
        self._bins: npt.NDArray[np.int64] | None = None  # others and images of a class by bin, (2, C, B)

    def add(self, log_odds: Tensor, carried: Tensor) -> None:
        """Count a batch: log-odds that an image is of a class, float (n, C), and whether it is, bool (n, C)."""
        self._images += len(log_odds)
        self._scores.append(log_odds.float())
        self._carried.append(carried)
        if self._bins is None and self._images * self._classes > self._kept:
            bins = min(_MOST_BINS, _COUNTS // (2 * self._classes))
            bins = max(2, bins - bins % 2)  # even, so that a probability of one half parts two bins
            self._bins = np.zeros((2, self._classes, bins), np.int64)
        if self._bins is not None:
            for scores, carries in zip(self._scores, self._carried, strict=True):
                self._count(self._bins, scores, carries)
            self._scores, self._carried = [], []

    def _count(self, bins: npt.NDArray[np.int64], scores: Tensor, carried: Tensor) -> None:
        width = bins.shape[2]
        places = ((scores.double() / _WIDEST + 1) / 2 * width).long().clamp(0, width - 1)
        places += width * (torch.arange(self._classes) + self._classes * carried)
        bins += torch.bincount(places.flatten(), minlength=bins.size).numpy().reshape(bins.shape)

    @cached_property
    def areas(self) -> list[Areas | None]:
        """Every class, once all images are counted; None where all images are of it, or none is."""
        return [self._areas(number) for number in range(self._classes)]

    def _areas(self, number: int) -> Areas | None:
        from sklearn.metrics import average_precision_score, roc_auc_score  # slow to load

        if self._bins is None:
            scores, carried = self._of(number)
            if not carried.any() or carried.all():
                return None
            return Areas(*(float(area(carried, scores)) for area in (roc_auc_score, average_precision_score)))
        counts = self._bins[:, number]
        if not counts.sum(1).all():
            return None
        places = np.arange(counts.shape[1])
        binned = np.repeat([0, 1], counts.shape[1]), np.tile(places, 2)
        found = [
            float(area(*binned, sample_weight=counts.ravel())) for area in (roc_auc_score, average_precision_score)
        ]
        return Areas(*found)

    def _of(self, number: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        scores, carried = ([batch[:, number] for batch in kept] for kept in (self._scores, self._carried))
        return torch.cat(scores).numpy(), torch.cat(carried).numpy()

    def summary(self) -> dict[str, float]:
        """Means over the classes that have areas, and the interval of the first, as result files name them.

        Empty where no class has any; with ``auroc_error`` where they are of bins.
        """
        found = [each for each in self.areas if each is not None]
        if not found:
            return {}
        low, high = self.interval()
        return {
            "auroc": float(np.mean([each.auroc for each in found])),
            "auroc_low": low,
            "auroc_high": high,
            "average_precision": float(np.mean([each.average_precision for each in found])),
            **({} if self._bins is None else {"auroc_error": self.error()}),
        }

    def remarks(self) -> list[str]:
        """A sentence where the areas are not exact."""
        if self._bins is None:
            return []
        return [
            f"{self._images:,} images and {self._classes:,} classes are more scores than are kept: AUROC and average "
            f"precision are of {self._bins.shape[2]:,} bins, by which the mean AUROC is at most {self.error():.2g} off"
        ]

    def error(self) -> float:
        """How far the mean AUROC may be from that of the scores themselves; 0 where they were kept."""
        if self._bins is None:
            return 0.0
        others, own = self._bins.astype(np.float64)
        pairs = others.sum(1) * own.sum(1)
        shared = (others * own).sum(1)[pairs > 0] / pairs[pairs > 0]
        return float(shared.mean() / 2)

    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean AUROC over classes that have one.

        DeLong et al., "Comparing the areas under two or more correlated receiver operating characteristic curves: a
        nonparametric approach", Biometrics 1988: the variance is that of each image's share in the area. An image has
        a share in the area of every class, and the mean is of their sums. The interval is symmetric in the log-odds of
        the area, so that it stays within 0..1; without any image ranked wrongly it has no width. From bins, in which
        images are not known, it is as wide as if all classes erred together, and wider by :meth:`error`.

        Raises:
            ValueError: no class has an area.
        """
        area = float(np.mean([each.auroc for each in self.areas if each is not None]))
        deviation = self._deviation()
        if not 0 < area < 1:
            return area, area
        reach = NormalDist().inv_cdf(0.975) * deviation / (area * (1 - area))
        low, high = (1 / (1 + math.exp(-math.log(area / (1 - area)) - side * reach)) for side in (-1, 1))
        return max(0.0, low - self.error()), min(1.0, high + self.error())

    def _deviation(self) -> float:
        """Standard deviation of the mean AUROC."""
        if self._bins is None:
            shares = [share for number in range(self._classes) if (share := _shares(*self._of(number))) is not None]
            return float(np.linalg.norm(sum(shares) / len(shares)))
        deviations = [
            math.sqrt(sum(float(count @ share**2) for count, share in zip(counts, both, strict=True)))
            for counts in self._bins.swapaxes(0, 1)
            if (both := _shares_of_bins(counts)) is not None
        ]
        return float(np.mean(deviations))


def _shares(scores: npt.NDArray[np.float32], carried: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64] | None:
    """Each image's share in the deviation of the area, (n,); the sum of their squares is its variance (DeLong)."""
    own, others = int(carried.sum()), int((~carried).sum())
    if not own or not others:
        return None
    from scipy.stats import rankdata  # slow to load

    ahead = rankdata(scores)  # of how many images of the other kind, once those of the own kind are taken away
    ahead[carried] -= rankdata(scores[carried])
    ahead[~carried] -= rankdata(scores[~carried])
    shares = np.where(carried, ahead / others, 1 - ahead / own)
    pairs = np.where(carried, own * max(1, own - 1), others * max(1, others - 1))
    found: npt.NDArray[np.float64] = (shares - shares[carried].mean()) / np.sqrt(pairs)
    return found


def _shares_of_bins(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
    """The same for an image in each bin, among the others and among those of the class, (2, B)."""
    others, own = counts.astype(np.float64)
    if not others.any() or not own.any():
        return None
    behind = 1 - (np.cumsum(own) - own / 2) / own.sum()
    ahead = (np.cumsum(others) - others / 2) / others.sum()
    shares = np.stack([behind, ahead]) - float(own @ ahead) / own.sum()
    totals = counts.sum(1, keepdims=True)
    scaled: npt.NDArray[np.float64] = shares / np.sqrt(totals * np.maximum(1, totals - 1))
    return scaled
