"""Too high a learning rate is told before anything is encrypted, with one that works; then any number of iterations."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from test_he import digits, encrypted_training

from ppvit.core.errors import UsageError
from ppvit.he.parties import divergence
from ppvit.he.parties.score import accuracy_percent
from ppvit.he.tiles import Tiles, twin
from ppvit.he.tiles.plan import make_plan
from ppvit.he.volley_revolver import VolleyRevolver
from ppvit.he.volley_revolver import plan as published

pytest.importorskip("tenseal")


def suggested_rate(plan, x, labels) -> float:
    with pytest.raises(UsageError) as told:
        divergence.check(Tiles(plan), twin.train(plan, x, labels), x, labels)
    assert str(told.value).startswith("training diverges: scores reach ")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 250  # no number of hundreds of digits
    return float(re.search(r"set he.learning_rate=([0-9.e-]+), from `keys` on", str(told.value))[1])


@pytest.mark.parametrize("iterations", [20, 50, 200])
@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_divergence_is_refused_with_a_rate_at_which_any_number_of_iterations_is_fine(iterations, loss):
    x, labels, test, test_labels = digits(512, 40)
    plan = make_plan(512, 41, 10, iterations, "refresh", 16.0, loss=loss)
    rate = suggested_rate(plan, x, labels)
    assert rate < 16
    clear = twin.train(make_plan(512, 41, 10, iterations, "refresh", rate, loss=loss), x, labels)
    assert clear.safe
    assert accuracy_percent(test @ clear.weights.T, test_labels) > 85


def test_fifty_encrypted_iterations_at_the_suggested_rate_equal_the_twin(tmp_path, monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "1")
    x, labels, _, _ = digits(60, 7)
    x, labels = x[labels < 2], labels[labels < 2]
    plan = make_plan(len(x), 8, 2, 50, "refresh", 64.0)
    rate = suggested_rate(plan, x, labels)
    plan = make_plan(len(x), 8, 2, 50, "refresh", rate)
    clear = twin.train(plan, x, labels)
    weights, _ = encrypted_training(plan, x, labels, tmp_path)
    assert np.abs(clear.weights).max() > 1
    assert np.abs(weights - clear.weights).max() < 5e-3


def test_between_safe_and_worthless_there_is_a_warning(capsys):
    x, labels, _, _ = digits(256, 40)
    plan = make_plan(256, 41, 10, 3, learning_rate=16.0)
    clear = twin.train(plan, x, labels)
    assert 12 < clear.largest_score < 120
    divergence.check(Tiles(plan), clear, x, labels)
    told = capsys.readouterr().err
    assert told.startswith(f"warning: scores reach {clear.largest_score:.3g}, beyond 12 the polynomial leaves")
    assert told.count("\n") == 1


def test_no_rate_helps_where_the_chain_has_no_room_for_it():
    x, labels, _, _ = digits(256, 40)
    plan = replace(make_plan(256, 41, 10, 20, "refresh", 4.0), learning_rate=1e9)
    with pytest.raises(UsageError, match="no he.learning_rate down to .* helps; lower he.iterations"):
        divergence.check(Tiles(plan), twin.train(plan, x, labels), x, labels)


def test_the_published_algorithm_far_beyond_its_cubic_is_refused():
    x, labels, _, _ = digits(128, 20)
    algorithm = VolleyRevolver(published.make_plan(128, 21, 10, 3))
    calm = algorithm.twin(x, labels)
    divergence.check(algorithm, calm, x, labels)
    for score in (1e9, np.inf, np.nan):
        with pytest.raises(UsageError, match="set he.algorithm=tiles"):
            divergence.check(algorithm, replace(calm, largest_scores=[score]), x, labels)


@pytest.mark.filterwarnings("error")
def test_twins_that_overflow_do_so_silently_and_say_so():
    x, labels, _, _ = digits(64, 20)
    assert VolleyRevolver(published.make_plan(64, 21, 10, 3)).twin(1e120 * (1 + x), labels).diverged
    plan = replace(make_plan(64, 21, 10, 20, "refresh"), learning_rate=1e300)
    assert twin.train(plan, x, labels).diverged
