"""Where a model embeds patches, and first layers that timm does not have: patch embeddings for ciphers with keys per
block position, nibbles or tokens, patches put in order, and the normalisation in front of a ResNet.

A model whose first layer was replaced says so in its ``config.json`` (``stem``), from which :func:`install_stem` builds
it again.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from timm.models import ResNet
from timm.models.gemma4_vit import Gemma4PatchEmbed
from torch import Tensor, nn

from ppvit.core.errors import UsageError
from ppvit.models.adaptive import AdaptivePermutation, Form
from ppvit.models.adaptnet import adaptnet_of, add_adaptnet
from ppvit.models.projections import (
    KeyedPatches,
    KeyedProjection,
    OrderedConv2d,
    OrderedLinear,
    PatchProjection,
    add_bias,
    set_token_order,
)
from ppvit.models.pyramidnet import PyramidNet

PADDED = (ResNet, PyramidNet)
"""networks whose first layer, ``conv1``, pads and overlaps: no weights of them undo a cipher"""


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


def normalize_input(model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Let a ResNet or PyramidNet for ``(x / 255 - mean) / std`` take u = x / 127.5 - 1, which is (u + 1 - 2 m) / (2 s).

    Nothing is installed where mean = std = 0.5, which is u itself.
    """
    if set((*mean, *std)) == {0.5}:
        return
    install_stem(model, {"normalization": True})
    layer, dtype = cast(InputNormalization, cast(Any, model).conv1[0]), next(model.parameters()).dtype
    layer.center.copy_(2 * torch.tensor(mean, dtype=dtype).view(3, 1, 1) - 1)
    layer.scale.copy_(2 * torch.tensor(std, dtype=dtype).view(3, 1, 1))


def patch_projection(model: nn.Module) -> PatchProjection | None:
    """The layer that embeds patches of pixels, which do not overlap; None where there is none.

    It is found by what it does, not by its name: the first layer of the model takes three colours, by kernels as large
    as the step between them and without padding, and is the only one that does.
    """
    found = _locate(model)
    return None if found is None else found[2]


def projection_name(model: nn.Module) -> str:
    """The name of :func:`patch_projection` in the model, such as ``patch_embed.proj``; empty where there is none."""
    found = _locate(model)
    return "" if found is None else f"{found[0]}.{found[1]}".lstrip(".")


def patch_embedding_name(model: nn.Module) -> str:
    """The name of the layer that embeds patches of pixels, or tokens in their place; empty where there is none."""
    tokens = isinstance(getattr(model, "patch_embed", None), TokenEmbedding)
    return "patch_embed.proj" if tokens else projection_name(model)


def first_layer(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Name and module of the first layer that has weights; None for a model without any."""
    layers = ((name, module) for name, module in model.named_modules() if not any(module.children()))
    return next((found for found in layers if any(True for _ in found[1].parameters(recurse=False))), None)


def _locate(model: nn.Module) -> tuple[str, str, PatchProjection] | None:
    """Name of the module that holds the patch projection, its name in there, and itself."""
    found = first_layer(model)
    if found is None or "original_module" in found[0].split("."):  # of which peft trains a copy
        return None
    name, layer = found
    owner, _, own = name.rpartition(".")
    if isinstance(layer, KeyedProjection) or (
        cuts_patches(layer) and not any(other is not layer and cuts_patches(other) for other in model.modules())
    ):
        return owner, own, cast(PatchProjection, layer)
    if type(layer) in (nn.Linear, OrderedLinear) and patch_side(cast(nn.Linear, layer)) == _patch_size(
        model.get_submodule(owner)
    ):
        return owner, own, cast(nn.Linear, layer)
    return None


def cuts_patches(layer: nn.Module) -> bool:
    """Whether it is a convolution of three colours by kernels as large as the step between them, without padding."""
    return (
        type(layer) in (nn.Conv2d, OrderedConv2d)  # others do more, such as standardise their weights
        and isinstance(layer, nn.Conv2d)
        and layer.in_channels == 3
        and layer.kernel_size == layer.stride
        and layer.kernel_size[0] == layer.kernel_size[1]
        and layer.padding in ((0, 0), "valid")
        and (layer.dilation, layer.groups) == ((1, 1), 1)
    )


def _patch_size(embedding: nn.Module) -> int | None:
    size = getattr(embedding, "patch_size", None)
    return size[0] if isinstance(size, tuple) and len(size) == 2 and size[0] == size[1] else None


def patch_side(projection: PatchProjection) -> int:
    """The side of the patches in pixels."""
    if isinstance(projection, KeyedProjection):
        return projection.patch_size
    if isinstance(projection, nn.Linear):
        return math.isqrt(projection.in_features // 3)
    return projection.kernel_size[0]


def takes_channels_last(model: nn.Module) -> bool:
    """Whether patches reach the projection cut out and flattened as h, w, C, not as C, h, w."""
    found = _locate(model)
    return found is not None and bool(getattr(model.get_submodule(found[0]), "channels_last", False))


def input_scale(model: nn.Module) -> tuple[float, float]:
    """(a, c) where patches reach the projection as ``a x + c``: Gemma 4 scales pixels itself; else (1, 0)."""
    found = _locate(model)
    scales = found is not None and isinstance(model.get_submodule(found[0]), Gemma4PatchEmbed)
    return (2.0, -1.0) if scales else (1.0, 0.0)


def token_order(model: nn.Module) -> Tensor | None:
    """The order in which the patch projection hands patches on, see :class:`OrderedConv2d`; None: as they come.

    Returns:
        int64 (N,); patch i of the plain image is patch ``token_order[i]`` of the ciphertext.
    """
    order: Tensor | None = getattr(patch_projection(model), "token_order", None)
    return order


def stem_of(model: nn.Module) -> dict[str, Any] | None:
    """What :func:`install_stem` needs to rebuild the model's first layers, or None where timm's own are in place."""
    embedding = getattr(model, "patch_embed", None)
    if isinstance(embedding, TokenEmbedding):
        return {"tokens": embedding.num_patches, "token_width": embedding.token_width}
    stem: dict[str, Any] = {}
    if isinstance(model, PADDED):
        if (adaptnet := adaptnet_of(model)) is not None:
            stem |= {"adaptnet": adaptnet.kind, "adaptnet_block": adaptnet.block_size}
            stem |= {"adaptnet_blocks": adaptnet.blocks}
        if isinstance(model.conv1, nn.Sequential) and isinstance(model.conv1[0], InputNormalization):
            stem["normalization"] = True
        return stem or None
    projection = patch_projection(model)
    if isinstance(projection, KeyedProjection):
        stem |= {"blocks": projection.blocks, "nibbles": projection.nibbles}
    if getattr(projection, "bias_was_added", False):
        stem["bias"] = True
    order = token_order(model)
    if order is not None:
        stem["order"] = len(order)
    layers = getattr(model, "stem", None)
    if isinstance(layers, nn.Sequential) and isinstance(layers[-1], AdaptivePermutation):
        stem["adaptive_matrix"] = layers[-1].blocks
        if layers[-1].form != "free":
            stem["matrix_form"] = layers[-1].form
    return stem or None


def install_stem(model: nn.Module, stem: dict[str, Any]) -> None:
    """Replace a model's first layers, in its dtype; weights are zero (a learned matrix: the identity) until loaded.

    Args:
        model: a timm model.
        stem: ``blocks`` and ``nibbles`` (:class:`KeyedProjection`), ``order`` (the number of patches that
            :func:`token_order` is of), ``bias`` (a projection that has none gets one), ``tokens`` and ``token_width``
            (:class:`TokenEmbedding`), ``adaptive_matrix`` and ``matrix_form`` (:class:`AdaptivePermutation`),
            ``adaptnet``, ``adaptnet_block`` and ``adaptnet_blocks`` (:mod:`ppvit.models.adaptnet`), ``normalization``
            (:class:`InputNormalization`).

    Raises:
        UsageError: the model has no such layer to replace.
    """
    dtype = next(model.parameters()).dtype
    layers: Any = model  # timm's names for them, which nn.Module does not have
    if "adaptnet" in stem:
        add_adaptnet(model, stem["adaptnet"], stem["adaptnet_block"], stem["adaptnet_blocks"])
    if "normalization" in stem:
        layers.conv1 = nn.Sequential(InputNormalization().to(dtype), layers.conv1)
    if "tokens" in stem:
        layers.patch_embed = TokenEmbedding(stem["tokens"], stem["token_width"], layers.embed_dim).to(dtype)
    if stem.keys() & {"bias", "blocks", "order"} and patch_projection(model) is None:
        raise UsageError(f"{type(model).__name__} has no layer that embeds patches, so it takes no keyed one")
    if "bias" in stem:
        add_bias(cast(PatchProjection, patch_projection(model)))
    if "blocks" in stem:
        _install_keyed(model, stem["blocks"], stem["nibbles"], dtype)
    if "order" in stem:
        set_token_order(cast(PatchProjection, patch_projection(model)), torch.arange(stem["order"]))
    if "adaptive_matrix" in stem:
        add_adaptive_matrix(model, stem["adaptive_matrix"], stem.get("matrix_form", "free"))


def _install_keyed(model: nn.Module, blocks: int, nibbles: bool, dtype: torch.dtype) -> None:
    owner, name, old = cast(tuple[str, str, PatchProjection], _locate(model))
    kind = KeyedPatches if isinstance(old, nn.Linear | KeyedPatches) else KeyedProjection
    width = old.weight.shape[-2] if isinstance(old, KeyedProjection) else len(old.weight)
    new = kind(patch_side(old), width, blocks, nibbles, old.bias is not None).to(dtype)
    if isinstance(new, KeyedPatches):
        new.channels_last = takes_channels_last(model)
        new.scale, new.shift = input_scale(model)
    cast(Any, new).bias_was_added = getattr(old, "bias_was_added", False)
    setattr(model.get_submodule(owner), name, new)


def add_adaptive_matrix(model: nn.Module, blocks: int, form: Form = "free") -> None:
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
    model.stem = nn.Sequential(*stem, AdaptivePermutation(blocks, form).to(dtype))
