"""Optimiser and learning-rate schedule of fine-tuning."""

from __future__ import annotations

import math

import torch
from torch import nn

from ppvit.config import Finetune
from ppvit.training.hardware import fused_optimizer


def make_optimizer(
    settings: Finetune,
    model: nn.Module,
    learning_rates: dict[str, float] | None = None,
    undecayed: tuple[str, ...] = (),
) -> torch.optim.Optimizer:
    """The optimiser that ``finetune.optimizer`` names; biases, norms and other vectors get no weight decay.

    Args:
        settings: the ``finetune`` section.
        model: what requires grad is trained.
        learning_rates: parts of parameter names, and the multiple of the learning rate that such parameters get;
            kept as ``rate`` in every group of the optimiser.
        undecayed: parts of the names of matrices that get no weight decay either.
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for part, rate in (learning_rates or {}).items() if part in name), 1.0)
            decays = parameter.ndim > 1 and not any(part in name for part in undecayed)
            members.setdefault((rate, decays), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "lr": settings.learning_rate * rate,
            "rate": rate,
        }
        for (rate, decays), parameters in sorted(members.items(), key=lambda item: (item[0][0] != 1.0, not item[0][1]))
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, fused=fused_optimizer())
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, fused=fused_optimizer())


def learning_rate_factor(settings: Finetune, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at an optimiser step.

    Rises linearly over ``warmup_fraction`` of all steps, then stays (constant), falls linearly to zero (linear), or as
    half a cosine to zero (cosine).

    Args:
        settings: ``schedule`` and ``warmup_fraction`` are used.
        step: 0 .. total_steps - 1.
        total_steps: of the whole run.
    """
    warmup = round(settings.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total_steps - warmup)
    return 1.0 - progress if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
