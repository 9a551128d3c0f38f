"""LARS: a learning rate for each layer, in proportion to the size of its weights over that of their gradient.

Sources: You et al., arXiv 1708.03888, Eq. 6; the clip of the ratio as in solo-learn's public code. The LARS of lightly
has no clip, without which a learning rate of 1 is another run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ETA = 0.02  # of BYOL and SimCLR in solo-learn
MOMENTUM = 0.9
_EPS = 1e-8


class Lars(torch.optim.SGD):
    """SGD with momentum on ``min(1, eta |w| / ((|g| + wd |w|) lr)) (g + wd w)`` in place of the gradient g.

    So a step is no longer than the learning rate allows, and no longer than ``eta |w|`` either. Groups whose ``decay``
    is None, of biases and other vectors, get plain SGD without decay.

    Args:
        groups: each with ``params``, ``lr``, and ``decay``, wd.
        eta: see above.
    """

    def __init__(self, groups: list[dict[str, Any]], eta: float = ETA) -> None:
        super().__init__(groups, momentum=MOMENTUM)
        self._eta = eta

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None or group["decay"] is None:
                    continue
                size, slope = weight.norm(), weight.grad.norm()
                ratio = self._eta * size / (slope + group["decay"] * size + _EPS)
                # weights or gradients of zero tell no size
                ratio = torch.where((size > 0) & (slope > 0), ratio / group["lr"], 1.0).clamp_max(1.0)
                weight.grad.add_(weight, alpha=group["decay"]).mul_(ratio)
        return super().step(closure)  # type: ignore[no-any-return]


def make_optimizer(network: nn.Module, name: str, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser that ``pretrain.optimizer`` names, for all that requires grad; vectors get no weight decay."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    parts = [(True, [each for each in trained if each.ndim > 1]), (False, [each for each in trained if each.ndim <= 1])]
    groups = [
        {"params": weights, "lr": learning_rate, "rate": 1.0, "weight_decay": weight_decay if decays else 0.0}
        for decays, weights in parts
        if weights
    ]
    if name == "lars":  # which adds the decay itself
        for group in groups:
            group["decay"] = group["weight_decay"] or (0.0 if group["params"][0].ndim > 1 else None)  # type: ignore[index]
            group["weight_decay"] = 0.0
        return Lars(groups)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM)
    return torch.optim.AdamW(groups)
