"""The paper's algorithm: its arithmetic on plain numbers, and the same on ciphertexts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ppvit.core.errors import PpvitError, UsageError
from ppvit.he.ckks.arithmetic import CiphertextArithmetic
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.ckks.session import Session
from ppvit.he.volley_revolver import VolleyRevolver, layout, quadratic_gradient
from ppvit.he.volley_revolver import plan as published


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


def test_a_pixel_that_is_always_black_is_never_stepped_on() -> None:
    """By the formula its step were 1e10 and the noise of an encrypted zero a weight; plain training is the same."""
    features = np.array([[0.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
    assert quadratic_gradient.column_steps(features)[0] == 0
    assert (quadratic_gradient.column_steps(features)[1:] > 0).all()
    trained = quadratic_gradient.train(features, np.array([0, 1]), 2, 3)
    np.testing.assert_array_equal(trained.weights[:, 0], quadratic_gradient.INITIAL_WEIGHT)


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


class PlainArithmetic:
    """Arrays in place of ciphertexts; counts what would be a key switch."""

    def __init__(self) -> None:
        self.key_switches = 0
        self.rotations: set[int] = set()

    def add(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b

    def multiply(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.key_switches += 1
        return a * b

    add_plain = add

    def multiply_plain(self, a: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return a * vector

    def rotate(self, a: np.ndarray, steps: int) -> np.ndarray:
        self.key_switches += 1
        self.rotations.add(steps)
        return np.roll(a, -steps)


def problem(samples: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative features with the constant, and labels."""
    random = np.random.default_rng(seed)
    return with_constant(random.uniform(0, 1, (samples, width - 1))), random.integers(0, classes, samples)


@given(st.integers(1, 40), st.integers(2, 20), st.integers(2, 6), st.sampled_from([512, 1024]), st.integers(1, 3))
def test_layout_computes_what_the_twin_computes(samples, width, classes, slots, iterations) -> None:
    features, labels = problem(samples, width, classes)
    grid = layout.make_layout(samples, width, classes, slots)
    upload = layout.prepare(grid, features, labels)
    arithmetic = PlainArithmetic()
    weights = grid.unpack(layout.train(arithmetic, grid, upload, iterations))
    twin = quadratic_gradient.train(features, labels, classes, iterations).weights
    np.testing.assert_allclose(weights, twin, rtol=1e-9, atol=1e-12)
    assert arithmetic.rotations <= set(grid.rotations())


def test_published_size_uploads_and_costs_what_the_paper_says() -> None:
    """128 x 401 x 10 in 32,768 slots: 64 rows of 512, six ciphertexts.

    Key switches an iteration, counted in the author's program: 63 turns of the weights; for 2 x 64 pairs one product
    and 9 + 9 rotations; cubic 2 x 2; copies 2 x 6; for 10 classes 2 products, 2 turns (not the first) and 63 row sums;
    steps 1.
    """
    features, labels = problem(128, 401, 10)
    grid = layout.make_layout(128, 401, 10, slots=32768)
    upload = layout.prepare(grid, features, labels)
    assert (grid.rows, grid.columns) == (64, 512)
    assert len([*upload.samples, *upload.labels, upload.weights, upload.steps]) == 6
    arithmetic = PlainArithmetic()
    layout.train(arithmetic, grid, upload, iterations=1)
    assert arithmetic.key_switches == 63 + 2 * 64 * 19 + 2 * 2 + 2 * 6 + (10 * (2 + 63) + 9 * 2) + 1


def test_classes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"20 classes of 400 features .* 4096 slots"):
        layout.make_layout(128, 400, 20, slots=4096)


def test_encrypted_training_equals_the_twin() -> None:
    """One iteration, two groups of samples; a second takes the largest ring and half a minute."""
    pytest.importorskip("tenseal")
    samples, width, classes, iterations = 4, 4, 2, 1
    features, labels = problem(samples, width, classes)
    parameters = layout.choose_chain(iterations)
    grid = replace(layout.make_layout(samples, width, classes, parameters.slots), rows=2)
    owner = SecretSession(parameters)
    owner.add_evaluation_keys(grid.rotations())
    trainer = Session(parameters, owner.relinearisation, owner.rotation)  # without the secret key
    upload = layout.prepare(grid, features, labels)
    trained = layout.train(CiphertextArithmetic(trainer), grid, upload.each(owner.encrypt), iterations)
    twin = quadratic_gradient.train(features, labels, classes, iterations)
    np.testing.assert_allclose(grid.unpack(owner.decrypt(trained)), twin.weights, atol=1e-3)
    counted = PlainArithmetic()
    layout.train(counted, grid, upload, iterations)
    assert trainer.key_switches == counted.key_switches


class Depth:
    """Arithmetic on the number of products that lie behind a value."""

    def add(self, a: int, b: int) -> int:
        return max(a, b)

    def multiply(self, a: int, b: int) -> int:
        return max(a, b) + 1

    def add_plain(self, a: int, vector: np.ndarray) -> int:
        return a

    def multiply_plain(self, a: int, vector: np.ndarray) -> int:
        return a + 1

    def rotate(self, a: int, steps: int) -> int:
        return a


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_chain_is_just_as_long_as_the_training_is_deep(iterations: int) -> None:
    grid = layout.make_layout(6, 5, 3, slots=128)
    upload = layout.prepare(grid, *problem(6, 5, 3)).each(lambda _: 0)
    depth = layout.train(Depth(), grid, upload, iterations)
    assert depth == layout.choose_chain(iterations).top_level


@pytest.mark.parametrize(("iterations", "ring"), [(1, 16384), (2, 32768), (3, 32768)])
def test_chains_fit_into_the_cap(iterations: int, ring: int) -> None:
    parameters = layout.choose_chain(iterations)  # refuses more than the cap by itself
    assert (parameters.ring, parameters.top_level) == (ring, 8 * iterations + 1)


def test_paper_scale_for_two_iterations() -> None:
    assert layout.choose_chain(2).scale == 2.0**40


def test_iterations_beyond_the_cap_are_refused() -> None:
    with pytest.raises(UsageError, match="4 iterations take 33 levels"):
        layout.choose_chain(4)


def test_plan_counts_key_switches_and_foretells_the_upload() -> None:
    plan = published.make_plan(128, 401, 10, 2)
    counted = PlainArithmetic()
    features, labels = problem(128, 401, 10)
    upload = layout.prepare(plan.layout, features, labels)
    layout.train(counted, plan.layout, upload, 2)
    assert plan.key_switches() == counted.key_switches
    names = [name for name, _ in VolleyRevolver(plan).upload_slots(features, labels)]
    assert len(set(names)) == len(names) == 2 * 4 + 2
    assert plan.upload_bytes() == len(names) * plan.parameters.ciphertext_bytes() // 2  # half of each is a seed
    assert published.read_plan(plan.as_record(), "plan.json") == plan


def test_too_little_memory_is_found_before_any_work() -> None:
    with pytest.raises(PpvitError, match=r"5\.\d GiB of memory, most of it for keys, and 1\.0 GiB are free"):
        VolleyRevolver(published.make_plan(128, 401, 10, 2)).require_memory(2**30)
