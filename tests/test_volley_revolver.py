"""The paper's algorithm: its arithmetic on plain numbers, and the same on ciphertexts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ppvit.he import quadratic_gradient


def with_constant(features: np.ndarray) -> np.ndarray:
    return np.c_[features, np.ones(len(features))]


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 6))
def test_quadratic_gradient_is_plain_ascent_on_scaled_columns(seed: int, samples: int, width: int) -> None:
    """W + b * G(W; X) on X gives the same scores as plain ascent W' + G(W'; X') on X' = X sqrt(b)."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(samples, width)) * random.uniform(0.1, 5, width)
    labels = random.integers(0, 3, samples)
    scale = np.sqrt(quadratic_gradient.column_steps(features))
    weights = quadratic_gradient.train(features, labels, 3, iterations=3, initial_weight=0.0).weights
    ours = np.zeros_like(weights)
    velocity = ours
    scaled = features * scale
    for eta, gamma in quadratic_gradient.momentum(3, samples):  # the same method, every step of length 1
        logits = scaled @ velocity.T
        sigmoid = 0.5 + quadratic_gradient.LINEAR * logits + quadratic_gradient.CUBIC * logits**3
        moved = ours + (1 + gamma) * (np.eye(3)[labels] - sigmoid).T @ scaled
        ours, velocity = (1 - eta) * moved + eta * velocity, moved
    np.testing.assert_allclose(ours * scale, weights, rtol=1e-9, atol=1e-12)


def test_gradient_is_half_that_of_the_squared_likelihood_error() -> None:
    """One iteration from 0 moves along the numerical gradient of log prod (p - 1 + y)^2, up to the factor 2."""
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(7, 4)), np.array([0, 1, 2, 0, 1, 2, 2])

    def log_likelihood(flat: np.ndarray) -> float:
        probabilities = 1 / (1 + np.exp(-features @ flat.reshape(3, 4).T))
        return float(np.log((probabilities - 1 + np.eye(3)[labels]) ** 2).sum())

    gradient = approx_fprime(np.zeros(12), log_likelihood).reshape(3, 4)
    [(eta, gamma)] = quadratic_gradient.momentum(1, 7)
    moved = quadratic_gradient.train(features, labels, 3, iterations=1, initial_weight=0.0).weights / (1 - eta)
    expected = (1 + gamma) * quadratic_gradient.column_steps(features) * gradient / 2
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-8)


def test_steps_bound_the_inverse_hessian() -> None:
    """1/b - X^T X / 4 is positive semidefinite, so that no step overshoots: the property the paper builds on."""
    features = np.random.default_rng(2).normal(size=(30, 8)) * np.geomspace(0.01, 100, 8)
    bound = np.diag(1 / quadratic_gradient.column_steps(features)) - features.T @ features / 4
    assert np.linalg.eigvalsh(bound).min() > -1e-6


def test_momentum_forgets_all_but_a_hundredth_of_the_first_step() -> None:
    (first, gamma), (second, _) = quadratic_gradient.momentum(2, 128)
    assert 1 - first == pytest.approx(0.01, rel=0.02)
    assert abs(second) < 1e-3
    assert gamma == 1 / 128


def test_raw_features_train_badly_and_conditioned_ones_well() -> None:
    """Why the paper ends at 21 %: on the same 128 images, two iterations, raw against standardised columns.

    The full optimum on the same raw columns shows that the features are not to blame.
    """
    digits = load_digits()
    order = np.random.default_rng(2).permutation(len(digits.target))
    train, test = order[:128], order[128:]

    def accuracy(features: np.ndarray) -> float:
        features = with_constant(features)
        trained = quadratic_gradient.train(features[train], digits.target[train], 10, iterations=2)
        return float((np.argmax(features[test] @ trained.weights.T, axis=1) == digits.target[test]).mean())

    raw = digits.data / 16
    standardised = (raw - raw[train].mean(axis=0)) / (raw[train].std(axis=0) + 1e-3)
    optimum = LogisticRegression(max_iter=1000).fit(raw[train], digits.target[train])
    assert accuracy(raw) < 0.5
    assert accuracy(standardised) > 0.75
    assert optimum.score(raw[test], digits.target[test]) > 0.85
