"""Scores of several labels against scikit-learn."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from ppvit.core.errors import PpvitError
from ppvit.data.labels import ClassNumbers, LabelSets
from ppvit.evaluation.label_scores import LabelScores
from ppvit.evaluation.scores import Scores
from ppvit.evaluation.scoring import scores_for
from ppvit.report.label_claims import exact_match_bounds, sums, wrong_label


def drawn(labels: int, images: int, seed: int, rounded: bool = False):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, labels, generator=generator, dtype=torch.float64)
    targets = (torch.rand(images, labels, generator=generator) < 0.3).float()
    return (logits.round() if rounded else logits), targets  # rounded: with ties


def counted(logits, targets, bins: int = 15) -> LabelScores:
    scores = LabelScores(logits.shape[1], bins)
    for start in range(0, len(logits), 7):  # in batches, as the stage does
        scores.add(logits[start : start + 7], targets[start : start + 7])
    return scores


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(2, 60), st.integers(0, 99), st.booleans())
def test_figures_agree_with_scikit_learn(labels, images, seed, rounded):
    logits, targets = drawn(labels, images, seed, rounded)
    scores = counted(logits, targets)
    truth, said, ranks = targets.numpy().astype(int), (logits > 0).numpy().astype(int), logits.numpy()
    scored = [label for label in range(labels) if 0 < truth[:, label].sum() < images]
    rows = scores.rows
    for label, row in enumerate(rows):
        if label in scored:
            assert row.auroc == pytest.approx(metrics.roc_auc_score(truth[:, label], ranks[:, label]), abs=1e-6)
            expected = metrics.average_precision_score(truth[:, label], ranks[:, label])
            assert row.average_precision == pytest.approx(expected, abs=1e-6)
        else:
            assert (row.auroc, row.average_precision) == (None, None)
        assert row.f1 == pytest.approx(metrics.f1_score(truth[:, label], said[:, label], zero_division=0))
        assert row.accuracy(images) == pytest.approx(metrics.accuracy_score(truth[:, label], said[:, label]))
    # and what an honest trainer writes passes the owner's bounds
    carried = truth.sum(0).astype(np.int64)
    assert wrong_label(rows, carried, images) is None
    if not scored:
        return
    summary = scores.summary()
    assert summary["auroc"] == pytest.approx(
        metrics.roc_auc_score(truth[:, scored], ranks[:, scored], average="macro"), abs=1e-6
    )
    assert summary["exact_match_percent"] == pytest.approx(100 * np.mean((truth == said).all(1)))
    assert summary["accuracy_percent"] == pytest.approx(100 - 100 * metrics.hamming_loss(truth, said))
    losses = [metrics.log_loss(truth[:, k], 1 / (1 + np.exp(-ranks[:, k])), labels=[0, 1]) for k in range(labels)]
    assert summary["cross_entropy"] == pytest.approx(np.mean(losses))
    for name, value in sums(rows, images).items():
        assert summary[name] == pytest.approx(value)
    least, most = exact_match_bounds(rows, images)
    assert least - 1e-9 <= summary["exact_match_percent"] <= most + 1e-9


def test_a_batch_of_small_logits_is_not_taken_for_probabilities():
    # torchmetrics takes values in 0..1 for probabilities, batch by batch; logits of 0.2 mean yes
    logits = torch.tensor([[0.2], [0.9], [-3.0], [-2.0]])
    scores = LabelScores(1)
    scores.add(logits[:2], torch.tensor([[1.0], [1.0]]))
    scores.add(logits[2:], torch.tensor([[0.0], [0.0]]))
    assert scores.summary()["accuracy_percent"] == 100
    assert scores.summary()["auroc"] == 1


def test_calibration_is_of_the_probability_of_a_label():
    scores = LabelScores(2, 10)
    scores.add(torch.logit(torch.tensor([[0.95, 0.25], [0.95, 0.25]])), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    # two answers of 95 % of which one is true, two of 25 % of which none is
    assert scores.summary()["calibration_error_percent"] == pytest.approx(100 * (0.45 + 0.25) / 2)


def test_what_cannot_be_measured_is_said(tmp_path):
    scores = LabelScores(3)
    scores.add(torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    no, every = scores.remarks()
    assert no == "no test image of the 2 carries label 1: its AUROC is not measured"
    assert every.startswith("every test image of the 2 carries label 2")
    assert scores.summary()["scored_labels"] == 1
    scores.write_plots(tmp_path)
    with open(tmp_path / "labels.csv") as file:
        header, first, second, third = csv.reader(file)
    assert header == ["label", "positives", "predicted", "true_positives", "auroc", "average_precision"]
    assert (first, second, third) == (
        ["0", "1", "1", "1", "1.0", "1.0"],
        ["1", "0", "0", "0", "", ""],
        ["2", "2", "2", "2", "", ""],
    )


def test_no_label_to_rank_is_refused():
    scores = LabelScores(2)
    scores.add(torch.zeros(3, 2), torch.tensor([[1.0, 0.0]] * 3))
    with pytest.raises(PpvitError, match="no label is carried by some of the 3 test images and not by others"):
        scores.summary()


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(PpvitError, match="logits are not numbers"):
        LabelScores(2).add(torch.tensor([[float("inf"), 0.0]]), torch.zeros(1, 2))


def test_the_task_chooses_the_scores():
    assert isinstance(scores_for(LabelSets(3)), LabelScores)
    assert isinstance(scores_for(ClassNumbers(3)), Scores)
