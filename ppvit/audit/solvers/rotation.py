"""Ciphertext only against an orthogonal matrix: principal components of ciphertext blocks are plain ones, turned.

The covariance of ciphertext blocks is ``Q C Q^T`` for the covariance C of plain blocks, which is much the same for all
photographs. So the k-th eigenvector of one is Q times the k-th of the other, up to its sign, as far as eigenvalues are
apart. Means and third moments tell the signs. The first components, which hold most of what is seen, come out right;
the many small ones do not. As known as principal component attacks on rotation perturbation: Liu, Giannella and
Kargupta, "An attacker's view of distance preserving maps for privacy preserving data mining", PKDD 2006.
"""

from __future__ import annotations

import numpy as np


def recover_rotation(encrypted: np.ndarray, public: np.ndarray) -> np.ndarray:
    """The orthogonal matrix that takes blocks like ``public`` to blocks like ``encrypted``.

    Args:
        encrypted: ciphertext blocks as rows, float, (m, B), centred on the middle of the scale.
        public: blocks of other plain images, float, (k, B), centred alike.

    Returns:
        float64, (B, B).
    """
    turned, plain = _components(encrypted), _components(public)
    signs = np.where(_skew(encrypted, turned) * _skew(public, plain) < 0, -1.0, 1.0)
    return np.asarray((turned * signs) @ plain.T)


def _components(rows: np.ndarray) -> np.ndarray:
    """Principal components about the middle of the scale, the largest first, as columns."""
    _, vectors = np.linalg.eigh(rows.T @ rows)
    return vectors[:, ::-1]


def _skew(rows: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Which way every component leans: the sum of its third powers, in which a mean counts as well."""
    return np.asarray(((rows @ components) ** 3).sum(axis=0))
