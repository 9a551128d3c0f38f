"""How images, labels and weights lie in the slots, so that Chiang's 128 images take 4 ciphertexts in place of 6 or 10.

As in Volley Revolver (Chiang, arXiv 2304.03807, section 4) a row of slots is an image. What differs, and what each
change saves at 128 images, 401 columns and a ring of 32,768, where Volley Revolver uploads 10 (samples 4, labels 4,
weights 1, steps 1):

1. weights begin at zero, as in the author's program in the clear: they are not uploaded, 9;
2. the steps of the quadratic gradient are folded into the columns, X sqrt(b), and out of the weights at the owner: 8;
3. labels stand in columns that the features leave free, and one mask takes them out: 4;
4. slots hold complex numbers, half of the images as imaginary parts, which a conjugation takes apart: 2.

Weights are held as diagonals, as matrices are in Halevi and Shoup (CRYPTO 2014): value t has, in column j of every row,
the weight of class j mod B and feature j - t, for B lanes of classes. With images turned right by t columns, X_t,

    Z = sum_t X_t * V_t, added up over blocks of B columns,      V_t = sum over rows of E * X_t,

where E repeats Y - P along the row with period B. So there are two masks alone: the labels', and the cubic's, which
rides on its coefficients. The first iteration, whose sigmoid is 1/2, takes 2 levels and each later one 4, where Volley
Revolver takes 8. With 6 levels for two iterations a ring of 16,384 does: 4 ciphertexts of half the size.

(HETAL, ICML 2023, also multiplies by diagonals and with complex slots; we know its abstract and reviews alone.)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ppvit.core.errors import UsageError
from ppvit.he.algorithms import Floats, Labels, truths
from ppvit.he.ckks.arithmetic import Vector
from ppvit.he.ckks.session import CONJUGATION
from ppvit.he.volley_revolver.layout import power_of_two
from ppvit.he.volley_revolver.quadratic_gradient import column_steps

Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Layout:
    """Rows of slots, an image each: features in blocks of lanes, then the labels, then zeros.

    Attributes:
        samples, features, classes: n, d (the constant included) and C.
        slots: of a ciphertext, S.
    """

    samples: int
    features: int
    classes: int
    slots: int

    @property
    def lanes(self) -> int:
        """B, slots for classes, a power of two; as many values hold the weights."""
        return power_of_two(self.classes)

    @property
    def blocks(self) -> int:
        """K, blocks of lanes that the features touch when they are turned by up to B - 1 columns."""
        return ceil((self.features + self.lanes - 1) / self.lanes)

    @property
    def label_column(self) -> int:
        """Where a row's labels begin, behind the features."""
        return self.blocks * self.lanes

    @property
    def columns(self) -> int:
        """Of a row, a power of two: with the labels turned by B - 1 columns nothing reaches the next row."""
        return power_of_two(self.label_column + self.classes + self.lanes - 1)

    @property
    def rows(self) -> int:
        """Images in the real, or in the imaginary, parts of one ciphertext."""
        return self.slots // self.columns

    @property
    def groups(self) -> int:
        """Sets of rows that hold all images."""
        return ceil(self.samples / self.rows)

    @property
    def ciphertexts(self) -> int:
        """What is uploaded, all of it: two groups each."""
        return ceil(self.groups / 2)

    @property
    def folds(self) -> list[int]:
        """Rotations that add up all blocks of a row in its first one."""
        return [self.lanes << power for power in range((self.blocks - 1).bit_length())]

    @property
    def over_rows(self) -> list[int]:
        """Rotations that add up all rows in every one."""
        return [self.columns << power for power in range(self.rows.bit_length() - 1)]

    def rotations(self) -> list[int]:
        """Every number of steps that training rotates by, and the conjugation where there are imaginary parts."""
        copies = [-self.lanes << power for power in range(self.blocks.bit_length() - 1)]
        conjugation = [CONJUGATION] if self.groups > 1 else []
        turn = [-1] if self.lanes > 1 else []
        return sorted({*turn, self.label_column, *self.folds, *copies, *self.over_rows, *conjugation})

    def mask(self, first: int, value: float) -> Vector:
        """``value`` in C columns of every row from ``first`` on, zero elsewhere: (S,)."""
        grid = np.zeros((self.rows, self.columns))
        grid[:, first : first + self.classes] = value
        return grid.ravel()

    def prepare(self, features: Floats, labels: Labels) -> list[Complex]:
        """What the owner encrypts: *half* of the numbers, as taking the parts doubles them.

        Args:
            features: (n, d), the constant included; scaled here by the roots of their steps.
            labels: (n,), 0..C-1, or (n, C), 0 and 1; Y - 1/2 is laid out.

        Returns:
            ``ciphertexts`` arrays (S,), complex128.
        """
        grid = np.zeros((2 * self.ciphertexts * self.rows, self.columns))
        grid[: len(features), : self.features] = features * np.sqrt(column_steps(features)) / 2
        truth = truths(labels, self.classes) - 0.5
        grid[: len(features), self.label_column : self.label_column + self.classes] = truth / 2
        parts = grid.reshape(self.ciphertexts, 2, self.slots)
        return list(parts[:, 0] + 1j * parts[:, 1])

    def unpack(self, diagonals: list[Vector], features: Floats) -> Floats:
        """Weights, (C, d), out of the B decrypted diagonals, (S,) each.

        Args:
            diagonals: what training gave.
            features: of :meth:`prepare`, from which their steps follow.
        """
        rows = np.stack([np.asarray(each)[: self.columns] for each in diagonals])  # one row: all of them are equal
        classes, columns = np.ogrid[: self.classes, : self.features]
        turns = (classes - columns) % self.lanes
        return np.asarray(rows[turns, columns + turns] * np.sqrt(column_steps(features)))


def make_layout(samples: int, features: int, classes: int, slots: int) -> Layout:
    """The layout, checked.

    Args:
        samples, features, classes: n, d (the constant included), C.
        slots: of a ciphertext, half the ring degree.

    Raises:
        UsageError: a ciphertext does not hold one row.
    """
    layout = Layout(samples, features, classes, slots)
    if layout.columns > slots:
        raise UsageError(
            f"he.algorithm diagonals: {features} columns and {classes} classes take a row of {layout.columns} slots, a "
            f"ciphertext has {slots}; take fewer features or set he.algorithm=tiles"
        )
    return layout
