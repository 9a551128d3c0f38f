"""What networks are, told from the names and shapes of their tensors, in words for errors and records."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import timm
from torch import Tensor, nn

from ppvit.models.building import filter_of, skeleton
from ppvit.models.checkpoint_names import classes_of

_FIRST = re.compile(r"^(visual\.)?(trunk\.)?(patch_embed\.proj|stem\.0|stem\.conv|conv_stem|conv1)\.weight$")
_BLOCK = re.compile(r"^(?:visual\.)?(?:trunk\.|transformer\.)?(?:blocks|resblocks)\.(\d+)\.")
_STAGE = re.compile(r"^(?:layer|s|stages\.|layers\.|trunk_output\.block)(\d+)\.(?:blocks\.)?(?:b|block\d-)?(\d+)\.")
_KINDS = {  # by the beginnings of names; the first that is there counts
    "layer1.0.conv1.weight": "ResNet",
    "stages.0.0.bn1.weight": "PyramidNet",
    "s1.b1.conv1.conv.weight": "RegNet",
    "trunk_output.block1.block1-0.f.a.0.weight": "RegNet",
    "layers.0.blocks.0.attn.relative_position_bias_table": "Swin Transformer",
    "stages.0.blocks.0.conv_dw.weight": "ConvNeXt",
}
_SIZES = {
    (192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge",
    (1408, 40): "giant", (1536, 40): "giant", (1664, 48): "gigantic",
}  # fmt: skip
_RESNETS = ("resnet18", "resnet34", "resnet26", "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
            "wide_resnet50_2", "wide_resnet101_2", "resnet18_cifar", "resnet10_micro_cifar")  # fmt: skip
OTHER = "network"
_MOST_TRIED = 24  # names of timm that are built to see whether they fit: a few seconds


@dataclass(frozen=True)
class Network:
    """A network, as far as its tensors tell; None for what it has not.

    Attributes:
        kind: in words.
        depth: blocks; for networks in stages the blocks of each.
        width: channels behind the first layer.
        patch: side of its kernels in pixels.
        positions: learned absolute ones, class token and others included.
        tokens: learned ones beside the patches: class, distillation and register tokens.
        channels: of the input.
        classes: 0 without a head.
    """

    kind: str
    depth: tuple[int, ...]
    width: int | None
    patch: int | None
    positions: int | None
    tokens: int
    channels: int | None
    classes: int

    def __str__(self) -> str:
        transformer = "Transformer" in self.kind
        depth = f"depth {self.depth[0]}" if len(self.depth) == 1 else f"{', '.join(map(str, self.depth))} blocks"
        said = [
            depth if self.depth else "",
            f"width {self.width}" if self.width is not None else "",
            (f"patches of {self.patch} px" if transformer else f"{self.patch} x {self.patch} kernels first")
            if self.patch is not None
            else "",
            f"{self.positions} positions" if self.positions is not None else "",
            f"{self.tokens} other token{'s' * (self.tokens != 1)}" if transformer else "",
            f"{self.channels} input channel{'s' * (self.channels != 1)}" if self.channels is not None else "",
            f"{self.classes} classes" if self.classes else "no classes",
        ]
        return f"{self.kind} ({', '.join(part for part in said if part)})"


def network_of(state: Mapping[str, Tensor], heads: Collection[str] = ()) -> Network:
    """What a state is of, under timm's names or those of OpenCLIP; ``heads`` as for :func:`classes_of`."""
    kernels = [(name, value) for name, value in state.items() if value.ndim == 4]
    named = [value for name, value in kernels if is_first_layer(name)]
    first = next(iter(named or [value for _, value in kernels if value.shape[1] == 3]), None)
    blocks = {int(match[1]) for name in state if (match := _BLOCK.match(name))}
    stages: dict[int, set[int]] = {}
    for name in state:
        if match := _STAGE.match(name):
            stages.setdefault(int(match[1]), set()).add(int(match[2]))
    depth = (len(blocks),) if blocks else tuple(len(stages[stage]) for stage in sorted(stages))
    kind = next((kind for name, kind in _KINDS.items() if name in state), "Vision Transformer" if blocks else OTHER)
    positions = _find(state, "pos_embed", "positional_embedding")
    names = ("cls_token", "class_embedding", "dist_token", "reg_token", "register_tokens")
    tokens = [value for name, value in state.items() if name.split(".")[-1] in names]
    return Network(
        "distilled Vision Transformer" if "dist_token" in state else kind,
        depth,
        first.shape[0] if first is not None else None,
        first.shape[-1] if first is not None else None,
        positions.shape[-2] if positions is not None and positions.ndim in (2, 3) else None,
        sum(token.shape[-2] if token.ndim == 3 else 1 for token in tokens) if blocks else 0,
        first.shape[1] if first is not None else None,
        classes_of(state, heads),
    )


def is_first_layer(name: str) -> bool:
    """Whether a tensor is the convolution that pictures meet first, by its name."""
    return bool(_FIRST.search(name))


def _find(state: Mapping[str, Tensor], *names: str) -> Tensor | None:
    return next(
        (value for name, value in state.items() if name.removeprefix("visual.").removeprefix("trunk.") in names), None
    )


def differs(held: Network, wanted: Network) -> list[str]:
    """Names of the attributes in which two networks are not the same network.

    What the first does not tell counts for nothing. Numbers of classes may differ, and numbers of positions where
    those of the file are of a square of patches, since timm resamples them.
    """
    compared = [field.name for field in fields(Network) if field.name not in ("classes", "positions", "channels")]
    told = [name for name in compared if getattr(held, name) not in (None, (), OTHER)]
    different = [name for name in told if getattr(held, name) != getattr(wanted, name)]
    if held.channels not in (wanted.channels, 1, None):
        different.append("channels")
    if held.positions is not None and wanted.positions is not None and not _resampled(held, wanted):
        different.append("positions")
    return different


def _resampled(held: Network, wanted: Network) -> bool:
    positions = held.positions or 0
    # some networks have no positions for their class token or for registers
    counts = [positions - others for others in {0, 1, held.tokens} if others <= held.tokens]
    return positions == wanted.positions or any(count > 0 and math.isqrt(count) ** 2 == count for count in counts)


def name_that_fits(state: dict[str, Tensor], held: Network, asked: str, writer: str) -> str | None:
    """A name of timm whose network takes all tensors of a state as they are; None where none was found.

    Args:
        state: under timm's names or OpenCLIP's.
        held: what it is of.
        asked: ``model.name``: names of its family come first.
        writer: whose names the file has; names of timm with the last word of it, such as ``dinov3``, come before.
    """
    for name in list(_candidates(held, asked, writer.lower().split()[-1]))[:_MOST_TRIED]:
        try:
            model = skeleton(name, {"num_classes": held.classes})
            if differs(held, network_of(model.state_dict())):
                continue
            named = {key: value.to("meta") for key, value in state.items()}
            if not mismatched(filter_of(name, {"num_classes": held.classes})(named, model), model):
                return name
        except Exception:  # not built for these sizes, or its filter looks for what is not there: each in its own way
            continue
    return None


def _candidates(held: Network, asked: str, method: str) -> Iterator[str]:
    family = asked.split("_")[0]
    if held.kind == "ResNet":
        yield from _RESNETS
    elif held.kind == "RegNet":
        yield from timm.list_models("regnet*_tv")
        yield from timm.list_models("regnet*")
    elif held.kind.endswith("Vision Transformer") and len(held.depth) == 1:
        size = _SIZES.get((held.width or 0, held.depth[0]), "*")
        found = timm.list_models(f"*{size}*patch{held.patch}_*")
        yield from sorted(
            found, key=lambda name: (method not in name, not name.startswith(family + "_"), len(name), name)
        )


def mismatched(state: Mapping[str, Tensor], model: nn.Module) -> str | None:
    """Which tensors a state lacks, has too many or of another shape than a model; None where all fit."""
    wanted = model.state_dict()
    # counters that old files have not, and that nothing computes with
    lacking = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in wanted]
    shapes = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    said = [
        f"lacks {_some(lacking)}" if lacking else "",
        f"has {_some(unknown)}, which the network has not" if unknown else "",
        f"has '{shapes[0]}' of shape {_shape(state[shapes[0]])} and not {_shape(wanted[shapes[0]])}" if shapes else "",
    ]
    return " and ".join(part for part in said if part) or None


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _some(names: list[str]) -> str:
    return f"'{names[0][:100]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def head_names(model: nn.Module) -> list[str]:
    """Module names of the classification head; distilled models have two."""
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return [named] if isinstance(named, str) else list(named)


def head_weights(model: nn.Module) -> list[str]:
    """Names of the weights of a model's heads, as timm has them."""
    heads = tuple(head_names(model))
    return [name for name in model.state_dict() if name.endswith(".weight") and name.startswith(heads)][::-1]


def attention_heads(model: nn.Module) -> int | None:
    """Number of attention heads of a Transformer's blocks."""
    return next(
        (heads for module in model.modules() if isinstance(heads := getattr(module, "num_heads", None), int)), None
    )


def activation(model: nn.Module) -> str | None:
    """Which GELU the blocks of a Transformer have: gelu, gelu_tanh or quick_gelu; None for others."""
    layers: Any = getattr(model, "blocks", None)
    layer = getattr(getattr(layers[0], "mlp", None), "act", None) if layers else None
    if isinstance(layer, nn.GELU):
        return "gelu" if layer.approximate == "none" else "gelu_tanh"
    return {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}.get(type(layer).__name__)


def norm_eps(model: nn.Module) -> float | None:
    """What the first layer normalisation adds to the variance."""
    return next((module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)), None)


def same_network(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models compute the same from the same tensors, as far as they show it."""

    def shown(model: nn.Module) -> tuple[object, ...]:
        return (
            repr(model),
            attention_heads(model),
            getattr(model, "global_pool", None),
            getattr(model, "num_classes", 0),
        )

    return shown(one) == shown(other)
