"""OpenFHE in place of SEAL under the same algorithm; where it is not installed, the one line that says so.

The checks ran with openfhe 1.6.1 under Python 3.10 in November 2026 (with numpy, pydantic, psutil and pytest alone:
``pytest -c /dev/null tests/he/test_openfhe.py``), as its other wheel needs the C++ library of Ubuntu 24.04.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ppvit.core.errors import PpvitError
from ppvit.he.ckks.openfhe import OpenFheOwner, openfhe
from ppvit.he.diagonals import layout, steps
from ppvit.he.volley_revolver import quadratic_gradient


def trained_on_ciphertexts(samples: int, width: int, iterations: int, ring: int, bootstrapping: bool) -> float:
    """Largest difference to the twin's weights, relative to the largest of these."""
    random = np.random.default_rng(0)
    features = np.c_[random.uniform(0, 1, (samples, width - 1)), np.ones(samples)]
    labels = random.integers(0, 3, samples)
    depth = 2 + 4 * (1 if bootstrapping else iterations - 1) + 1  # one more for the imaginary parts
    owner = OpenFheOwner(depth, ring, bootstrapping=bootstrapping, secure=False)
    grid = layout.make_layout(samples, width, 3, owner.slots)
    arithmetic = owner.arithmetic(grid.rotations())
    uploaded = [owner.encrypt(each) for each in grid.prepare(features, labels)]
    renew = arithmetic.renew if bootstrapping else None
    diagonals = steps.train(arithmetic, grid, uploaded, iterations, renew)
    found = grid.unpack([owner.decrypt(each) for each in diagonals], features)
    expected = quadratic_gradient.train(features, labels, 3, iterations, initial_weight=0.0).weights
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check_training() -> None:
    """Two groups of images, the second as imaginary parts."""
    assert trained_on_ciphertexts(40, 5, 2, ring=1024, bootstrapping=False) < 1e-4


def check_bootstrapping() -> None:
    """Eight iterations take 31 levels; there are 7, and 18 for bootstrapping itself (openfhe 1.6.1)."""
    assert trained_on_ciphertexts(20, 5, 8, ring=256, bootstrapping=True) < 1e-3


@pytest.fixture
def library():
    try:
        return openfhe()
    except PpvitError as error:
        pytest.skip(str(error))


def test_training(library):
    check_training()


def test_bootstrapping(library):
    check_bootstrapping()


def test_a_library_that_cannot_be_loaded_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openfhe", None)
    with pytest.raises(PpvitError, match=r"OpenFHE cannot be loaded .*; its wheels are for Python 3.12") as told:
        OpenFheOwner(3)
    assert "\n" not in str(told.value)
