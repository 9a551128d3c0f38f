"""Layers that embed patches of ciphertext: with a key per block position, of nibbles, with the patches put in order."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppvit.core.errors import UsageError


class OrderedConv2d(nn.Conv2d):
    """A patch convolution whose patches leave in the order of the plain image: (n, 3, H, W) to (n, D, h, w).

    Whatever follows sees no scrambling, so that it may know positions in any way: rotary, relative, by windows or by
    convolutions. A model gets one through :func:`set_token_order`, which keeps names and weights.

    Attributes:
        token_order: int64 (h w,); patch i of the plain image is patch ``token_order[i]`` of the ciphertext.
    """

    token_order: Tensor

    def forward(self, images: Tensor) -> Tensor:
        patches = super().forward(images)
        return in_order(patches.flatten(2), self.token_order, 2).view_as(patches)


class OrderedLinear(nn.Linear):
    """As :class:`OrderedConv2d`, for networks that cut patches out first: (n, N, V) to (n, N, D)."""

    token_order: Tensor

    def forward(self, patches: Tensor) -> Tensor:
        return in_order(super().forward(patches), self.token_order, 1)


class KeyedProjection(nn.Module):
    """The patch projection for ciphers of :class:`ppvit.ciphers.AffineMap`: (n, 3, H, W) in [-1, 1] to (n, D, h, w).

    Args:
        patch_size: p.
        width: D.
        blocks: N, for a kernel at every patch position; 0 for one that all positions share.
        nibbles: split bytes into nibbles first: 2 B inputs a patch, all high nibbles before all low ones.
        bias: whether there is one; all positions share it, because values are centred.

    Attributes:
        weight: (D, V), or (N, D, V) with a kernel a position; V = B = 3 p^2, or 2 B for nibbles; flattened as C, h, w.
        bias: (D,) or None.
        token_order: None, or the order in which patches leave, see :class:`OrderedConv2d`. Kernel t belongs to position
            t of the ciphertext, so the order comes last.
    """

    token_order: Tensor | None

    def __init__(self, patch_size: int, width: int, blocks: int = 0, nibbles: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.patch_size, self.blocks, self.nibbles = patch_size, blocks, nibbles
        values = 3 * patch_size**2 * (2 if nibbles else 1)
        self.weight = nn.Parameter(torch.zeros((blocks, width, values) if blocks else (width, values)))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.register_buffer("token_order", None)

    def forward(self, images: Tensor) -> Tensor:
        values = scaled_nibbles(images) if self.nibbles else images
        count, channels, height, width = values.shape
        p = self.patch_size
        grid = values.reshape(count, channels, height // p, p, width // p, p)
        patches = grid.permute(2, 4, 0, 1, 3, 5).reshape(-1, count, channels * p * p)  # (N, n, V)
        return self.tokens(patches).permute(1, 2, 0).reshape(count, -1, height // p, width // p)

    def tokens(self, patches: Tensor) -> Tensor:
        """(N, n, V) to (N, n, D)."""
        if self.blocks:
            tokens = torch.bmm(patches, self.weight.transpose(1, 2))  # all positions in one product
            tokens = tokens if self.bias is None else tokens + self.bias
        else:
            tokens = functional.linear(patches, self.weight, self.bias)
        return tokens if self.token_order is None else in_order(tokens, self.token_order, 0)


class KeyedPatches(KeyedProjection):
    """As :class:`KeyedProjection`, for networks that cut patches out first: (n, N, B) in [-1, 1] to (n, N, D).

    Attributes:
        channels_last: patches come flattened as h, w, C, which is NaFlex's way.
        scale, shift: patches come as ``scale * values + shift``, see :func:`ppvit.models.stems.input_scale`.
    """

    channels_last = False
    scale, shift = 1.0, 0.0

    def forward(self, patches: Tensor) -> Tensor:
        count, blocks, p = len(patches), patches.shape[1], self.patch_size
        patches = (patches - self.shift) / self.scale
        if self.channels_last:
            images = patches.reshape(-1, p, p, 3).permute(0, 3, 1, 2)
        else:
            images = patches.reshape(-1, 3, p, p)
        values = scaled_nibbles(images) if self.nibbles else images
        return self.tokens(values.reshape(count, blocks, -1).transpose(0, 1)).transpose(0, 1)


PatchProjection = nn.Conv2d | nn.Linear | KeyedProjection
"""All that can embed patches; a linear layer where patches were cut out before."""


def in_order(tokens: Tensor, order: Tensor, axis: int) -> Tensor:
    """Tokens in another order.

    Raises:
        UsageError: there are more or fewer of them, as images of another size give.
    """
    if tokens.shape[axis] != len(order):
        raise UsageError(
            f"the model was adapted to images of {len(order)} patches, these have {tokens.shape[axis]}; set "
            "dataset.image_size to what it was adapted with, or adapt it again: dvc repro adapt"
        )
    return tokens.index_select(axis, order)


def is_order(tensor: Tensor) -> bool:
    """Whether a tensor of another's file names each of N patches once; anything else would be read out of bounds."""
    whole = tensor.ndim == 1 and tensor.dtype == torch.int64
    return whole and torch.equal(tensor.sort().values, torch.arange(len(tensor), device=tensor.device))


def add_bias(projection: PatchProjection) -> None:
    """Give a projection a bias of zeros, at which plain timm stops: what an attribute ``bias_was_added`` tells."""
    width = projection.weight.shape[-2] if isinstance(projection, KeyedProjection) else len(projection.weight)
    projection.bias = nn.Parameter(projection.weight.detach().new_zeros(width))
    cast(Any, projection).bias_was_added = True


_ORDERED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: OrderedConv2d, nn.Linear: OrderedLinear}
_PLAIN = {ordered: plain for plain, ordered in _ORDERED.items()}


def set_token_order(projection: PatchProjection, order: Tensor | None) -> None:
    """Let a projection put its patches in an order, in place of the one that it has; None: as they come.

    Args:
        projection: its names and weights stay; a buffer ``token_order`` comes or goes, at which plain timm stops.
        order: int64 (N,).
    """
    kind: Any = type(projection)
    projection._buffers.pop("token_order", None)
    if not isinstance(projection, KeyedProjection):
        projection.__class__ = _PLAIN.get(kind, kind) if order is None else _ORDERED.get(kind, kind)
    if order is not None or isinstance(projection, KeyedProjection):
        device = projection.weight.device
        projection.register_buffer("token_order", None if order is None else order.to(device, torch.int64, copy=True))


def scaled_nibbles(images: Tensor) -> Tensor:
    """High and low nibbles of pixels, each scaled from 0..15 to [-1, 1]: (n, 3, H, W) in [-1, 1] to (n, 6, H, W)."""
    pixels = torch.round(images * 127.5 + 127.5)
    high = torch.floor(pixels / 16)
    return (torch.cat([high, pixels - 16 * high], dim=1) - 7.5) / 7.5


def expand_to_nibbles(weight: Tensor) -> Tensor:
    """The weight over nibbles that equals one over bytes: (..., B) to (..., 2 B).

    ``x = 16 h + l`` with all of them scaled to [-1, 1] is ``(16 h + l) / 17``, since 15 * 17 = 255.
    """
    return torch.cat([weight * (16 / 17), weight / 17], dim=-1)
