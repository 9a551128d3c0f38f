"""The patch and position embedding of a model, and how normalisation, a cipher and its inverse change them.

Sources: see :mod:`ppvit.adaptation.adapt`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ppvit.adaptation.positions import add_to_positions, position_table
from ppvit.ciphers import AffineMap
from ppvit.core.errors import UsageError
from ppvit.models.mixing import mixing_weights, permute_mixing
from ppvit.models.projections import KeyedProjection, PatchProjection, add_bias, expand_to_nibbles, set_token_order
from ppvit.models.stems import (
    input_scale,
    install_stem,
    patch_projection,
    patch_side,
    takes_channels_last,
    token_order,
)


@dataclass
class Embedding:
    """The only tensors that adaptation changes, float64.

    The order of the blocks goes into the tables (``positions``, ``mixing``) where these are all that tells a model
    where a patch is, and into ``order`` where there are none.

    Attributes:
        weight: patch embedding, (D, V), or (N, D, V) with one a patch position; values of a patch flattened as C, h, w.
        bias: (D,).
        positions: learned position embedding of the patches, (N, D), or None.
        nibbles: the V values of a patch are nibbles, V = 2 B, and not bytes, V = B.
        order: int64 (N,), :func:`ppvit.models.stems.token_order`: patch i of what follows is patch ``order[i]`` of the
            projection; None: as they come.
        mixing: weights of an MLP-Mixer between patches, by name; see :func:`ppvit.models.mixing.mixing_weights`.
    """

    weight: Tensor
    bias: Tensor
    positions: Tensor | None
    nibbles: bool = False
    order: Tensor | None = None
    mixing: dict[str, Tensor] = field(default_factory=dict)

    @property
    def has_tables(self) -> bool:
        """Whether the order of the blocks goes into tables."""
        return self.positions is not None or bool(self.mixing)


def read_embedding(model: nn.Module) -> Embedding:
    """Copy the tensors that adaptation changes out of a model.

    Raises:
        UsageError: it has no patch projection.
    """
    projection = _projection(model)
    weight = _float64_copy(projection.weight)
    if not isinstance(projection, KeyedProjection):
        weight = weight.flatten(1)
        if takes_channels_last(model):
            side = patch_side(projection)
            weight = weight.view(-1, side, side, 3).permute(0, 3, 1, 2).flatten(1)
    bias = _float64_copy(projection.bias) if projection.bias is not None else weight.new_zeros(weight.shape[-2])
    if not isinstance(projection, KeyedProjection):
        scale, shift = input_scale(model)
        weight, bias = weight * scale, bias + shift * weight.sum(1)
    table, order = position_table(model), token_order(model)
    return Embedding(
        weight,
        bias,
        None if table is None else _float64_copy(table),
        getattr(projection, "nibbles", False),
        None if order is None else order.clone(),
        {name: _float64_copy(tensor) for name, tensor in mixing_weights(model).items()},
    )


def _projection(model: nn.Module) -> PatchProjection:
    projection = patch_projection(model)
    if projection is None:
        raise UsageError(f"{type(model).__name__} has no patch convolution at its input; choose a plain timm ViT")
    return projection


def _float64_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64, copy=True)  # even of float64: the model's own tensors will be overwritten


def write_embedding(model: nn.Module, embedding: Embedding) -> None:
    """Put an embedding into a model, in the model's dtype; where it needs another projection, that is installed.

    Models whose projection has no bias (CLIP's) take it through the position embedding, which is added right after, and
    where there is none their projection gets one.

    Raises:
        UsageError: the model has no patch projection.
    """
    blocks = len(embedding.weight) if embedding.weight.ndim == 3 else 0
    projection = _projection(model)
    if (getattr(projection, "blocks", 0), getattr(projection, "nibbles", False)) != (blocks, embedding.nibbles):
        install_stem(model, {"blocks": blocks, "nibbles": embedding.nibbles})
        projection = _projection(model)
    set_token_order(projection, embedding.order)
    weight, bias, positions, table = embedding.weight, embedding.bias, embedding.positions, position_table(model)
    if not isinstance(projection, KeyedProjection):
        if takes_channels_last(model):
            side = patch_side(projection)
            weight = weight.view(-1, 3, side, side).permute(0, 2, 3, 1).flatten(1)
        scale, shift = input_scale(model)
        weight = weight / scale
        bias = bias - shift * weight.sum(1)
    with torch.no_grad():
        projection.weight.copy_(weight.view_as(projection.weight))
        if projection.bias is not None:
            projection.bias.copy_(bias)
        if table is not None and positions is not None:
            table.copy_(positions)
        for name, tensor in mixing_weights(model).items():
            tensor.copy_(embedding.mixing[name])
        if projection.bias is None and bias.abs().max() > 0 and not add_to_positions(model, bias):
            add_bias(projection)
            cast(Tensor, projection.bias).copy_(bias)


def fold_normalization(embedding: Embedding, mean: tuple[float, ...], std: tuple[float, ...]) -> Embedding:
    """Move ``(x / 255 - mean) / std`` into the patch embedding, which then takes u = x / 127.5 - 1 instead.

    ``(x / 255 - m) / s = (u + 1 - 2 m) / (2 s)``, hence ``W' = W / (2 s_c)``, ``b' = b + sum W (1 - 2 m_c) / (2 s_c)``;
    for mean = std = 0.5 nothing changes. This must come before any cipher: pixel shuffling mixes colours, so that
    subtracting channel means afterwards is wrong whenever they differ.

    Args:
        embedding: for normalised input.
        mean, std: by channel, on a 0..1 scale.
    """
    values = embedding.weight.shape[1] // len(mean)
    means = torch.tensor(mean, dtype=torch.float64).repeat_interleave(values)
    stds = torch.tensor(std, dtype=torch.float64).repeat_interleave(values)
    bias = embedding.bias + embedding.weight @ ((1 - 2 * means) / (2 * stds))
    return replace(embedding, weight=embedding.weight / (2 * stds), bias=bias)


def encrypt_embedding(embedding: Embedding, affine: AffineMap) -> Embedding:
    """The embedding that sees ciphertext as ``embedding`` sees plain pixels.

    ``W^_t[:, j] = s_t[j] W'[:, kp_t[j]]``, then ``W^_t M^-1``; ``P^[t] = P[kb[t]]``. On [-1, 1] an inversion is a sign
    and needs no bias term. With a key for every block position there is a kernel for every t.
    """
    weight = embedding.weight
    if affine.nibbles and not embedding.nibbles:
        weight = expand_to_nibbles(weight)
    blocks = torch.as_tensor(affine.block_permutation)
    if weight.ndim == 3:
        weight = weight[blocks]
    weight = _gather_values(weight, affine.value_permutation) * _per_kernel(affine.sign)
    if affine.matrix is not None:
        weight = weight @ torch.from_numpy(np.linalg.inv(affine.matrix))
    moved = _with_blocks(embedding, blocks)
    return replace(moved, weight=weight, nibbles=affine.nibbles or embedding.nibbles)


def decrypt_embedding(embedding: Embedding, affine: AffineMap) -> Embedding:
    """The inverse of :func:`encrypt_embedding`, for a model that comes back fine-tuned.

    It keeps kernels for every position and nibbles where encryption needed them: training may have changed each.
    """
    weight = embedding.weight
    if affine.nibbles and not embedding.nibbles:  # a model that was never adapted
        weight = expand_to_nibbles(weight)
    if affine.matrix is not None:
        weight = weight @ torch.from_numpy(affine.matrix)
    weight = _gather_values(weight * _per_kernel(affine.sign), np.argsort(affine.value_permutation, axis=-1))
    blocks = torch.as_tensor(np.argsort(affine.block_permutation))
    if weight.ndim == 3:
        weight = weight[blocks]
    moved = _with_blocks(embedding, blocks)
    return replace(moved, weight=weight, nibbles=affine.nibbles or embedding.nibbles)


def _with_blocks(embedding: Embedding, blocks: Tensor) -> Embedding:
    """The embedding whose patch t takes the place of patch ``blocks[t]``.

    With an order it holds: what was at ``order[i]`` is now at t where ``blocks[t] = order[i]``.
    """
    if embedding.has_tables:
        positions = None if embedding.positions is None else embedding.positions[blocks]
        mixing = {name: permute_mixing(name, tensor, blocks) for name, tensor in embedding.mixing.items()}
        return replace(embedding, positions=positions, mixing=mixing)
    plain = torch.arange(len(blocks))
    order = torch.argsort(blocks)[plain if embedding.order is None else embedding.order]
    return replace(embedding, order=None if torch.equal(order, plain) else order)


def _gather_values(weight: Tensor, permutation: np.ndarray) -> Tensor:
    """``weight[..., permutation]``; (N, V) permutations give every position a kernel of its own."""
    index = torch.as_tensor(permutation)
    if index.ndim == 1:
        return weight[..., index]
    shape = (len(index), weight.shape[-2], index.shape[1])
    return weight.expand(shape).gather(2, index[:, None, :].expand(shape))


def _per_kernel(sign: np.ndarray) -> Tensor:
    """Signs (V,) or (N, V) as they multiply weights (D, V) or (N, D, V)."""
    signs = torch.as_tensor(sign, dtype=torch.float64)
    return signs if signs.ndim == 1 else signs[:, None, :]
