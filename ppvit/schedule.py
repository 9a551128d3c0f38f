"""Optimiser and learning-rate schedule of fine-tuning."""

from __future__ import annotations

import math

import torch
from torch import nn

from ppvit.config import Finetune


def make_optimizer(settings: Finetune, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that ``finetune.optimizer`` names; biases, norms and other vectors get no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.learning_rate)


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
