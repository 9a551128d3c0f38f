"""Whitening: against its definition, of many features and of few; the progress that training reports."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_he import digits

from ppvit.config import He
from ppvit.core.errors import UsageError
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.parties import owner
from ppvit.he.parties.features import components_of, fit_whitening, whitening_for
from ppvit.he.tiles import Tiles
from ppvit.he.tiles.plan import make_plan
from ppvit.he.volley_revolver import VolleyRevolver
from ppvit.he.volley_revolver import plan as published

pytest.importorskip("tenseal")


def by_covariance(features: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset from the D x D covariance, whatever the number of images."""
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    standard = (features - mean) / deviation
    variances, axes = np.linalg.eigh(standard.T @ standard / len(standard))
    variances, axes = variances[::-1][:components], axes[:, ::-1][:, :components]
    matrix = axes.T / np.sqrt(variances + 0.3 * variances.mean())[:, None] / deviation
    return matrix, -matrix @ mean


@pytest.mark.parametrize(("images", "width", "components"), [(40, 300, 20), (40, 300, 39), (300, 40, 20), (50, 50, 30)])
def test_whitening_is_that_of_the_covariance(images, width, components):
    features = np.random.default_rng(0).normal(size=(images, width)) * np.linspace(1, 3, width) + 2
    expected, offset = by_covariance(features, components)
    whitening = fit_whitening(features, components)
    signs = np.sign((whitening.matrix * expected).sum(axis=1))  # an axis may point either way
    np.testing.assert_allclose(whitening.matrix * signs[:, None], expected, atol=1e-8)
    np.testing.assert_allclose(whitening.offset * signs, offset, atol=1e-8)


def test_whitening_of_many_features_needs_no_square_of_them():
    """20,000 features: their covariance would be 3 GB, and its axes take hours."""
    features = np.random.default_rng(0).normal(size=(60, 20_000))
    white = fit_whitening(features, 30)(features, clip=False)[:, :-1]
    covariance = np.cov(white.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-9)


def test_images_all_alike_whiten_to_finite_features():
    features = np.tile(np.random.default_rng(0).normal(size=30), (12, 1))
    assert np.isfinite(fit_whitening(features, 6)(features)).all()


def test_fewer_features_than_the_default_of_components():
    features = np.random.default_rng(0).normal(size=(200, 24))
    tiles = Tiles(make_plan(200, components_of(He(), 200) + 1, 3, 2))
    assert tiles.plan.columns == 64
    whitening = whitening_for(tiles, He(), features)
    white = whitening(features)
    assert white.shape == (200, 64)
    assert not white[:, 24:-1].any()
    np.testing.assert_array_equal(white[:, :24], fit_whitening(features, 24)(features)[:, :-1])
    weights = np.random.default_rng(1).normal(size=(3, 64))
    weight, bias = whitening.fold(weights)
    np.testing.assert_allclose(features @ weight.T + bias, whitening(features, clip=False) @ weights.T, atol=1e-9)
    with pytest.raises(UsageError, match="set it to 24 or less"):
        whitening_for(tiles, He(components=63), features)


class Bar:
    """A progress bar that remembers."""

    def __init__(self) -> None:
        self.depth: list[int] = []
        self.counts: list[int] = []

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self.depth.append(int(text.rsplit("depth left ", 1)[1]))

    def update(self, count: int) -> None:
        self.counts.append(count)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_progress_comes_by_groups_and_ends_at_the_final_depth(tmp_path, monkeypatch, processes):
    monkeypatch.setenv("PPVIT_WORKERS", processes)
    x, labels, _, _ = digits(240, 17)
    plan = make_plan(240, 18, 10, 2)
    session = SecretSession(plan.parameters)
    session.add_evaluation_keys(plan.rotations())
    owner.encrypt_data(session, Tiles(plan), x, labels, tmp_path)
    bar = Bar()
    Tiles(plan).train(session, tmp_path, bar)
    groups = len(plan.batch_groups(0))
    assert groups >= 2
    assert sum(count > 0 for count in bar.counts) == 2 * plan.blocks + groups  # the first needs no scores
    assert sum(bar.counts) == plan.key_switches()
    assert bar.depth[0] == plan.parameters.top_level
    assert bar.depth == sorted(bar.depth, reverse=True)
    assert bar.depth[-1] == 0


def test_progress_of_the_published_algorithm_ends_at_depth_0():
    """On numbers that only know their level, of a session that only counts down."""
    plan = published.make_plan(4, 3, 2, 1)
    bar = Bar()
    session = SimpleNamespace(
        level=lambda a: a, drop=lambda a, level: level, add=lambda a, b: a, multiply=lambda a, b: a,
        relinearise=lambda a: a, add_plain=lambda a, vector: a, multiply_encoded=lambda a, b: a, rotate=lambda a, n: a,
        rescale=lambda a: Level(a - 1), encode=lambda vector, level: None, parameters=plan.parameters, key_switches=0,
    )  # fmt: skip
    session.load = lambda kind, path: Level(plan.parameters.top_level)
    VolleyRevolver(plan).train(session, Path(), bar)
    assert bar.depth[-1] == 0
    assert sum(bar.counts) == plan.key_switches()


class Level(int):
    """A ciphertext of which only the level is known."""
