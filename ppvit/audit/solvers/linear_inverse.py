"""The linear part of a learned inverse, solved for by ridge regression; and images as tensors of block values.

See :mod:`ppvit.audit.attacks.inverse_network` for the attack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ppvit.audit.view import to_blocks
from ppvit.core.device import device

RANK = 64  # of the map of one position, where every position has its own
RIDGES = (1e-6, 1e-3, 1e-1, 10.0)  # penalties tried, in units of the mean variance of the inputs


class Linear(NamedTuple):
    """A linear map of ciphertext blocks to plain ones.

    Attributes:
        mixing: (N, N), each plain position as a sum of ciphertext positions.
        down, up: (N, F, R) and (N, R, B), map of a block's F inputs by way of R numbers; without ``down`` (1, F, B).
        bias: (N, B).
    """

    mixing: Tensor
    down: Tensor | None
    up: Tensor
    bias: Tensor

    def blocks(self, mixed: Tensor) -> Tensor:
        """Plain blocks (n, N, B) of inputs (n, N, F) that :attr:`mixing` has put in place."""
        found = mixed.transpose(0, 1) if self.down is None else mixed.transpose(0, 1) @ self.down
        return (found @ self.up).transpose(0, 1) + self.bias


def solve_linear(plain: np.ndarray, encrypted: np.ndarray, block_size: int, per_position: bool) -> Linear:
    """The map with the smallest error on a quarter of the pairs, solved for on the others."""
    blocks = torch.from_numpy(to_blocks(plain, block_size)).float() / 127.5 - 1  # (n, N, B)
    inputs = block_inputs(as_tensor(encrypted).cpu(), block_size)  # (n, N, F)
    fit = len(blocks) * 3 // 4
    best, least = None, float("inf")
    for mixing in (torch.eye(blocks.shape[1]), _mixing(inputs[:fit], blocks[:fit])):
        mixed = torch.einsum("st,ntf->nsf", mixing, inputs)
        solved = _linear_by_position if per_position else _linear
        for found in solved(mixed[:fit], blocks[:fit]):
            linear = Linear(mixing, *found)
            error = float(functional.mse_loss(linear.blocks(mixed[fit:]), blocks[fit:]))
            if best is None or error < least:
                best, least = linear, error
    assert best is not None  # one of the penalties is always tried
    return best


def _mixing(inputs: Tensor, blocks: Tensor) -> Tensor:
    """Where each block went, as far as its histogram shows: regression of plain on ciphertext histograms, (N, N).

    How many nibbles have which distance from the middle survives permutation and inversion inside the block. Every bin
    of every image is an equation. Of floats and tokens there is the mean distance only.
    """
    sides = inputs.abs(), _nibbles(blocks).abs()
    if inputs.shape[2] == 2 * blocks.shape[2]:
        bins = [level / 7.5 for level in np.arange(0.5, 8)]  # |nibble - 7.5| / 7.5
        histograms = [[((x - level).abs() < 0.05).float().mean(2) for level in bins] for x in sides]
    else:
        histograms = [[x.mean(2)] for x in sides]
    seen, wanted = (torch.cat([(x - x.mean(0)) / x.std().clamp(min=1e-6) for x in side]) for side in histograms)
    return _ridge(seen.T @ seen, seen.T @ wanted, 1e-3).T.contiguous()


def _linear(inputs: Tensor, blocks: Tensor) -> Iterator[tuple[None, Tensor, Tensor]]:
    """One map for all positions, for each of the penalties: up (1, F, B), bias (N, B).

    Means are taken out position by position: whatever a ciphertext hides, the average image is known.
    """
    centre, goal = inputs.mean(dim=0), blocks.mean(dim=0)
    x, y = (inputs - centre).flatten(0, 1), (blocks - goal).flatten(0, 1)
    gram, product = x.T @ x, x.T @ y
    for ridge in RIDGES:
        weight = _ridge(gram, product, ridge)
        yield None, weight[None], goal - centre @ weight


def _linear_by_position(inputs: Tensor, blocks: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A map for every position from the principal components of its inputs: (N, F, R), (N, R, B), (N, B)."""
    centre, goal = inputs.mean(dim=0), blocks.mean(dim=0)
    x, y = (inputs - centre).transpose(0, 1), (blocks - goal).transpose(0, 1)  # (N, n, F), (N, n, B)
    down = torch.stack([torch.linalg.svd(one, full_matrices=False)[2][:RANK].T for one in x])
    x = x @ down
    gram, product = x.transpose(1, 2) @ x, x.transpose(1, 2) @ y
    for ridge in RIDGES:
        up = _ridge(gram, product, ridge)
        yield down, up, goal - ((centre[:, None] @ down) @ up)[:, 0]


def _ridge(gram: Tensor, product: Tensor, ridge: float) -> Tensor:
    """Solve ``(gram + ridge * mean(diagonal)) weight = product`` in double precision: (.., F, F), (.., F, B)."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].double()
    penalty = (ridge * diagonal + 1e-9) * torch.eye(gram.shape[-1], dtype=torch.float64)
    weight: Tensor = torch.linalg.solve(gram.double() + penalty, product.double())
    return weight.float()


def as_tensor(images: np.ndarray) -> Tensor:
    """Any images or tokens as float32 in units of 127.5 around the middle of a byte, on the device of training."""
    return torch.from_numpy(images.astype(np.float32)).to(device()) / 127.5 - 1


def block_inputs(encrypted: Tensor, block_size: int) -> Tensor:
    """What the linear maps see: tokens, (n, N, width), as they are; blocks of images as nibbles, (n, N, 2 B)."""
    if encrypted.ndim == 3:
        return encrypted
    count, height, width, _ = encrypted.shape
    rows, columns = height // block_size, width // block_size
    grid = encrypted.reshape(count, rows, block_size, columns, block_size, 3).permute(0, 1, 3, 5, 2, 4)
    return _nibbles(grid.reshape(count, rows * columns, -1))


def _nibbles(values: Tensor) -> Tensor:
    """High and low nibble, -1 .. 1 each; for values between bytes the high one is whole and the low one is the rest."""
    values = (values + 1) * 127.5
    high = (values / 16 + 1e-3).floor()
    return torch.cat([high, values - 16 * high], dim=-1) / 7.5 - 1


def to_image(blocks: Tensor, block_size: int) -> Tensor:
    """Blocks (n, N, B) to images (n, 3, H, W)."""
    side = round(blocks.shape[1] ** 0.5)
    grid: Tensor = blocks.unflatten(2, (3, block_size, block_size)).unflatten(1, (side, side))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
