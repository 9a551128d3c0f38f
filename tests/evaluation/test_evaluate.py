"""Evaluation figures against scikit-learn and the formula of the calibration error."""

import csv

import numpy as np
import pytest
import torch
from conftest import read_result
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from test_finetune import make_world, places_of, train

from ppvit.core.errors import PpvitError
from ppvit.evaluation.scores import Scores
from ppvit.report.class_claims import disagreement, sums_of
from ppvit.verbs import evaluate


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), st.integers(1, 60), st.integers(1, 20), st.integers(0, 99))
def test_figures_agree_with_scikit_learn(classes, images, bins, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    scores = Scores(classes, bins)
    for start in range(0, images, 7):  # in batches, as the stage does
        scores.add(logits[start : start + 7], labels[start : start + 7])
    probabilities, predicted = logits.softmax(1).numpy(), logits.argmax(1).numpy()
    names = list(range(classes))
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(labels, predicted, labels=names))
    assert scores.accuracy_percent() == pytest.approx(100 * metrics.accuracy_score(labels, predicted))
    assert scores.cross_entropy() == pytest.approx(metrics.log_loss(labels, probabilities, labels=names))
    assert scores.calibration_error_percent() == pytest.approx(
        100 * _calibration_error(probabilities, labels.numpy(), bins)
    )
    recalls = metrics.recall_score(labels, predicted, labels=names, average=None, zero_division=np.nan)
    np.testing.assert_allclose(scores.class_accuracy_percent(), 100 * recalls)
    summary = scores.summary()
    there = metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert summary["balanced_accuracy_percent"] == pytest.approx(100 * there)
    assert summary["f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert ("top5_accuracy_percent" in summary) == (classes > 5)
    if classes > 5:
        top5 = metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=names)
        assert summary["top5_accuracy_percent"] == pytest.approx(100 * top5)
    # and what an honest trainer writes passes the owner's bounds
    for name, value in sums_of(scores.confusion).items():
        assert summary[name] == pytest.approx(value)
    assert disagreement(summary) is None
    scored = [each for each in names if 0 < (labels == each).sum() < images]
    assert ("auroc" in summary) == bool(scored)
    if scored:
        truth = np.eye(classes)[labels][:, scored]
        areas = {"auroc": metrics.roc_auc_score, "average_precision": metrics.average_precision_score}
        for name, area in areas.items():
            expected = np.mean([area(truth[:, i], probabilities[:, each]) for i, each in enumerate(scored)])
            assert summary[name] == pytest.approx(expected, abs=1e-6)


def _calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Guo et al., Eq. 3: bins ((m-1)/M, m/M] of the largest probability, one at a time."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def test_classes_without_images_and_a_single_class():
    scores = Scores(3)
    scores.add(torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), torch.tensor([0, 0]))
    np.testing.assert_array_equal(scores.class_accuracy_percent(), [50, np.nan, np.nan])
    assert scores.summary()["class_accuracy_min_percent"] == 50
    single = Scores(1)
    single.add(torch.tensor([[3.0], [4.0]]), torch.tensor([0, 0]))
    assert (single.accuracy_percent(), single.cross_entropy(), single.confusion.tolist()) == (100, 0, [[2]])


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(PpvitError, match="logits are not numbers"):
        Scores(2, 15).add(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))


def test_plot_tables(tmp_path):
    scores = Scores(2, 10)
    scores.add(torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 1, 0]))
    scores.write_plots(tmp_path)
    with open(tmp_path / "confusion.csv") as file:
        assert sorted(map(tuple, csv.reader(file))) == [("0", "0"), ("0", "1"), ("1", "1"), ("actual", "predicted")]
    with open(tmp_path / "class_accuracy.csv") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "accuracy_percent", "auroc", "average_precision"]
    expected = [[0, 50, 0.75, 5 / 6], [1, 100, 0.75, 0.5]]  # of two images of class 0 one stands beside that of class 1
    np.testing.assert_allclose(np.array(rows, float), expected, rtol=1e-6)
    with open(tmp_path / "calibration.csv") as file:
        (row,) = csv.DictReader(file)  # all three have probability 1 / (1 + e^-2)
    assert float(row["confidence_percent"]) == pytest.approx(100 / (1 + np.exp(-2)))
    assert float(row["accuracy_percent"]) == pytest.approx(200 / 3)


def test_run_scores_the_saved_adapter(tmp_path):
    config = make_world(tmp_path, learning_rate=5e-2)
    train(tmp_path, config)
    places = places_of(tmp_path)
    evaluate.run(config, places)
    result = read_result(places, "evaluate")
    assert result["images"] == 12
    assert result["accuracy_percent"] == pytest.approx(100 * round(result["accuracy_percent"] * 12 / 100) / 12)
    assert (places.plots / "confusion.csv").exists()


@pytest.mark.parametrize(("folder", "record"), [("adapted", "config.json"), ("finetuned", "ppvit.json")])
def test_a_model_of_another_key_is_refused(tmp_path, folder, record):
    config = make_world(tmp_path, epochs=1)
    train(tmp_path, config)
    path = tmp_path / folder / record
    path.write_text(path.read_text().replace(config.cipher.key_id, "pk-0123456789abcdef"))
    with pytest.raises(PpvitError, match=rf"encrypted/test was made with cipher\.key_id pk-.*{folder} with pk-0123"):
        evaluate.run(config, places_of(tmp_path))
    assert not places_of(tmp_path).result("evaluate").exists()
