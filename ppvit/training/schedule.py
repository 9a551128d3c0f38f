"""Optimiser and learning-rate schedule of fine-tuning."""

from __future__ import annotations

import math

import torch
from torch import nn

from ppvit.config import Finetune
from ppvit.training.depth import layer_rates
from ppvit.training.hardware import fused_optimizer


def make_optimizer(
    settings: Finetune,
    model: nn.Module,
    learning_rates: dict[str, float] | None = None,
    undecayed: tuple[str, ...] = (),
) -> torch.optim.Optimizer:
    """The optimiser that ``finetune.optimizer`` names.

    Biases, norms and other vectors get no weight decay, unless ``finetune.decayed`` is all.

    Args:
        settings: the ``finetune`` section.
        model: what requires grad is trained.
        learning_rates: parts of parameter names, and the multiple of the learning rate that such parameters get;
            with ``finetune.layer_decay`` as a second factor it is kept as ``rate`` in every group of the optimiser.
        undecayed: parts of the names of matrices that get no weight decay either.

    Raises:
        UsageError: ``finetune.layer_decay`` for a network whose layers timm does not number.
    """
    layers = layer_rates(model, settings.layer_decay)
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for part, rate in (learning_rates or {}).items() if part in name), 1.0)
            rate *= layers.get(name, 1.0)
            vector = parameter.ndim <= 1 or any(part in name for part in undecayed)
            decays = settings.decayed == "all" or not vector
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
        nesterov = settings.nesterov and settings.momentum > 0  # of which there is nothing to look ahead along else
        return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=nesterov, fused=fused_optimizer())
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, fused=fused_optimizer())


def learning_rate_factor(settings: Finetune, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at an optimiser step.

    Rises linearly over ``warmup_fraction`` of all steps, then stays (constant, and halving, see
    :class:`ppvit.training.halving.Halving`), falls linearly to zero (linear), as
    half a cosine to zero (cosine), or to a tenth after half of all steps and a hundredth after three quarters (step; He
    et al., arXiv 1512.03385, Sec. 4.2).

    Args:
        settings: ``schedule`` and ``warmup_fraction`` are used.
        step: 0 .. total_steps - 1.
        total_steps: of the whole run.
    """
    warmup = round(settings.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule in ("constant", "halving"):
        return 1.0
    if settings.schedule == "step":
        return 0.1 ** sum(step >= share * total_steps for share in (0.5, 0.75))
    progress = (step - warmup) / max(1, total_steps - warmup)
    return 1.0 - progress if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
