"""What fine-tuning does by the depth of a layer: its learning rate, and how often its block is skipped in training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peft import PeftModel
from timm.layers.drop import DropPath, calculate_drop_path_rates
from timm.models import group_parameters
from torch import nn

from ppvit.core.errors import UsageError

_PLACES = ("drop_path", "drop_path1", "drop_path2", "drop_path3")  # timm's names of what skips a branch of a block
_PREFIX = "base_model.model."  # of peft


def layer_rates(model: nn.Module, decay: float) -> dict[str, float]:
    """The multiple of the learning rate of every parameter, ``decay`` to the number of layers between it and the head.

    Patch and position embedding are the first layer, every block is one, the head with what stands before it the last,
    as timm numbers them. Parameters that a method adds to a block train with its rate.

    Source: Clark et al., ELECTRA, arXiv 2003.10555; for Vision Transformers Bao et al., BEiT, arXiv 2106.08254.

    Args:
        model: a timm model, or peft's around one.
        decay: ``finetune.layer_decay``; 1 gives no multiples.

    Returns:
        By the names of parameters, as ``model.named_parameters`` has them.

    Raises:
        UsageError: timm does not number the layers of this network.
    """
    if decay == 1:
        return {}
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model  # with what the method has put in
    if not hasattr(base, "group_matcher"):
        raise UsageError(
            f"finetune.layer_decay {decay:g}: timm does not number the layers of {type(base).__name__}; set "
            "finetune.layer_decay=1"
        )
    numbers = group_parameters(base, base.group_matcher(coarse=False), reverse=True)
    last, prefix = max(numbers.values()), "" if base is model else _PREFIX
    return {prefix + name: decay ** (last - number) for name, number in numbers.items()}


def set_stochastic_depth(model: nn.Module, rate: float) -> None:
    """Let a timm model skip the branches of its blocks at random in training, an image at a time.

    The share of images that skip rises in equal steps from 0 in the first block to ``rate`` in the last, as it does in
    models that timm builds with ``drop_path_rate``, but for a few with one share for all blocks, such as MLP-Mixer.
    Evaluation does not change.

    Source: Huang et al., "Deep networks with stochastic depth", arXiv 1603.09382, with its linear decay rule.

    Args:
        model: changed in place.
        rate: ``finetune.drop_path``; 0 changes nothing.

    Raises:
        UsageError: the network has no blocks that can be skipped.
    """
    if rate == 0:
        return
    blocks = list(_skippable(model))
    if not blocks:
        raise UsageError(
            f"finetune.drop_path {rate:g}: {type(model).__name__} has no blocks that timm can skip; set "
            "finetune.drop_path=0"
        )
    shares: Any = calculate_drop_path_rates(rate, len(blocks))
    for (block, places), share in zip(blocks, shares, strict=True):
        for place in places:
            setattr(block, place, DropPath(share).train(block.training) if share else nn.Identity())


def _skippable(model: nn.Module) -> Iterator[tuple[nn.Module, list[str]]]:
    """Blocks with the names of what skips their branches."""
    for module in model.modules():
        places = [
            place
            for place in _PLACES
            # a ResNet's blocks have None there
            if hasattr(module, place) and isinstance(getattr(module, place), nn.Identity | DropPath | None)
        ]
        if places:
            yield module, places
