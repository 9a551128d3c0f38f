"""The parabola for the softmax: what it follows, and the same on ciphertexts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from ppvit.he.ckks.scheme import Parameters
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.tiles import softmax
from ppvit.he.tiles.plan import make_plan


def test_softmax_parabola_is_the_mean_probability_of_a_class() -> None:
    """Against an average by bins over fresh logits, where most logits lie."""
    k0, k1, k2 = softmax.coefficients(10, spread=1.0)
    random = np.random.default_rng(5)
    logits = random.normal(size=(200_000, 10)) * random.uniform(0, 1, (200_000, 1))
    logits -= logits.mean(axis=1, keepdims=True)
    probability = special.softmax(logits, axis=1)
    for z in (-1.0, -0.5, 0.0, 0.5, 1.0):
        near = np.abs(logits - z) < 0.02
        assert k0 + k1 * z + k2 * z * z == pytest.approx(probability[near].mean(), abs=0.02)
    assert probability[np.abs(logits - 1) < 0.02].mean() > 0.15  # so that 0.02 is no empty bound


def test_softmax_of_two_classes_has_no_even_part() -> None:
    k0, _, k2 = softmax.coefficients(2)
    assert (k0, k2) == pytest.approx((0.5, 0.0), abs=1e-9)


def test_on_ciphertexts_it_is_the_parabola_in_lane_0_and_nothing_elsewhere() -> None:
    pytest.importorskip("tenseal")
    plan = make_plan(64, 9, 5, 2)
    owner = SecretSession(Parameters(8192, (50, 34, 36, 35, 50), 34))  # primes that differ from the scale
    owner.add_evaluation_keys([])
    scores = np.random.default_rng(0).uniform(-6, 6, (plan.rows, plan.tile, plan.lanes))
    fresh = owner.encrypt(scores.ravel())
    result = softmax.masked_parabola(owner, plan, fresh)
    k0, k1, k2 = softmax.coefficients(5)
    expected = np.zeros_like(scores)
    expected[:, 0, :5] = (k0 - 0.5 + k1 * scores + k2 * scores**2)[:, 0, :5]
    np.testing.assert_allclose(owner.decrypt(result), expected.ravel(), atol=1e-3)
    assert result.scale == owner.parameters.scale
    assert owner.level(fresh) - owner.level(result) == 2
    assert owner.key_switches == 1
