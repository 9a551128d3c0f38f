"""Volley Revolver: the paper's layout of matrices in ciphertexts (Chiang, arXiv 2304.03807, section 4), for comparison.

A ciphertext is a grid of rows, one sample a row; a second grid of class weights turns past it row by row, and every
turn gives one diagonal of X V^T. The steps and rotations are those of the author's program, so that the cost is that
of the published algorithm; see `ppvit.he.tiles` for a layout that does the same with far fewer.

What differs. SEAL ends at N = 32768, so 16384 slots, where the paper has 32768: a row of 512 leaves 32 samples a
ciphertext, not 64. Rows are turned one after another with one key, not each with its own: as many key switches, a
thirtieth of the keys. Two constants (1 + gamma, and the mask behind the sigmoid) ride on masks that are there anyway,
which saves levels: the modulus allowed at 128 bits would not do otherwise.

All goes through an `Arithmetic`, and so it works on ciphertexts and on plain arrays alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import ceil
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppvit.core.errors import UsageError
from ppvit.he.algorithms import truths
from ppvit.he.ckks.arithmetic import Arithmetic, Value, Vector
from ppvit.he.ckks.scheme import CAPS, Parameters
from ppvit.he.volley_revolver.quadratic_gradient import CUBIC, INITIAL_WEIGHT, LINEAR, column_steps, momentum

Other = TypeVar("Other")

LEVELS_AN_ITERATION = 8  # products one after another: X V, two masks, cubic (2), E X, mask, steps
LEVELS_AT_THE_END = 1  # the last average of W and V
SCALES = (40, 36, 32, 28)  # bits; the paper's first
HEADROOM = 20  # bits of the first and the special prime beyond the scale, as far as a prime has 60


@dataclass(frozen=True)
class Layout:
    """A grid of rows x columns, repeated until it fills all slots, so that rotations go round within the grid.

    Attributes:
        samples, features, classes: n, d (the constant included) and C.
        rows: samples in one ciphertext, a power of two.
        columns: of a row, a power of two with room for the copies of the errors that meet every feature.
        slots: of a ciphertext, S.
    """

    samples: int
    features: int
    classes: int
    rows: int
    columns: int
    slots: int

    @property
    def groups(self) -> int:
        """Ciphertexts that hold the samples."""
        return ceil(self.samples / self.rows)

    @property
    def lanes(self) -> int:
        """Columns that a row sum adds up and fills: the power of two that holds all features, and all classes."""
        return power_of_two(max(self.features, self.classes))

    @property
    def copies(self) -> int:
        """How often a row's errors are repeated along it: enough for every feature, and made in the fewest rotations.

        Doubling takes one rotation, every further power of two in the number another.
        """
        enough = range(fewest_copies(self.features, self.classes), self.columns // self.classes + 1)
        return min(enough, key=lambda copies: (copies.bit_length() + copies.bit_count(), copies))

    def pack(self, matrix: NDArray[np.float64]) -> Vector:
        """Lay a matrix of at most (rows, columns) into (slots,)."""
        grid = np.zeros((self.rows, self.columns))
        grid[: matrix.shape[0], : matrix.shape[1]] = matrix
        return np.tile(grid.ravel(), self.slots // grid.size)

    def unpack(self, vector: Vector) -> NDArray[np.float64]:
        """Class weights, (C, d), out of decrypted slots."""
        grid = np.asarray(vector)[: self.rows * self.columns].reshape(self.rows, self.columns)
        return grid[: self.classes, : self.features]

    def rotations(self) -> list[int]:
        """Every number of steps that training rotates by; the owner makes one Galois key for each."""
        lanes = [2**power for power in range(self.lanes.bit_length() - 1)]
        shifts = [-self.classes * 2**power for power in range(self.copies.bit_length() - 1)]
        return sorted({1, self.columns, *lanes, *(-step for step in lanes), *shifts})


def make_layout(samples: int, features: int, classes: int, slots: int) -> Layout:
    """Choose the grid.

    Args:
        samples, features, classes: n, d (the constant included), C.
        slots: of a ciphertext, half the ring degree.

    Raises:
        UsageError: one ciphertext does not hold a row a class.
    """
    columns = power_of_two(classes * fewest_copies(features, classes))
    rows = min(slots // columns, power_of_two(max(samples, classes)))
    if rows < classes:
        raise UsageError(
            f"volley_revolver: {classes} classes of {features} features do not fit into the {slots} slots of a "
            "ciphertext; take fewer features or the tiles"
        )
    return Layout(samples, features, classes, rows, columns, slots)


def choose_chain(iterations: int) -> Parameters:
    """The smallest ring that holds the chain at 128 bits, and the largest scale in it.

    Raises:
        UsageError: more iterations than any ring holds.
    """
    levels = LEVELS_AN_ITERATION * iterations + LEVELS_AT_THE_END
    for ring, cap in CAPS.items():
        for scale in SCALES:
            outer = min(60, scale + HEADROOM)
            if levels * scale + 2 * outer <= cap:
                return Parameters(ring, (outer, *[scale] * levels, outer), scale)
    raise UsageError(
        f"volley_revolver: {iterations} iterations take {levels} levels, more than 128 bits of security allow; take "
        "3 or fewer, or the tiles"
    )


@dataclass(frozen=True)
class Upload(Generic[Value]):
    """What the owner encrypts and sends.

    Attributes:
        samples: one value a group of rows; features along the row.
        labels: one value a group; one-hot in the first C columns.
        weights: C rows, the starting point.
        steps: C equal rows, step size of every column.
    """

    samples: list[Value]
    labels: list[Value]
    weights: Value
    steps: Value

    def each(self, convert: Callable[[Value], Other]) -> Upload[Other]:
        """The same with every value converted, as by encryption."""
        return Upload(
            [convert(value) for value in self.samples],
            [convert(value) for value in self.labels],
            convert(self.weights),
            convert(self.steps),
        )


def prepare(
    layout: Layout,
    features: NDArray[np.float64],
    labels: NDArray[np.integer],
    initial_weight: float = INITIAL_WEIGHT,
) -> Upload[Vector]:
    """Lay out features and labels, at the owner, ready to be encrypted.

    Args:
        layout: from `make_layout`.
        features: (n, d), float64, the constant included.
        labels: (n,), 0..C-1, or (n, C), 0 and 1.
        initial_weight: of every class and feature.
    """
    truth = truths(labels, layout.classes)
    starts = range(0, layout.samples, layout.rows)
    return Upload(
        [layout.pack(features[start : start + layout.rows]) for start in starts],
        [layout.pack(truth[start : start + layout.rows]) for start in starts],
        layout.pack(np.full((layout.classes, layout.features), initial_weight)),
        layout.pack(np.tile(column_steps(features), (layout.classes, 1))),
    )


def train(arithmetic: Arithmetic[Value], layout: Layout, upload: Upload[Value], iterations: int) -> Value:
    """Train on what may be ciphertexts; equals `quadratic_gradient.train` up to the noise of the scheme.

    Returns:
        The weights, laid out as `Layout.unpack` reads them.
    """
    weights = velocity = upload.weights
    for eta, gamma in momentum(iterations, layout.samples):
        errors = [
            error(arithmetic, layout, logits, truth)
            for logits, truth in zip(products(arithmetic, layout, upload.samples, velocity), upload.labels, strict=True)
        ]
        step = arithmetic.multiply(gradient(arithmetic, layout, upload.samples, errors, 1 + gamma), upload.steps)
        moved = arithmetic.add(weights, step)
        weights = average(arithmetic, layout, moved, velocity, eta)
        velocity = moved
    return weights


def products(arithmetic: Arithmetic[Value], layout: Layout, samples: list[Value], weights: Value) -> list[Value]:
    """X V^T of every group: row i, column c < C holds the logit of sample i and class c; zero elsewhere."""
    logits: list[Value | None] = [None] * len(samples)
    first = layout.pack(np.ones((layout.rows, 1)))  # the first column
    for turn in range(layout.rows):
        turned = arithmetic.rotate(weights, layout.columns) if turn else weights
        weights = turned
        diagonal = class_diagonal(layout, turn)
        for group, sample in enumerate(samples):
            row_sums = sum_along(arithmetic, arithmetic.multiply(sample, turned), layout.lanes, 1)
            alone = arithmetic.multiply_plain(row_sums, first)
            spread = arithmetic.multiply_plain(sum_along(arithmetic, alone, layout.lanes, -1), diagonal)
            so_far = logits[group]
            logits[group] = spread if so_far is None else arithmetic.add(so_far, spread)
    return [each for each in logits if each is not None]


def error(arithmetic: Arithmetic[Value], layout: Layout, logits: Value, truth: Value) -> Value:
    """Y - p(Z), repeated along the row with period C."""
    labels = layout.pack(np.ones((layout.rows, layout.classes)))
    cubic = arithmetic.multiply(arithmetic.multiply_plain(logits, -CUBIC * labels), arithmetic.multiply(logits, logits))
    minus_p = arithmetic.add(cubic, arithmetic.multiply_plain(logits, -LINEAR * labels))
    difference = arithmetic.add(truth, arithmetic.add_plain(minus_p, -0.5 * labels))
    return repeat(arithmetic, difference, layout.classes, layout.copies)


def gradient(
    arithmetic: Arithmetic[Value], layout: Layout, samples: list[Value], errors: list[Value], factor: float
) -> Value:
    """factor (Y - P)^T X in the first C rows: the errors turn past the samples class by class."""
    total: Value | None = None
    for turn in range(layout.classes):
        errors = [arithmetic.rotate(each, 1) for each in errors] if turn else errors
        turned = reduce(arithmetic.add, map(arithmetic.multiply, errors, samples))
        column_sums = turned
        for _ in range(layout.rows - 1):
            turned = arithmetic.rotate(turned, layout.columns)
            column_sums = arithmetic.add(column_sums, turned)
        part = arithmetic.multiply_plain(column_sums, factor * feature_diagonal(layout, turn))
        total = part if total is None else arithmetic.add(total, part)
    assert total is not None
    return total


def average(arithmetic: Arithmetic[Value], layout: Layout, moved: Value, velocity: Value, eta: float) -> Value:
    """(1 - eta) M + eta V."""
    ones = np.ones(layout.slots)
    return arithmetic.add(
        arithmetic.multiply_plain(moved, (1 - eta) * ones), arithmetic.multiply_plain(velocity, eta * ones)
    )


def sum_along(arithmetic: Arithmetic[Value], value: Value, length: int, direction: int) -> Value:
    """Add up `length` neighbours, a power of two: to the right of every slot (1) or to its left (-1)."""
    step = 1
    while step < length:
        value = arithmetic.add(value, arithmetic.rotate(value, direction * step))
        step *= 2
    return value


def repeat(arithmetic: Arithmetic[Value], value: Value, period: int, copies: int) -> Value:
    """Put `copies` of the first `period` columns one behind the other: powers of two, largest first."""
    powers = [value]
    while 2 ** len(powers) <= copies:
        powers.append(arithmetic.add(powers[-1], arithmetic.rotate(powers[-1], -period * 2 ** (len(powers) - 1))))
    made, there = powers[-1], 2 ** (len(powers) - 1)
    # what is left, smallest first: the block so far moves on by each
    for power, part in enumerate(powers[:-1]):
        if copies >> power & 1:
            made = arithmetic.add(part, arithmetic.rotate(made, -period * 2**power))
            there += 2**power
    assert there == copies
    return made


def class_diagonal(layout: Layout, turn: int) -> Vector:
    """Row i, column (i + turn) mod rows, as far as that is a class."""
    row, column = np.ogrid[: layout.rows, : layout.columns]
    return layout.pack(((row + turn) % layout.rows == column) & (column < layout.classes))


def feature_diagonal(layout: Layout, turn: int) -> Vector:
    """Row c < C, the features j with (j + turn) mod C = c: where that turn holds class c's gradient."""
    row, column = np.ogrid[: layout.classes, : layout.features]
    return layout.pack((column + turn) % layout.classes == row)


def fewest_copies(features: int, classes: int) -> int:
    """Copies of C errors that still cover d features when they are turned by C - 1 columns."""
    return ceil((features + classes - 1) / classes)


def power_of_two(number: int) -> int:
    """The smallest power of two of at least `number`."""
    return 1 << (number - 1).bit_length()
