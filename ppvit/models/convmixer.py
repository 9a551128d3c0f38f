"""ConvMixers of any size: the baseline of networks that mix neighbours; no weights come with them.

Source: Trockman and Kolter, "Patches Are All You Need?", arXiv 2201.09792. timm has the network, but its own entry
points accept no other sizes, so these are registered beside them: :func:`timm.create_model` knows them wherever
``ppvit.models`` is imported.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convmixer import ConvMixer

__all__ = []  # timm adds the model's name

_COMMON = {
    "input_size": (3, 32, 32),
    "mean": (0.485, 0.456, 0.406),  # ImageNet's, as in timm's other ConvMixers
    "std": (0.229, 0.224, 0.225),
    "first_conv": "stem.0",
    "classifier": "head",
}

default_cfgs = generate_default_cfgs(
    {"convmixer_micro_patch4": _COMMON | {"num_classes": 36}, "convmixer": _COMMON | {"num_classes": 10}}
)


@register_model
def convmixer_micro_patch4(pretrained: bool = False, **arguments: Any) -> ConvMixer:
    """Width 128, 6 layers, 5 x 5 kernels, 4-px patches, any image size."""
    sizes = {"dim": 128, "depth": 6, "kernel_size": 5, "patch_size": 4, "num_classes": 36}
    return build_model_with_cfg(ConvMixer, "convmixer_micro_patch4", pretrained, **(sizes | arguments))


@register_model
def convmixer(pretrained: bool = False, **arguments: Any) -> ConvMixer:
    """A ConvMixer of any size, 256/8 unless arguments say otherwise; ``model.name`` convmixer_256_8 has them in it."""
    sizes = {"dim": 256, "depth": 8, "kernel_size": 9, "patch_size": 1, "num_classes": 10}
    return build_model_with_cfg(ConvMixer, "convmixer", pretrained, **(sizes | arguments))
