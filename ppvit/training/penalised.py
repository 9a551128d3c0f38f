"""Terms of the loss that learned layers in front of a network ask for, beside that of the task.

Source: Madono et al., arXiv 2001.07761: cross-entropy + 0.001 L_U + 0.1 L_s; see :mod:`ppvit.models.adaptnet` and
:mod:`ppvit.models.adaptive`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ppvit.config import Finetune
from ppvit.core.errors import UsageError
from ppvit.models.adaptive import Penalised, learned_layer_names
from ppvit.models.tasks import MULTICLASS, Task
from ppvit.training.objective import Objective

_DISTANCE = "train_permutation_distance_percent"


def objective_of(model: nn.Module, settings: Finetune, task: Task) -> Objective:
    """The loss without an attack; that of the task alone, unless the model has layers with terms of their own."""
    layers = learned_layers(model)
    return PenalisedObjective(layers, settings, task) if layers else Objective(settings.label_smoothing, task)


def learned_layers(model: nn.Module) -> list[Penalised]:
    """The layers of a model that add terms to the loss or have an order of blocks, as far as they train."""
    found = [cast(Penalised, model.get_submodule(name)) for name in learned_layer_names(model)]
    return [layer for layer in found if layer.terms or layer.order() is not None]


def require_none(model: nn.Module, adversarial: str) -> None:
    """Refuse training against an attack, whose loss has no such terms.

    Raises:
        UsageError: there is a layer that would add some, or that changes in training by itself.
    """
    if any(layer.terms or layer.anneals for layer in learned_layers(model)):
        raise UsageError(
            f"finetune.adversarial {adversarial} has no terms for model.adaptnet ele or a model.matrix_form; "
            "set finetune.adversarial=none"
        )


class PenalisedObjective(Objective):
    """The task's loss and the weighted terms of learned layers, all of which are measured; ``train_loss`` is the sum.

    Args:
        layers: of the model that trains.
        settings: ``permutation_penalty``, ``smoothness_penalty``, ``label_smoothing`` and ``epochs`` are used.
        task: what logits mean.
    """

    def __init__(self, layers: list[Penalised], settings: Finetune, task: Task = MULTICLASS) -> None:
        super().__init__(settings.label_smoothing, task)
        self._layers, self._epochs = layers, settings.epochs
        weights = {"permutation": settings.permutation_penalty, "smoothness": settings.smoothness_penalty}
        terms = {term for layer in layers for term in layer.terms}
        self._weights = {term: weight for term, weight in weights.items() if term in terms}
        self.measures = (*Objective.measures, *(f"train_{name}_loss" for name in self._weights))
        for layer in layers:
            layer.set_progress(0.0)

    def begin_step(self, epoch: int, step: int) -> None:
        for layer in self._layers:
            layer.set_progress((epoch + 1) / self._epochs)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Objective.loss`."""
        for layer in self._layers:
            layer.asked = True
        loss, measured = super().loss(model, images, labels)
        sums = []
        for name, weight in self._weights.items():  # losses are sums over the images
            penalty = sum((layer.penalties[name] for layer in self._layers if name in layer.terms), loss.new_zeros(()))
            loss = loss + len(labels) * weight * penalty
            sums.append(len(labels) * penalty.detach().double())
        for layer in self._layers:
            layer.asked, layer.penalties = False, {}
        return loss, torch.stack([loss.detach().double(), measured[1], *sums])

    def end_epoch(self, validated: Mapping[str, float]) -> dict[str, float]:
        distances = [distance for layer in self._layers if (distance := layer.distance()) is not None]
        return {_DISTANCE: 100 * float(torch.stack(distances).mean())} if distances else {}
