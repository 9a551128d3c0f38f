"""The weights of MLP-Mixers that mix patches: an axis of them stands for patches, so that a key can permute it."""

from __future__ import annotations

from timm.models import MlpMixer
from torch import Tensor, nn

_MIXING = {  # axes of patches in the weights of a block: of Mixer and gMixer, of ResMLP, of gMLP
    "mlp_tokens.fc1.weight": (1,),
    "mlp_tokens.fc2.weight": (0,),
    "mlp_tokens.fc2.bias": (0,),
    "linear_tokens.weight": (0, 1),
    "linear_tokens.bias": (0,),
    "mlp_channels.gate.proj.weight": (0, 1),
    "mlp_channels.gate.proj.bias": (0,),
}


def mixing_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of an MLP-Mixer (gMixer, ResMLP, gMLP) that mix patches, by name; of any other model none."""
    if not isinstance(model, MlpMixer):
        return {}
    return {name: tensor for name, tensor in model.named_parameters() if mixing_axes(name)}


def mixing_axes(name: str) -> tuple[int, ...]:
    """The axes of a tensor that stand for patches, by its name in an MLP-Mixer; of others none."""
    return next((axes for ending, axes in _MIXING.items() if name.endswith(f".{ending}")), ())


def permute_mixing(name: str, tensor: Tensor, blocks: Tensor) -> Tensor:
    """``tensor[..., blocks, ...]`` along the axes that stand for patches."""
    for axis in mixing_axes(name):
        tensor = tensor.index_select(axis, blocks)
    return tensor
