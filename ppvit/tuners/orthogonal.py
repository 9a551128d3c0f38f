"""Approximately orthogonal matrices from one vector, and products with them at O(N + d) a token.

As described in summaries by others of Yang et al., "Efficient adaptation of pre-trained Vision Transformer underpinned
by approximately orthogonal fine-tuning strategy", arXiv 2507.13260, whose text we could not read.
A vector q = (q_0, v) in R^N gives the N x N matrix

    Q[0, 0] = q_0     Q[0, j] = -q_j     Q[i, 0] = q_i     Q[i, j] = delta_ij - q_i q_j / (1 + q_0)       i, j >= 1

whose first d columns are AO(q). With n = q + e_0, m = n[:d] / (1 + q_0), E = the first d columns of the identity, and
S = diag(-1, 1, ..., 1),

    AO(q) = (E - n m^T) S
    AO^T AO = I + (|q|^2 - 1) w w^T,  w = (1, -q_1 / (1 + q_0), ..., -q_{d-1} / (1 + q_0))

so that d - 1 of the singular values are 1 for every q, and all of them for |q| = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ppvit.tuners.structured import Update

SMALLEST_DENOMINATOR = 1e-3  # that 1 + q_0 counts as; for |q| = 1 the matrix stays bounded even there


def random_vector(size: int) -> Tensor:
    """Start value of q: uniform on the unit half-sphere q_0 >= 0, float32, (size,), from torch's CPU generator.

    Norm 1 makes AO(q) exactly orthogonal. q_0 >= 0 keeps it far from the pole at q_0 = -1. Random, since column 0 is q
    itself: it then sees all inputs alike, and every layer others. (q = e_0 would give the first d coordinates.)
    """
    vector = functional.normalize(torch.randn(size), dim=0)
    vector[0].abs_()
    return vector


def reflector(q: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """n = q + e_0 and m = n[:d] / (1 + q_0) for vectors q (..., N): (..., N) and (..., d).

    1 + q_0 counts as at least ``SMALLEST_DENOMINATOR``: finite at the pole, and no step leads across it.
    """
    first = q.new_zeros(q.shape[-1])
    first[0] = 1
    n = q + first
    return n, n[..., :columns] / n[..., :1].clamp(min=SMALLEST_DENOMINATOR)


def orthogonal_columns(q: Tensor, columns: int) -> Tensor:
    """AO(q) written out, (N, d), for q (N,)."""
    n, m = reflector(q, columns)
    matrix = torch.eye(len(q), columns, dtype=q.dtype, device=q.device) - torch.outer(n, m)
    return torch.cat([-matrix[:, :1], matrix[:, 1:]], dim=1)


def product_update(down: Tensor, up: Tensor, scale: Tensor) -> Update:
    """``AO(up) diag(scale) AO(down)^T`` without writing the factors out.

    S cancels. What is left is diag(scale) - E (scale m_down) n_down^T - n_up (scale m_up)^T E^T
    + (m_up . scale m_down) n_up n_down^T: a diagonal and two rank-one terms.

    Args:
        down: (k, in), the vectors of the factors that read.
        up: (k, out), those of the factors that write.
        scale: (k, d).
    """
    columns = scale.shape[-1]
    n_down, m_down = reflector(down, columns)
    n_up, m_up = reflector(up, columns)
    scaled_down, scaled_up = scale * m_down, scale * m_up
    both = (m_up * scaled_down).sum(-1, keepdim=True)
    return Update(
        diagonal=scale,
        down=torch.stack([n_down, _pad(scaled_up, down.shape[-1])], dim=1),
        up=torch.stack([both * n_up - _pad(scaled_down, up.shape[-1]), -n_up], dim=1),
    )


def difference_update(now: Update, start: Update) -> Update:
    """``now - start`` for updates of equal diagonals, which cancel; exactly zero for equal ones, not up to rounding.

    up^T down - up_0^T down_0 = up^T (down - down_0) + (up - up_0)^T down_0: four rank-one terms, whatever d is.
    """
    return Update(
        diagonal=None,
        down=torch.cat([now.down - start.down, start.down], dim=1),
        up=torch.cat([now.up, now.up - start.up], dim=1),
    )


def _pad(values: Tensor, size: int) -> Tensor:
    return functional.pad(values, (0, size - values.shape[-1]))
