"""Early stopping with `refresh`: the owner judges held-out images and ends the training with the best weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import make_config, make_places, read_result, write_raw
from test_he import reference

from ppvit.config import He
from ppvit.core.errors import UsageError
from ppvit.core.files import write_json
from ppvit.core.results import read_times
from ppvit.he.algorithms import ALGORITHMS
from ppvit.he.parties.features import extract, fit_whitening, unchanged
from ppvit.he.parties.stopping import Judge, held_out_images, read_stopped, write_stopped
from ppvit.pipeline import STAGES

COMPONENTS = 6


def judge(patience: int) -> Judge:
    """Of four images whose scores are the weights themselves: each row of weights is a class, each column an image."""
    return Judge(np.eye(4), np.array([0, 0, 1, 1]), patience)


def weights(right: int) -> np.ndarray:
    """For two classes, with so many of the four images right."""
    truth = np.array([0, 0, 1, 1])
    given = np.where(np.arange(4) < right, truth, 1 - truth)
    return np.eye(2)[given].T


@pytest.mark.parametrize(
    ("patience", "right", "after", "best"),
    [
        (1, [2, 3, 3, 4], 3, 2),  # no better is not better
        (2, [2, 3, 1, 4, 0, 1], 6, 4),  # the third was worse, and the fourth came in time
        (3, [4, 0, 0, 0], 4, 1),
        (2, [0, 1, 2, 3, 4], None, 5),
        (0, [4, 0, 0, 0, 0], None, 1),  # never
    ],
)
def test_training_ends_when_nothing_got_better_for_long_enough(patience, right, after, best):
    follower = judge(patience)
    counts = enumerate(right, 1)
    ended = next((n for n, count in counts if follower.ends(n, weights(count), [np.array([count])])), None)
    assert ended == after
    assert follower.iterations == best
    assert follower.slots[0][0] == right[best - 1]


def test_a_note_counts_for_the_run_that_it_is_of_alone(tmp_path):
    manifest = {"schema": 1, "fingerprint": "he-" + "0" * 16, "files": {}, "run": "a" * 16}
    (tmp_path / "weights").mkdir()
    write_json(tmp_path / "weights" / "manifest.json", manifest)
    assert read_stopped(tmp_path, tmp_path / "weights") is None
    write_stopped(tmp_path, "a" * 16, 5, 3)
    found = read_stopped(tmp_path, tmp_path / "weights")
    assert (found.after, found.iterations) == (5, 3)
    write_stopped(tmp_path, "b" * 16, 5, 3)
    assert read_stopped(tmp_path, tmp_path / "weights") is None


def test_without_the_owners_help_nobody_can_stop():
    with pytest.raises(ValueError, match="he.patience 2: with he.mode=levelled nobody sees .*; set he.mode=refresh"):
        He(patience=2)
    assert [name for name, each in ALGORITHMS.items() if "patience" in each.reads] == ["tiles"]


def test_no_validation_images_are_told_before_anything_is_encrypted(tmp_path):
    config = configured(patience=2)
    raw = write_raw(tmp_path / "raw", {"train": 9, "test": 3})
    places = make_places(tmp_path, config, raw=raw)
    with pytest.raises(UsageError, match="he.patience 2 needs validation images .*; set dataset.val_fraction above 0"):
        held_out_images(config, places, unchanged(768), np.zeros(9, np.int64))


def configured(**settings: object):
    he = {"features": "pixels", "components": COMPONENTS, "train_images": 90, "mode": "refresh", **settings}
    return make_config(dataset={"image_size": 16}, he=he)


def test_stage_ends_where_the_same_training_in_the_clear_would(tmp_path: Path):
    pytest.importorskip("tenseal")
    patience, rate = 2, 0.5
    config = configured(patience=patience, iterations=30, learning_rate=rate)
    raw = write_raw(tmp_path / "raw", {"train": 90, "val": 30, "test": 60})
    places = make_places(tmp_path, config, raw=raw)
    STAGES["he"].run(config, places)
    result = read_result(places, "he")
    train, labels = extract(config, raw, "train", 90, None)
    held_out, answers = extract(config, raw, "val", 90, None)
    assert len(held_out) == 30
    whitening = fit_whitening(train, COMPONENTS)
    figures: list[float] = []
    while len(figures) - int(np.argmax(figures or [0])) <= patience:  # iterations since the best one
        learned = reference(whitening(train), labels, 3, len(figures) + 1, rate, 0.0)
        figures.append(float((np.argmax(whitening(held_out) @ learned.T, axis=1) == answers).mean()))
    best = int(np.argmax(figures)) + 1
    assert (result["iterations"], result["trained_iterations"]) == (best, best + patience)
    measured = read_times(tmp_path / "results" / "he.json")
    assert measured["max_weight_error"] < 5e-3  # against the twin after the best iteration
