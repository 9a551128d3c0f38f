"""Learned N x N matrices over patches, meant to undo block scrambling for networks that mix neighbours.

Source: Qi, AprilPyone and Kiya, "Privacy-preserving image classification using an isotropic network", arXiv 2208.02556;
J. Imaging 9(4):85, 2023, of which the parametrisation and any penalty could not be read: the forms here are ours.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Form = Literal["free", "l12", "sinkhorn"]

LAST_TEMPERATURE = 0.05
_SINKHORN_ITERATIONS = 20


class Penalised(nn.Module):
    """A module whose training may add terms to the loss.

    Attributes:
        terms: names of the penalties that it has.
        anneals: whether it follows :meth:`set_progress`.
        asked: whether the next forward pass is to compute them.
        penalties: what it computed, by name: scalars of the graph, each still to be multiplied by a weight.
    """

    terms: tuple[str, ...] = ()
    anneals = False

    def __init__(self) -> None:
        super().__init__()
        self.asked = False
        self.penalties: dict[str, Tensor] = {}

    def order(self) -> Tensor | None:
        """Learned weights over blocks, (N, N): column j is what new block j is made of; None without any."""
        return None

    def distance(self) -> Tensor | None:
        """How far :meth:`order` is from a permutation, see :func:`least_distance`."""
        order = self.order()
        return None if order is None else least_distance(order.detach())

    def set_progress(self, done: float) -> None:
        """Called before an epoch with the share of training that is behind when it ends."""


def learned_layer_names(model: nn.Module) -> list[str]:
    """Module names of the :class:`Penalised` layers of a model that train."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Penalised) and any(value.requires_grad for value in module.parameters(recurse=False))
    ]


class AdaptivePermutation(Penalised):
    """Every patch becomes a weighted sum of all patches, with learned weights.

    Args:
        blocks: N.
        form: what the weights are made of. ``free``: they are parameters, and start as the identity. ``l12``: the same,
            the weights of every new patch over their length, and a penalty, :func:`l12`, draws them to a permutation.
            ``sinkhorn``: doubly stochastic, ``exp(logits / T)`` over its sums of rows and columns in turn, 20 times
            (Mena et al., arXiv 1802.08665); they start with half of every patch, and T falls from 1 to 0.05.
    """

    temperature: Tensor

    def __init__(self, blocks: int, form: Form = "free") -> None:
        super().__init__()
        self.blocks, self.form = blocks, form
        self.terms, self.anneals = ("permutation",) if form == "l12" else (), form == "sinkhorn"
        start = math.log(max(blocks - 1, 1)) if form == "sinkhorn" else 1.0
        self.matrix = nn.Parameter(start * torch.eye(blocks))
        if form == "sinkhorn":
            self.register_buffer("temperature", torch.ones(()))

    def order(self) -> Tensor:
        """(N, N): column j is what new patch j is made of."""
        if self.form == "free":
            return self.matrix
        if self.form == "l12":
            return functional.normalize(self.matrix, dim=0)
        logits = self.matrix.float() / self.temperature
        for _ in range(_SINKHORN_ITERATIONS):
            logits = logits - logits.logsumexp(1, keepdim=True)
            logits = logits - logits.logsumexp(0, keepdim=True)
        doubly_stochastic: Tensor = logits.exp().to(self.matrix.dtype)
        return doubly_stochastic

    def forward(self, features: Tensor) -> Tensor:
        """Mix the positions of (n, D, h, w)."""
        weights = self.order()
        if self.asked and self.terms:
            self.penalties = {"permutation": l12(weights)}
        mixed: Tensor = features.flatten(2) @ weights
        return mixed.view_as(features)

    def set_progress(self, done: float) -> None:
        """Let the temperature fall, 1 to 0.05, the same share of it in every epoch."""
        if self.anneals:
            self.temperature.fill_(LAST_TEMPERATURE**done)

    def extra_repr(self) -> str:
        return f"blocks={self.blocks}, form={self.form}"


def l12(matrix: Tensor) -> Tensor:
    """``(1 / N^2) (sum over rows of |u|_1 - |u|_2, and the same over columns)`` (Madono et al., ``L_U``); float32.

    It is zero where every row and every column has one entry other than 0, or none.
    """
    matrix = matrix.float()
    lengths = matrix.norm(dim=0).sum() + matrix.norm(dim=1).sum()
    penalty: Tensor = (2 * matrix.abs().sum() - lengths) / matrix.numel()
    return penalty


def least_distance(matrix: Tensor) -> Tensor:
    """How far a matrix is from a permutation of any scale: 1 - mean of the largest share that an entry has of a row.

    0 where every row has a single entry, up to 1 - 1 / N where all are alike; float32.
    """
    sizes = matrix.detach().float().abs()
    return 1 - (sizes.amax(1) / sizes.sum(1).clamp_min(1e-30)).mean()
