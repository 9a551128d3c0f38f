"""First layers that timm does not have: patch embeddings for ciphers with keys per block position, nibbles or tokens,
and the normalisation in front of a ResNet.

A model whose first layer was replaced says so in its ``config.json`` (``stem``), from which :func:`install_stem` builds
it again.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.models import ResNet
from torch import Tensor, nn
from torch.nn import functional

from ppvit.core.errors import UsageError


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
    """

    def __init__(self, patch_size: int, width: int, blocks: int = 0, nibbles: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.patch_size, self.blocks, self.nibbles = patch_size, blocks, nibbles
        values = 3 * patch_size**2 * (2 if nibbles else 1)
        self.weight = nn.Parameter(torch.zeros((blocks, width, values) if blocks else (width, values)))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, images: Tensor) -> Tensor:
        values = scaled_nibbles(images) if self.nibbles else images
        count, channels, height, width = values.shape
        p = self.patch_size
        grid = values.reshape(count, channels, height // p, p, width // p, p)
        patches = grid.permute(2, 4, 0, 1, 3, 5).reshape(-1, count, channels * p * p)  # (N, n, V)
        if self.blocks:
            tokens = torch.bmm(patches, self.weight.transpose(1, 2))  # all positions in one product
            tokens = tokens if self.bias is None else tokens + self.bias
        else:
            tokens = functional.linear(patches, self.weight, self.bias)
        return tokens.permute(1, 2, 0).reshape(count, -1, height // p, width // p)


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


class TokenEmbedding(nn.Module):
    """In place of a patch embedding, for images that come as tokens (NeuraCrypt): (n, N, T) to (n, N, D).

    Args:
        tokens: N.
        token_width: T.
        width: D.
    """

    def __init__(self, tokens: int, token_width: int, width: int) -> None:
        super().__init__()
        self.num_patches, self.token_width = tokens, token_width
        side = round(tokens**0.5)
        self.grid_size = (side, side)
        self.proj = nn.Linear(token_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.proj(tokens)
        return embedded


class AdaptivePermutation(nn.Module):
    """A learned N x N matrix over patches, meant to undo block scrambling for networks that mix neighbours.

    Source: Qi, AprilPyone and Kiya, "Privacy-preserving image classification using an isotropic network", 2022.

    Args:
        blocks: N.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.matrix = nn.Parameter(torch.eye(blocks))

    def forward(self, features: Tensor) -> Tensor:
        """Mix the positions of (n, D, h, w)."""
        return (features.flatten(2) @ self.matrix).view_as(features)


class InputNormalization(nn.Module):
    """``(u - center) / scale`` by colour: pixels u in [-1, 1] as a network expects them, (n, 3, H, W) to the same.

    It cannot be folded into a convolution that pads: its zeros stand for the mean colour, not for u = 0.

    Attributes:
        center: (3, 1, 1), 2 m - 1 for a mean m on a 0..1 scale.
        scale: (3, 1, 1), 2 s for a standard deviation s.
    """

    center: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(3, 1, 1))
        self.register_buffer("scale", torch.ones(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.center) / self.scale


def normalize_input(model: ResNet, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Let a ResNet for ``(x / 255 - mean) / std`` take u = x / 127.5 - 1: ``(u - (2 m - 1)) / (2 s)`` is the same.

    Nothing is installed where mean = std = 0.5, which is u itself.
    """
    if set((*mean, *std)) == {0.5}:
        return
    install_stem(model, {"normalization": True})
    layer, dtype = cast(InputNormalization, model.conv1[0]), next(model.parameters()).dtype
    layer.center.copy_(2 * torch.tensor(mean, dtype=dtype).view(3, 1, 1) - 1)
    layer.scale.copy_(2 * torch.tensor(std, dtype=dtype).view(3, 1, 1))


def patch_projection(model: nn.Module) -> nn.Conv2d | KeyedProjection | None:
    """The layer that embeds patches, in a Vision Transformer or a ConvMixer; None where there is none."""
    stem = getattr(model, "stem", None)
    if isinstance(stem, nn.Sequential) and isinstance(stem[0], nn.Conv2d | KeyedProjection):
        return stem[0]
    embedding = getattr(model, "patch_embed", None)
    projection = getattr(embedding, "proj", None)
    if isinstance(projection, nn.Conv2d | KeyedProjection) and not hasattr(embedding, "backbone"):
        return projection
    return None


def stem_of(model: nn.Module) -> dict[str, Any] | None:
    """What :func:`install_stem` needs to rebuild the model's first layers, or None where timm's own are in place."""
    embedding = getattr(model, "patch_embed", None)
    if isinstance(embedding, TokenEmbedding):
        return {"tokens": embedding.num_patches, "token_width": embedding.token_width}
    if isinstance(model, ResNet):
        normalized = isinstance(model.conv1, nn.Sequential) and isinstance(model.conv1[0], InputNormalization)
        return {"normalization": True} if normalized else None
    stem: dict[str, Any] = {}
    projection = patch_projection(model)
    if isinstance(projection, KeyedProjection):
        stem |= {"blocks": projection.blocks, "nibbles": projection.nibbles}
    layers = getattr(model, "stem", None)
    if isinstance(layers, nn.Sequential) and isinstance(layers[-1], AdaptivePermutation):
        stem["adaptive_matrix"] = layers[-1].blocks
    return stem or None


def install_stem(model: nn.Module, stem: dict[str, Any]) -> None:
    """Replace a model's first layers, in its dtype; weights are zero (a learned matrix: the identity) until loaded.

    Args:
        model: a timm ViT, ConvMixer or ResNet.
        stem: ``blocks`` and ``nibbles`` (:class:`KeyedProjection`), ``tokens`` and ``token_width``
            (:class:`TokenEmbedding`), ``adaptive_matrix`` (:class:`AdaptivePermutation`), ``normalization``
            (:class:`InputNormalization`).

    Raises:
        UsageError: the model has no such layer to replace.
    """
    dtype = next(model.parameters()).dtype
    layers: Any = model  # timm's names for them, which nn.Module does not have
    if "normalization" in stem:
        layers.conv1 = nn.Sequential(InputNormalization().to(dtype), layers.conv1)
    if "tokens" in stem:
        layers.patch_embed = TokenEmbedding(stem["tokens"], stem["token_width"], layers.embed_dim).to(dtype)
    if "blocks" in stem:
        old = patch_projection(model)
        if old is None:
            raise UsageError(f"{type(model).__name__} has no layer that embeds patches, so it takes no keyed one")
        width = old.weight.shape[-2] if isinstance(old, KeyedProjection) else old.out_channels
        patch_size = old.patch_size if isinstance(old, KeyedProjection) else old.kernel_size[0]
        new = KeyedProjection(patch_size, width, stem["blocks"], stem["nibbles"], old.bias is not None).to(dtype)
        if hasattr(model, "patch_embed"):
            layers.patch_embed.proj = new
        else:
            layers.stem[0] = new
    if "adaptive_matrix" in stem:
        add_adaptive_matrix(model, stem["adaptive_matrix"])


def add_adaptive_matrix(model: nn.Module, blocks: int) -> None:
    """Put an :class:`AdaptivePermutation` behind a ConvMixer's stem.

    Raises:
        UsageError: the model has no such stem; a Vision Transformer needs none.
    """
    stem = getattr(model, "stem", None)
    if not isinstance(stem, nn.Sequential) or patch_projection(model) is None:
        raise UsageError(
            f"model.adaptive_matrix is for ConvMixers, {type(model).__name__} is none; set it to false or choose "
            "model.name=convmixer_..."
        )
    dtype = next(model.parameters()).dtype
    model.stem = nn.Sequential(*stem, AdaptivePermutation(blocks).to(dtype))
