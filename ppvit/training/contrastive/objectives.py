"""The losses of BYOL and SimCLR on two views of each image.

Sources: BYOL, Grill et al., arXiv 2006.07733, Eq. 2 and Sec. 3.1; SimCLR, Chen et al., arXiv 2002.05709, Eq. 1. Losses,
momentum and its schedule are lightly's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvit.config import Pretrain
from ppvit.training.contrastive.networks import Encoder, lightly, views_of
from ppvit.training.objective import Objective


class Contrastive(Objective):
    """What all objectives of pre-training without labels have in common.

    Args:
        encoder: the network that the optimiser trains, on its device.
        settings: the section ``pretrain``.
        steps_per_epoch: optimiser steps of an epoch.

    Attributes:
        kept: the network whose features are measured and kept.
    """

    verb = "pretrain"
    measures = ("train_loss",)

    def __init__(self, encoder: Encoder, settings: Pretrain, steps_per_epoch: int) -> None:
        super().__init__()
        self._encoder, self._settings, self._steps_per_epoch = encoder, settings, steps_per_epoch
        self.kept: nn.Module = encoder.backbone

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, times its images, and itself as the only measure.

        Args:
            model: an :class:`Encoder`, in training mode, under autocast if there is any.
            images: (n, views, 3, H, W), 0..255.
            labels: numbers of the images, int64 (n,).
        """
        loss = self.mean_loss(model, views_of(images)) * len(images)
        return loss, loss.detach().double()[None]

    def mean_loss(self, model: nn.Module, views: list[Tensor]) -> Tensor:
        """The loss of a batch, a scalar; ``views`` as the network takes them, (n, 3, H, W) each."""
        raise NotImplementedError

    def finished(self) -> nn.Module:
        """The network that is kept, as it was built before training."""
        return self.kept


class SimClr(Contrastive):
    """NT-Xent of both views: each is told from all other views of the batch."""

    def __init__(self, encoder: Encoder, settings: Pretrain, steps_per_epoch: int) -> None:
        super().__init__(encoder, settings, steps_per_epoch)
        self._contrast = lightly("loss").NTXentLoss(settings.temperature)

    def mean_loss(self, model: nn.Module, views: list[Tensor]) -> Tensor:
        loss: Tensor = self._contrast(*(model(view) for view in views))
        return loss


class Slow(Contrastive):
    """With a second network that follows the trained one: after each step, m of itself and 1 - m of the other.

    Only parameters follow; its batch normalisations, in training mode, keep statistics of their own, as in solo-learn.
    """

    def __init__(self, encoder: Encoder, settings: Pretrain, steps_per_epoch: int) -> None:
        super().__init__(encoder, settings, steps_per_epoch)
        models = lightly("models.utils")
        self._update = models.update_momentum
        self.slow = Encoder(copy.deepcopy(encoder.backbone), copy.deepcopy(encoder.projector)).train()
        models.deactivate_requires_grad(self.slow)

    def momentum(self, step: int) -> float:
        """m after an optimiser step, from 0."""
        return self._settings.momentum

    def begin_step(self, epoch: int, step: int) -> None:
        if step:  # what followed the last step of an epoch is done at its end
            self._follow(epoch * self._steps_per_epoch + step - 1)

    def end_epoch(self, validated: Mapping[str, float]) -> dict[str, float]:
        self._follow(self._done + self._steps_per_epoch - 1)
        self._done += self._steps_per_epoch
        return {}

    _done = 0  # steps of whole epochs

    def _follow(self, step: int) -> None:
        self._update(self._encoder.backbone, self.slow.backbone, self.momentum(step))
        self._update(self._encoder.projector, self.slow.projector, self.momentum(step))

    def state(self) -> dict[str, Any]:
        return {"slow": self.slow.state_dict(), "done": self._done}

    def load_state(self, state: dict[str, Any]) -> None:
        self.slow.load_state_dict(state["slow"])
        self._done = state["done"]


class Byol(Slow):
    """Each view's prediction against the slow network's projection of the other: the sum of ``2 - 2 cos``, 0 to 8.

    m rises from ``pretrain.momentum`` to 1 as half a cosine.
    """

    def __init__(self, encoder: Encoder, settings: Pretrain, steps_per_epoch: int) -> None:
        super().__init__(encoder, settings, steps_per_epoch)
        self._schedule = lightly("utils.scheduler").cosine_schedule
        self._likeness = lightly("loss").NegativeCosineSimilarity()

    def momentum(self, step: int) -> float:
        total = self._settings.epochs * self._steps_per_epoch
        # of T + 1 values the last is 1: step t of T has 1 - (1 - m) (cos(pi t / T) + 1) / 2
        value: float = self._schedule(step, total + 1, self._settings.momentum, 1.0)
        return value

    def mean_loss(self, model: nn.Module, views: list[Tensor]) -> Tensor:
        with torch.no_grad():
            aims = [self.slow(view) for view in views]
        first, second = (model(view) for view in views)
        loss: Tensor = 4 + 2 * (self._likeness(first, aims[1]) + self._likeness(second, aims[0]))
        return loss
