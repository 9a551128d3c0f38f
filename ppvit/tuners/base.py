"""What a fine-tuning method must answer: what trains, how many parameters, how it is saved."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from ppvit.config import Finetune
from ppvit.errors import UsageError


class Tuner(ABC):
    """A fine-tuning method.

    Args:
        settings: the ``finetune`` section.
    """

    name: ClassVar[str]

    def __init__(self, settings: Finetune) -> None:
        self.settings = settings

    @abstractmethod
    def attach(self, model: nn.Module) -> nn.Module:
        """Freeze and extend a timm model with a new head so that exactly what the method trains requires grad.

        Returns:
            The model to train: the same one, or a ``peft.PeftModel`` around it.
        """


def trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that the method trains; structural zeros (see :mod:`ppvit.tuners.melo`) do not count."""
    count = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            mask = getattr(parameter, "structural_mask", None)
            count += parameter.numel() if mask is None else int(mask.sum())
    return count


def head_names(model: nn.Module) -> list[str]:
    """Module names of the classification head; distilled models have two."""
    classifier = model.pretrained_cfg["classifier"]
    return [classifier] if isinstance(classifier, str) else list(classifier)


def freeze_all_but(model: nn.Module, modules: list[str]) -> None:
    """Let only the parameters of the named modules require grad."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{module}.") for module in modules))


def linear_names(model: nn.Module, endings: list[str]) -> str:
    """A regular expression that matches the linear layers whose names end in one of ``endings``, heads excepted.

    Raises:
        UsageError: an ending matches nothing.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    linear = [name for name in linear if name not in head_names(model)]
    for ending in endings:
        if not any(name == ending or name.endswith(f".{ending}") for name in linear):
            known = sorted({re.sub(r"^.*?\d+\.", "", name) for name in linear})
            raise UsageError(
                f"finetune.target_modules: no linear layer ends in '{ending}'; there are {', '.join(known)}"
            )
    return r"(.*\.)?(" + "|".join(re.escape(ending) for ending in sorted(endings)) + ")"


def keep_zero(parameter: nn.Parameter, mask: torch.Tensor) -> None:
    """Keep the entries of ``parameter`` outside ``mask`` at their value by stopping their gradient.

    Args:
        parameter: any shape.
        mask: bool, the same shape; True where the parameter trains.
    """
    parameter.structural_mask = mask
    # the hook looks the mask up, so that a move to another device needs nothing
    parameter.register_hook(lambda gradient: gradient * mask.to(gradient.device, gradient.dtype))


def adapter_bytes(folder: Path) -> int:
    """Size of all files of a fine-tuned model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
