"""Homomorphic training: the arithmetic on ciphertexts against the clear, the layout, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from ppvit.core.errors import PpvitError, UsageError
from ppvit.he.ckks.scheme import Parameters
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.ckks.session import Session
from ppvit.he.parties import owner
from ppvit.he.parties.features import fit_whitening
from ppvit.he.parties.score import accuracy_percent
from ppvit.he.tiles import Tiles, packing, softmax, twin
from ppvit.he.tiles.plan import TilesPlan, choose_chain, make_plan
from ppvit.he.volley_revolver import quadratic_gradient

pytest.importorskip("tenseal")
QUIET = SimpleNamespace(update=lambda count: None, set_postfix_str=lambda text: None)


def digits(count: int, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Whitened pixels of scikit-learn's digits: training features and labels, test features and labels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    whitening = fit_whitening(images[:count], components)
    return whitening(images[:count]), labels[:count], whitening(images[count:]), labels[count:]


def weight_slots(plan: TilesPlan, weights: np.ndarray, block: int) -> np.ndarray:
    """One block of weights, float64 (C, d), as :func:`ppvit.he.tiles.packing.weights_of` reads it: float64, (N/2,)."""
    columns = weights[:, block * plan.tile : (block + 1) * plan.tile].T
    tiles = np.zeros((plan.rows, plan.tile, plan.lanes))
    tiles[:, : len(columns), : plan.classes] = columns
    return tiles.ravel()


def reference(x: np.ndarray, labels: np.ndarray, classes: int, iterations: int, rate: float, l2: float) -> np.ndarray:
    """Nesterov's method written down class by class from the definition, without the twin's code."""
    grid = np.linspace(-8, 8, 20_001)
    c1, c3 = np.linalg.lstsq(np.stack([grid, grid**3], 1), 1 / (1 + np.exp(-grid)) - 0.5, rcond=None)[0]
    rows = []
    for label in range(classes):
        target = (labels == label).astype(float)
        old = look = np.zeros(x.shape[1])
        s = 1.0
        for _ in range(iterations):
            probability = 0.5 + c1 * (x @ look) + c3 * (x @ look) ** 3
            new = look + rate * (x.T @ (target - probability) / len(x) - l2 * look)
            following = (1 + math.sqrt(1 + 4 * s * s)) / 2
            look, old, s = new + (s - 1) / following * (new - old), new, following
        rows.append(old)
    return np.array(rows)


def encrypted_training(plan, features, labels, folder: Path):
    """Weights from ciphertexts, float64 (C, d), and the key switches that they took."""
    session, tiles = SecretSession(plan.parameters), Tiles(plan)
    session.add_evaluation_keys(plan.rotations())
    owner.encrypt_data(session, tiles, features, labels, folder)

    def renew(state):
        return [[session.encrypt(session.decrypt(session.drop(each, 0))) for each in kind] for kind in state]

    weights, switches = tiles.train(session, folder, QUIET, renew if plan.mode == "refresh" else None)
    return tiles.weights_of([session.decrypt(each) for each in weights], features), switches


@pytest.mark.parametrize(("iterations", "l2"), [(1, 0.0), (2, 0.01), (6, 0.0), (6, 0.02)])
def test_twin_is_nesterovs_method_with_the_least_squares_cubic(iterations, l2):
    x, labels, _, _ = digits(200, 20)
    plan = make_plan(200, 21, 10, iterations, "refresh", 4.0, l2)
    expected = reference(x, labels, 10, iterations, 4.0, l2)
    np.testing.assert_allclose(twin.train(plan, x, labels).weights, expected, atol=2e-3)


def test_twin_with_softmax_follows_its_parabola():
    """Written down class by class, the parabola fitted anew: p(0) is near 1/C, not 1/2."""
    x, labels, _, _ = digits(200, 20)
    k0, k1, k2 = softmax.coefficients(10)
    assert 0.05 < k0 < 0.15
    twice = make_plan(200, 21, 10, 2, "refresh", 4.0, loss="softmax")
    for label in range(10):
        target = (labels == label).astype(float)
        first = 4.0 / 200 * x.T @ (target - k0)
        scores = x @ first  # the first momentum is 0
        second = first + 4.0 / 200 * x.T @ (target - (k0 + k1 * scores + k2 * scores**2))
        np.testing.assert_allclose(twin.train(twice, x, labels).weights[label], second, atol=1e-12)


def test_features_with_a_large_common_part_end_where_the_paper_does():
    """Digits inverted, 128 of them, two iterations of the paper's algorithm; `studies/he_conditioning.py`, 3 draws."""
    images, labels = load_digits(return_X_y=True)
    inverted = 1 - images / 16
    accuracy = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(labels))
        kept, tested = order[:128], order[128:]
        whitening = fit_whitening(inverted[kept], 63)
        raw = np.c_[inverted, np.ones(len(labels))]
        accuracy.append(
            [
                accuracy_percent(
                    x[tested] @ quadratic_gradient.train(x[kept], labels[kept], 10, 2).weights.T, labels[tested]
                )
                for x in (raw, whitening(inverted))
            ]
        )
    raw_mean, whitened_mean = np.mean(accuracy, axis=0)
    assert 5 < raw_mean < 30  # the paper has 21.49
    assert whitened_mean > 75


def test_twin_learns_and_tells_scores_that_the_cubic_cannot_follow():
    x, labels, test, test_labels = digits(256, 40)
    calm = twin.train(make_plan(256, 41, 10, 2), x, labels)
    assert calm.safe
    assert accuracy_percent(test @ calm.weights.T, test_labels) > 85
    assert not twin.train(make_plan(256, 41, 10, 3, learning_rate=40.0), x, labels).safe


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"iterations": 2}, 5e-3),
        ({"iterations": 2, "l2": 0.02}, 5e-3),
        ({"iterations": 3, "mode": "refresh", "l2": 0.01}, 5e-3),
        ({"iterations": 3, "mode": "refresh", "batch": 50}, 5e-3),  # three batches, the last one smaller
        ({"iterations": 2, "loss": "softmax"}, 5e-3),
        ({"iterations": 3, "mode": "refresh", "batch": 50, "loss": "softmax"}, 5e-3),
    ],
)
def test_encrypted_training_equals_the_twin(settings, error, tmp_path, monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "1")
    x, labels, test, test_labels = digits(120, 17)
    plan = make_plan(120, 18, 10, **settings)
    clear = twin.train(plan, x, labels).weights
    weights, switches = encrypted_training(plan, x, labels, tmp_path)
    assert np.abs(weights - clear).max() < error
    assert np.abs(weights).max() > 0.5  # not a comparison of zeros
    agree = (test @ weights.T).argmax(1) == (test @ clear.T).argmax(1)
    assert agree.mean() > 0.995
    assert accuracy_percent(test @ weights.T, test_labels) == pytest.approx(
        accuracy_percent(test @ clear.T, test_labels), abs=0.3
    )
    k, f, rows = plan.blocks, math.log2(plan.tile), math.log2(plan.rows)
    expected = plan.iterations * k * (1 + rows)
    products = 2 if plan.loss == "softmax" else 3  # scores; square and cube, or square alone
    expected += sum(len(plan.batch_groups(t)) * (products + 2 * f) for t in range(1, plan.iterations))
    assert switches == expected == plan.key_switches()


def test_levelled_training_beyond_two_iterations(tmp_path):
    x, labels, _, _ = digits(40, 5)
    x, labels = x[labels < 2], labels[labels < 2]
    plan = make_plan(len(x), 6, 2, 3)
    assert plan.ring == 16384
    assert plan.lanes == 2
    weights, _ = encrypted_training(plan, x, labels, tmp_path)  # on as many processes as there are processors
    np.testing.assert_allclose(weights, twin.train(plan, x, labels).weights, atol=1e-4)


def test_more_than_sixteen_classes(tmp_path):
    random = np.random.default_rng(1)
    labels = np.arange(80) % 20
    x = np.hstack([random.normal(size=(20, 6))[labels] + 0.1 * random.normal(size=(80, 6)), np.ones((80, 1))])
    plan = make_plan(80, 7, 20, 2)
    assert plan.lanes == 32
    weights, _ = encrypted_training(plan, x, labels, tmp_path)
    np.testing.assert_allclose(weights, twin.train(plan, x, labels).weights, atol=5e-3)


@pytest.mark.parametrize(
    ("mode", "iterations", "ring"),
    [("levelled", 2, 8192), ("levelled", 3, 16384), ("levelled", 4, 16384), ("levelled", 5, 32768),
     ("refresh", 1, 8192), ("refresh", 50, 8192)],
)  # fmt: skip
def test_chains_have_128_bits_and_as_many_levels_as_training_needs(mode, iterations, ring):
    parameters = choose_chain(mode, iterations, 1024, 4.0)
    assert parameters.ring == ring
    assert sum(parameters.prime_bits) <= {8192: 218, 16384: 438, 32768: 881}[ring]
    assert parameters.top_level == (4 if mode == "refresh" else 1 + 4 * (iterations - 1))
    assert parameters.scale_bits >= 26
    session = Session(parameters)  # SEAL checks the security by itself
    assert len(session.primes) == parameters.top_level + 1


@pytest.mark.parametrize("images", [8, 16, 70, 128])
def test_noise_of_few_images_stays_below_what_is_promised(images, tmp_path):
    """A mean over few images averages little noise away, so that they need a larger scale, some a larger ring."""
    random = np.random.default_rng(0)
    x = np.c_[np.clip(random.normal(size=(images, 3)), -3, 3), np.ones(images)]
    labels = random.integers(0, 2, images)
    plan = make_plan(images, 4, 2, 2)
    weights, _ = encrypted_training(plan, x, labels, tmp_path)
    np.testing.assert_allclose(weights, twin.train(plan, x, labels).weights, atol=5e-3)


def test_tile_has_the_fewest_key_switches():
    assert make_plan(1024, 64, 10, 2).tile == 4
    assert make_plan(128, 401, 10, 2).tile == 16


def test_parameters_beyond_128_bits_are_refused():
    with pytest.raises(UsageError, match="less than 128 bits of security"):
        Parameters(8192, (40, 40, 40, 40, 60), 40)
    with pytest.raises(UsageError, match="not supported"):
        Parameters(4000, (30, 30), 30)
    with pytest.raises(UsageError, match="set he.mode=refresh"):
        choose_chain("levelled", 9, 1024, 4.0)


def test_bounds_are_checked_before_any_work():
    with pytest.raises(UsageError, match="1025 classes: homomorphic training takes 1 to 1024"):
        make_plan(5000, 64, 1025, 2)
    with pytest.raises(UsageError, match="he.batch_images"):
        make_plan(100_000, 64, 10, 2)


@given(
    images=st.integers(1, 70), columns=st.integers(1, 40), classes=st.integers(1, 33), batch=st.integers(0, 70),
)  # fmt: skip
def test_packing_lines_up(images, columns, classes, batch):
    """Sums over tiles of the slots are X V^T and E^T X, and every image lies in exactly one group."""
    plan = make_plan(images, columns, classes, 2, batch=batch)
    random = np.random.default_rng(images * columns)
    x, labels = random.normal(size=(images, columns)), random.integers(0, classes, images)
    weights = random.normal(size=(classes, columns))
    seen, gradient = [], np.zeros((classes, columns))
    for _, members in plan.groups():
        part = x[members.start : members.stop]
        blocks = [packing.feature_slots(plan, part, block) for block in range(plan.blocks)]
        products = sum(each * weight_slots(plan, weights, block) for block, each in enumerate(blocks))
        scores = products.reshape(plan.rows, plan.tile, plan.lanes).sum(1)[: len(part), :classes]
        np.testing.assert_allclose(scores, part @ weights.T, atol=1e-9)
        y = packing.label_slots(plan, labels[members.start : members.stop])
        sums = [(each * y).reshape(plan.rows, -1).sum(0) * np.ones((plan.rows, 1)) for each in blocks]
        gradient += packing.weights_of(plan, [each.ravel() for each in sums])
        seen += members
    assert sorted(seen) == list(range(images))
    np.testing.assert_allclose(gradient, (np.eye(classes)[labels] - 0.5).T @ x, atol=1e-9)
    back = packing.weights_of(plan, [weight_slots(plan, weights, block) for block in range(plan.blocks)])
    np.testing.assert_allclose(back, weights, atol=1e-12)


def test_whitening_folds_into_a_plain_head():
    features = np.random.default_rng(0).normal(size=(50, 12)) * np.arange(12) + 3  # one constant feature
    whitening = fit_whitening(features, 7)
    weights = np.random.default_rng(1).normal(size=(4, 8))
    weight, bias = whitening.fold(weights)
    np.testing.assert_allclose(features @ weight.T + bias, whitening(features, clip=False) @ weights.T, atol=1e-9)
    white = whitening(features)
    assert np.abs(white).max() <= 3
    covariance = np.cov(whitening(features, clip=False)[:, :-1].T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-9)
    with pytest.raises(UsageError, match="set it to 12 or less"):
        fit_whitening(features, 13)


@pytest.fixture(scope="module")
def session() -> SecretSession:
    made = SecretSession(Parameters(8192, (37, 26, 26, 43), 26))
    made.add_evaluation_keys([1, -16])
    return made


def test_ckks_arithmetic(session):
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 4096))
    a, b = session.encrypt(x), session.encrypt(y)
    product = session.rescale(session.relinearise(session.multiply(a, b)))
    before = session.key_switches
    assert (
        np.abs(session.decrypt(session.add_plain(session.rotate(product, -16), 2)) - np.roll(x * y, 16) - 2).max()
        < 1e-2
    )
    assert np.abs(session.decrypt(session.rotate(product, 1)) - np.roll(x * y, -1)).max() < 1e-2
    assert session.key_switches == before + 2
    assert np.abs(session.decrypt(session.read_at(a, a.scale / 3)) - 3 * x).max() < 1e-3
    with pytest.raises(PpvitError, match="no key for rotations by 2"):
        session.rotate(a, 2)
    with pytest.raises(PpvitError, match="modulus chain is used up"):
        session.rescale(session.drop(a, 0))
    with pytest.raises(PpvitError, match="scales .* differ"):
        session.as_scale(a, a.scale * 1.001)


def test_seeded_ciphertexts_are_half_the_size_and_read_by_anybody(session):
    x = np.random.default_rng(0).uniform(-1, 1, 4096)
    data = session.to_bytes(session.encrypt_seeded(x))
    assert len(data) < 0.6 * len(session.to_bytes(session.encrypt(x)))
    public = Session(session.parameters)
    assert np.abs(session.decrypt(public.from_bytes("Ciphertext", data)) - x).max() < 1e-3
    for damaged in (b"", data[:100], data[:-1], session.to_bytes(session.relinearisation)):
        with pytest.raises(PpvitError, match="truncated or was altered"):
            public.from_bytes("Ciphertext", damaged)
