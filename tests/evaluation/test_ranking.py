"""Areas under the curves against scikit-learn, their intervals against pairs of images and SciPy's bootstrap."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics
from torch.nn import functional

from ppvit.core.measures import wilson_percent
from ppvit.evaluation.ranking import Ranking
from ppvit.evaluation.scores import log_odds


def ranked(scores, carried, kept: int = 2**26) -> Ranking:
    ranking = Ranking(scores.shape[1], kept)
    for start in range(0, len(scores), 7):  # in batches, as the stage does
        ranking.add(scores[start : start + 7], carried[start : start + 7])
    return ranking


def drawn(images: int, classes: int, seed: int, shift: float = 1.0):
    """Logits and classes; the right class stands ``shift`` higher."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return logits + shift * functional.one_hot(labels, classes), labels


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 60), st.integers(0, 99), st.booleans())
def test_areas_are_those_of_their_definitions(classes, images, seed, ties):
    """Pair by pair, and threshold by threshold."""
    logits, labels = drawn(images, classes, seed)
    scores, carried = logits.round() if ties else logits, functional.one_hot(labels, classes).bool()
    for number, area in enumerate(ranked(scores, carried).areas):
        truth = carried[:, number].numpy()
        if truth.all() or not truth.any():
            assert area is None
            continue
        own, others = (scores[each, number].float().numpy() for each in (truth, ~truth))
        pairs = [(one > other) + (one == other) / 2 for one, other in itertools.product(own, others)]
        assert area.auroc == pytest.approx(np.mean(pairs), abs=1e-12)
        above = {level: ((own >= level).sum(), (others >= level).sum()) for level in own}
        precision = [above[level][0] / sum(above[level]) for level in own]  # where each image of the class stands
        assert area.average_precision == pytest.approx(np.mean(precision), abs=1e-12)


def test_areas_are_not_rounded_to_float32():
    """Of 1,001 images the lowest is of the class: 1 - 1/1000 of all pairs, by hand; and all pairs where it is first."""
    scores = torch.arange(1001.0)[:, None]
    for place, area in ((1000, 1.0), (999, 0.999), (0, 0.0)):
        (found,) = ranked(scores, scores == place).areas
        assert found.auroc == pytest.approx(area, rel=0, abs=1e-12)
        assert found.average_precision == pytest.approx(1 / (1001 - place), rel=0, abs=1e-12)


def test_large_scores_are_no_ties():
    """torchmetrics alone says 0.5 of these logits, whose sigmoids all round to 1 (its issue 2819)."""
    scores = torch.tensor([[98.1], [98.5], [99.0], [97.0]], dtype=torch.float64)
    (area,) = ranked(scores, torch.tensor([[False], [True], [True], [False]])).areas
    assert area.auroc == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(20, 200), st.integers(0, 99), st.integers(0, 300))
def test_bins_are_as_near_as_they_say(classes, images, seed, kept):
    """Also where a part of the scores came before there were too many."""
    logits, labels = drawn(images, classes, seed)
    carried = functional.one_hot(labels, classes).bool()
    exact, binned = ranked(logits, carried).summary(), ranked(logits, carried, kept).summary()
    if "auroc" not in exact or images * classes <= kept:
        assert binned == exact
        return
    assert 0 <= binned["auroc_error"] <= 0.5
    assert abs(binned["auroc"] - exact["auroc"]) <= binned["auroc_error"] + 1e-6
    assert binned["auroc_low"] <= binned["auroc"] <= binned["auroc_high"]


def test_bins_take_the_same_memory_for_any_number_of_images():
    ranking = Ranking(10, kept=1000)
    logits, labels = drawn(64, 10, 0)
    for _ in range(50):
        ranking.add(log_odds(logits), functional.one_hot(labels, 10).bool())
        assert sum(batch.numel() for batch in ranking._scores) <= 1000
    (said,) = ranking.remarks()
    assert said.startswith("3,200 images and 10 classes are more scores than are kept: AUROC and average precision are")
    assert ranking.summary()["auroc"] == pytest.approx(
        metrics.roc_auc_score(labels, logits.softmax(1), multi_class="ovr"), abs=ranking.error() + 0.01
    )


def _delong(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Area and its variance by the definition of DeLong et al. (1988), Eqs. 1 to 5: one pair of images at a time."""
    own, others = scores[truth], scores[~truth]
    wins = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in others] for x in own])
    area = wins.mean()
    spread = ((wins.mean(1) - area) ** 2).sum() / (len(own) - 1) / len(own)
    return area, spread + ((wins.mean(0) - area) ** 2).sum() / (len(others) - 1) / len(others)


@pytest.mark.parametrize("ties", [False, True])
def test_the_interval_of_one_class_is_delongs(ties):
    scores, labels = drawn(80, 2, 3)
    scores = scores[:, 1:].round() if ties else scores[:, 1:]
    area, variance = _delong(scores[:, 0].numpy(), labels.numpy() == 1)
    reach = stats.norm.ppf(0.975) * math.sqrt(variance) / (area * (1 - area))
    expected = [1 / (1 + math.exp(-(math.log(area / (1 - area)) + side * reach))) for side in (-1, 1)]
    assert ranked(scores, (labels == 1)[:, None]).interval() == pytest.approx(expected, abs=1e-6)
    # two classes are one question, asked twice
    both = torch.cat([-scores, scores], 1)
    assert ranked(both, functional.one_hot(labels, 2).bool()).interval() == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_a_mean_is_that_of_the_bootstrap():
    """Classes err together, which an interval for each of them alone would not tell."""
    logits, labels = drawn(300, 3, 1)
    odds, carried = log_odds(logits), functional.one_hot(labels, 3).bool()
    low, high = ranked(odds, carried).interval()

    def mean_area(chosen):
        return np.mean([metrics.roc_auc_score(carried[chosen, each], odds[chosen, each]) for each in range(3)])

    found = stats.bootstrap(
        (np.arange(300),), mean_area, n_resamples=200, vectorized=False, method="percentile", random_state=0
    )
    assert (high - low) / 2 == pytest.approx(1.96 * found.standard_error, rel=0.15)
    assert (low, high) == pytest.approx(tuple(found.confidence_interval), abs=0.01)


def test_an_interval_without_a_mistake_has_no_width():
    scores = torch.tensor([[2.0], [1.0], [-1.0]])
    assert ranked(scores, torch.tensor([[True], [True], [False]])).interval() == (1, 1)


@given(st.integers(2, 6), st.integers(0, 99))
def test_log_odds_are_those_of_the_softmax(classes, seed):
    logits, _ = drawn(4, classes, seed, shift=5.0)
    expected = torch.logit(logits.softmax(1))
    torch.testing.assert_close(log_odds(logits), expected, rtol=1e-9, atol=1e-9)
    # and of what the softmax rounds to 1, by hand: z - log of the sum over the others
    far = torch.tensor([[900.0, 1.0, 2.0]], dtype=torch.float64)
    assert log_odds(far)[0, 0].item() == pytest.approx(900 - math.log(math.exp(1) + math.exp(2)), rel=1e-12)
    assert torch.isfinite(log_odds(far)).all()


@pytest.mark.parametrize(("hits", "images"), [(0, 10), (3, 10), (40, 100), (81, 263), (10, 10)])
def test_the_interval_of_a_share_is_wilsons(hits, images):
    """Wilson 1927: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    z, p, n = 1.959963984540054, hits / images, images
    centre, spread = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [100 * (centre + side * spread) / (1 + z**2 / n) for side in (-1, 1)]
    assert wilson_percent(hits, images) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("hits", "images", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_the_interval_of_a_share_is_the_published_one(hits, images, low, high):
    """Newcombe, Statistics in Medicine 1998, Table I, method 3."""
    assert wilson_percent(hits, images) == pytest.approx((low, high), abs=0.005)


def medmnist(task: str, truth: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """AUC and ACC as the text of Yang et al. (2023) and the evaluator of the package ``medmnist`` define them."""
    if task == "multi-label":
        areas = [metrics.roc_auc_score(truth[:, label], scores[:, label]) for label in range(truth.shape[1])]
        return float(np.mean(areas)), float(np.mean((scores > 0.5) == truth))
    if task == "binary":
        area = np.mean(
            [(x > y) + (x == y) / 2 for x, y in itertools.product(scores[truth == 1, 1], scores[truth == 0, 1])]
        )
        return float(area), float(np.mean((scores[:, 1] > 0.5) == truth))
    areas = [metrics.roc_auc_score(truth == each, scores[:, each]) for each in range(scores.shape[1])]
    return float(np.mean(areas)), float(np.mean(scores.argmax(1) == truth))  # also of the grades of RetinaMNIST


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multi-class", 9), ("ordinal", 5), ("multi-label", 14)])
def test_auroc_and_accuracy_are_those_of_medmnist(task, classes):
    from ppvit.data.labels import ClassNumbers, LabelSets
    from ppvit.evaluation.scoring import scores_for

    logits, labels = drawn(300, classes, 5)
    labelling, targets, scores = ClassNumbers(classes), labels, logits.softmax(1)
    if task == "multi-label":
        labelling, scores = LabelSets(classes), logits.sigmoid()
        targets = (torch.rand(300, classes, generator=torch.Generator().manual_seed(1)) < logits.sigmoid()).float()
    counted = scores_for(labelling)
    for start in range(0, 300, 64):
        counted.add(logits[start : start + 64], targets[start : start + 64])
    auc, acc = medmnist(task, targets.numpy(), scores.numpy())
    assert counted.summary()["auroc"] == pytest.approx(auc, abs=1e-6)
    assert counted.summary()["accuracy_percent"] == pytest.approx(100 * acc)
