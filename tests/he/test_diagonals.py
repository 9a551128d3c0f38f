"""Chiang's arithmetic on diagonals: equal to its twin, on arrays and on ciphertexts, in 2 or 4 uploads."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_volley_revolver import Depth, PlainArithmetic, problem

from ppvit.config import He
from ppvit.core.errors import PpvitError, UsageError
from ppvit.he.ckks.arithmetic import CiphertextArithmetic
from ppvit.he.ckks.scheme import Parameters
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.ckks.session import CONJUGATION, Session
from ppvit.he.diagonals import Diagonals, layout, steps
from ppvit.he.diagonals import plan as plans
from ppvit.he.volley_revolver import layout as published
from ppvit.he.volley_revolver import quadratic_gradient


class LazyPlain(PlainArithmetic):
    """Complex arrays in place of ciphertexts; a product that was not closed is not used for anything but sums."""

    def product(self, a, b):
        return SimpleNamespace(open=a * b)

    def add(self, a, b):
        if isinstance(a, SimpleNamespace):
            return SimpleNamespace(open=a.open + b.open)
        return a + b

    def close(self, products):
        self.key_switches += 1
        return products.open

    def parts(self, a):
        self.key_switches += 1
        self.rotations.add(CONJUGATION)
        return 2 * a.real, 2 * a.imag

    def lowered(self, a, to):
        return a


class LazyDepth(Depth):
    def product(self, a, b):
        return max(a, b)

    def close(self, products):
        return products + 1

    def parts(self, a):
        return a, a

    def lowered(self, a, to):
        return max(a, to)


def twin(features, labels, classes, iterations):
    return quadratic_gradient.train(features, labels, classes, iterations, initial_weight=0.0).weights


@given(st.integers(1, 40), st.integers(2, 20), st.integers(1, 6), st.sampled_from([128, 256]), st.integers(1, 4))
def test_layout_computes_what_the_twin_computes(samples, width, classes, slots, iterations):
    """One group or several, real parts alone or with imaginary ones, rows that are not full."""
    features, labels = problem(samples, width, classes)
    grid = layout.make_layout(samples, width, classes, slots)
    arithmetic = LazyPlain()
    trained = steps.train(arithmetic, grid, grid.prepare(features, labels), iterations)
    found = grid.unpack([np.real(each) for each in trained], features)
    np.testing.assert_allclose(found, twin(features, labels, classes, iterations), rtol=1e-9, atol=1e-12)
    assert arithmetic.rotations == set(grid.rotations()) or iterations == 1
    assert arithmetic.rotations <= set(grid.rotations())
    assert arithmetic.key_switches == plans_switches(grid, iterations)


def plans_switches(grid: layout.Layout, iterations: int) -> int:
    counter = plans.KeySwitchCounter()
    steps.train(counter, grid, [0] * grid.ciphertexts, iterations)
    return counter.key_switches


def test_several_labels_an_image():
    features, _ = problem(9, 5, 3)
    labels = np.random.default_rng(3).integers(0, 2, (9, 3))
    grid = layout.make_layout(9, 5, 3, 64)
    trained = steps.train(LazyPlain(), grid, grid.prepare(features, labels), 2)
    found = grid.unpack([np.real(each) for each in trained], features)
    np.testing.assert_allclose(found, twin(features, labels, 3, 2), rtol=1e-9, atol=1e-12)


def test_each_iteration_asks_for_new_levels_where_a_library_can_give_them():
    """As by bootstrapping: W and V together, before every iteration that multiplies by them."""
    features, labels = problem(9, 5, 3)
    grid = layout.make_layout(9, 5, 3, 64)
    asked = []

    def renew(values):
        asked.append(len(values))
        return [each.copy() for each in values]

    trained = steps.train(LazyPlain(), grid, grid.prepare(features, labels), 4, renew)
    found = grid.unpack([np.real(each) for each in trained], features)
    np.testing.assert_allclose(found, twin(features, labels, 3, 4), rtol=1e-9, atol=1e-12)
    assert asked == [2 * grid.lanes] * 3


def test_published_size_uploads_fewer_than_the_papers_six():
    """What the layout's docstring says of 128 x 401 x 10, change by change, from Volley Revolver's 10 at 128 bits."""
    before = published.make_layout(128, 401, 10, slots=16384)
    assert (before.groups, 2 * before.groups + 2) == (4, 10)
    large = layout.make_layout(128, 401, 10, slots=16384)
    assert (large.columns, large.rows, large.groups, large.ciphertexts) == (512, 32, 4, 2)
    plan = plans.make_plan(128, 401, 10, 2)
    assert (plan.parameters.ring, plan.layout.ciphertexts, plan.parameters.top_level) == (16384, 4, 6)
    # 128 rows of 401 features and 10 labels are no fewer than these, two numbers a slot
    assert 128 * 411 / (2 * plan.parameters.slots) > 3
    whole = plan.layout.ciphertexts * plan.parameters.modulus_bytes()
    assert whole == 4 * 2 * 16384 * (60 + 6 * 40) // 8  # 4.9 MB
    assert round(6 * 2 * 65536 * 990 / 8 / 1e6) == 97  # the paper's


@pytest.mark.parametrize("iterations", [1, 2, 3, 6])
def test_chain_is_just_as_long_as_the_training_is_deep(iterations):
    grid = layout.make_layout(20, 5, 3, slots=64)
    trained = steps.train(LazyDepth(), grid, [0] * grid.ciphertexts, iterations)
    assert max(trained) == plans.choose_chain(iterations).top_level


@pytest.mark.parametrize(("iterations", "ring"), [(1, 8192), (2, 16384), (3, 16384), (4, 32768), (6, 32768)])
def test_chains_have_128_bits_of_security(iterations, ring):
    assert plans.choose_chain(iterations).ring == ring  # Parameters refuses more than the cap by itself


def test_more_iterations_than_fit_are_refused():
    with pytest.raises(UsageError, match="7 iterations take 26 levels"):
        plans.choose_chain(7)
    with pytest.raises(ValueError, match="he.iterations 7: he.algorithm=diagonals takes 6 at most"):
        He(algorithm="diagonals", iterations=7)
    with pytest.raises(ValueError, match="he.l2 0.1: he.algorithm=diagonals takes 0.0 alone"):
        He(algorithm="diagonals", l2=0.1)


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"9000 columns and 10 classes take a row of 16384 slots, .* has 8192"):
        plans.make_plan(10, 9000, 10, 2)
    with pytest.raises(UsageError, match="70000 images"):
        plans.make_plan(70_000, 10, 10, 2)


def test_plans_are_read_back_and_others_are_refused():
    plan = plans.make_plan(128, 401, 10, 2)
    assert plans.read_plan(plan.as_record(), "plan.json") == plan
    for wrong in ({**plan.as_record(), "iterations": 7}, {**plan.as_record(), "more": 1}, {}, {"images": 1e9}):
        with pytest.raises(PpvitError, match="plan.json is no plan of this ppvit .*; make it again: ppvit he keys"):
            plans.read_plan(wrong, "plan.json")


def test_plan_foretells_the_upload():
    algorithm = Diagonals(plans.make_plan(128, 401, 10, 2))
    features, labels = problem(128, 401, 10)
    names = [name for name, slots in algorithm.upload_slots(features, labels) if slots.shape == (8192,)]
    assert names == list(algorithm.upload_names()) == [f"x-{number:05d}-0000.ct" for number in range(4)]
    assert algorithm.plan.upload_bytes() == 4 * algorithm.plan.parameters.ciphertext_bytes() // 2


def test_estimate_of_memory_holds_for_the_size_that_was_measured():
    """128 x 401 x 10, two iterations through the stage: 662 MiB resident at most, in November 2026."""
    assert 662 <= plans.make_plan(128, 401, 10, 2).memory_bytes() / 2**20 <= 1.3 * 662


def test_too_little_memory_is_found_before_any_work():
    with pytest.raises(PpvitError, match=r"about \d+ MiB of memory, most of it for keys, and 64 MiB are free"):
        Diagonals(plans.make_plan(128, 401, 10, 2)).require_memory(2**26)


def test_parts_of_complex_slots_cost_no_level():
    pytest.importorskip("tenseal")
    owner = SecretSession(Parameters(4096, (36, 36, 37), 28))
    owner.add_evaluation_keys([CONJUGATION])
    trainer = Session(owner.parameters, owner.relinearisation, owner.rotation)
    values = np.linspace(-1, 1, 2048) + 1j * np.linspace(2, -3, 2048)
    real, imaginary = CiphertextArithmetic(trainer).parts(owner.encrypt(values))
    assert trainer.level(real) == trainer.level(imaginary) == owner.parameters.top_level
    # SEAL's key switch does not round to a mean of 0. The mean of all coefficients gathers in the first slots, where
    # its standard deviation over keys is 5.5e-4 (7e-6 in the others).
    np.testing.assert_allclose(owner.decrypt(real), 2 * values.real, atol=1e-2)
    np.testing.assert_allclose(owner.decrypt(imaginary), 2 * values.imag, atol=1e-2)
    np.testing.assert_allclose(owner.decrypt(real)[16:-16], 2 * values.real[16:-16], atol=2e-3)
    np.testing.assert_allclose(owner.decrypt(imaginary)[16:-16], 2 * values.imag[16:-16], atol=2e-3)
    assert trainer.key_switches == 1


@pytest.mark.parametrize(
    ("samples", "width", "classes", "iterations", "groups"),
    [(40, 200, 3, 1, 3), (14, 5, 2, 2, 1)],
)
def test_encrypted_training_equals_the_twin(samples, width, classes, iterations, groups):
    """One iteration on three groups of images in two ciphertexts; two, with the polynomial, on one group."""
    pytest.importorskip("tenseal")
    features, labels = problem(samples, width, classes)
    parameters = plans.choose_chain(iterations)
    grid = layout.make_layout(samples, width, classes, parameters.slots)
    assert (grid.groups, grid.ciphertexts) == (groups, (groups + 1) // 2)
    owner = SecretSession(parameters)
    owner.add_evaluation_keys(grid.rotations())
    trainer = Session(parameters, owner.relinearisation, owner.rotation)  # without the secret key
    uploaded = [owner.encrypt(each) for each in grid.prepare(features, labels)]
    trained = steps.train(CiphertextArithmetic(trainer), grid, uploaded, iterations)
    assert {trainer.level(each) for each in trained} == {0}
    found = grid.unpack([owner.decrypt(each) for each in trained], features)
    expected = twin(features, labels, classes, iterations)
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()  # noise, by the key: 1e-4 to 9e-4 in 8 runs
    assert trainer.key_switches == plans_switches(grid, iterations)
