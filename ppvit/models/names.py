"""Names of networks that are parameters too: what ``model.name`` means to timm."""

from __future__ import annotations

import re
from typing import Any

import timm

from ppvit.core.errors import UsageError
from ppvit.models import convmixer, pyramidnet, resnet  # noqa: F401 - registers models with timm

# our embedded backbone is a plain timm architecture with other sizes, so that everybody's timm can build it
MICRO_NAME = "vit_micro_patch4_32"
MICRO_ARCHITECTURE = "vit_tiny_patch16_224"
MICRO = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4}

_PYRAMIDNET = re.compile(r"pyramidnet_([1-9]\d{0,2})_([1-9]\d{0,3})")
_CONVMIXER = re.compile(r"convmixer_([1-9]\d{0,3})_([1-9]\d?)(?:_ks([1-9]\d?))?(?:_p([1-9]\d{0,2}))?")
_PATCHES = {(256, 8): 1, (384, 8): 4, (512, 16): 16}  # of published ConvMixers, by width and depth


def parsed(name: str) -> tuple[str, dict[str, Any]]:
    """Timm's architecture and the arguments with which it is the network of a name.

    Args:
        name: ``model.name``. Beside timm's own names: ``vit_micro_patch4_32``; ``pyramidnet_<depth>_<alpha>``;
            ``convmixer_<width>_<depth>``, with ``_ks<kernel>`` (9 if not said) and ``_p<patch>``, as timm writes them,
            the patch of the published 256_8, 384_8 and 512_16 (1, 4 and 16 px) being known.

    Raises:
        UsageError: a name of ours that says no such network.
    """
    if name == MICRO_NAME:
        return MICRO_ARCHITECTURE, dict(MICRO)
    if timm.is_model(name.split(".")[0]) and name not in ("pyramidnet", "convmixer"):
        return name, {}
    if name.startswith("pyramidnet"):
        if (match := _PYRAMIDNET.fullmatch(name)) is None:
            raise UsageError(
                f"model.name '{name}' is none; write pyramidnet_<depth>_<alpha>, such as pyramidnet_110_270"
            )
        depth, alpha = map(int, match.groups())
        if depth < 8 or (depth - 2) % 6 or depth > 254:
            raise UsageError(f"model.name '{name}': depth {depth} is not 6 k + 2 from 8 to 254; choose 20 or 110")
        return "pyramidnet", {"depth": depth, "alpha": alpha}
    if name.startswith("convmixer"):
        match = _CONVMIXER.fullmatch(name)
        if match is None:
            raise UsageError(
                f"model.name '{name}' is none; write convmixer_<width>_<depth>_ks<kernel>_p<patch>, such as "
                "convmixer_256_8_ks9_p1"
            )
        width, depth = int(match[1]), int(match[2])
        patch = int(match[4]) if match[4] else _PATCHES.get((width, depth), 0)
        if not patch:
            raise UsageError(f"model.name '{name}' does not say the side of its patches; write {name}_p4 for 4 px")
        kernel = int(match[3] or 9)
        return "convmixer", {"dim": width, "depth": depth, "kernel_size": kernel, "patch_size": patch}
    return name, {}
