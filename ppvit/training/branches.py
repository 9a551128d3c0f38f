"""Adversarial fine-tuning with a second way through the network that is dropped after training: TWINS and AutoLoRa.

Sources: TWINS, Liu et al., arXiv 2303.11135, and its public code; AutoLoRa, Xu et al., arXiv 2310.01818, and the code
of RobustSSL. Both train the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ppvit.config import Finetune
from ppvit.core.errors import UsageError
from ppvit.models.batch_norm import batch_norm_names, set_batch_norm
from ppvit.models.networks import head_names
from ppvit.models.stems import first_layer
from ppvit.training.adversarial import Robust
from ppvit.training.paired_norms import PairedNorm, keep_norm, pair_norms, through
from ppvit.tuners.base import linear_layers

ADAPTIVE, FROZEN = "adaptive", "frozen"  # normalisations of TWINS; the first is attacked, measured and kept


class Twins(Robust):
    """Half of a batch through frozen, half through adaptive batch statistics.

    AT: ``lambda CE(frozen half) + CE(adaptive half)`` on adversarial images. TRADES: the same on clean images, and ``v
    (lambda KL + KL)``, each KL divided by the whole batch, as the code has it, so that v counts half. lambda is
    ``adversarial.branch_weight``. Of an odd batch the adaptive half has one more.
    """

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        moved = self._perturb(model, images, labels)
        half, count = len(images) // 2, len(images)
        natural_weight, robust_weight = self.weights if self._trades else (1.0, 0.0)
        parts = [(FROZEN, slice(0, half), self._adversarial.branch_weight), (ADAPTIVE, slice(half, count), 1.0)]
        sums = torch.zeros(5, dtype=torch.float64, device=images.device)
        loss = torch.zeros((), device=images.device)
        for norm, part, weight in parts:
            if not len(given := labels[part]):
                continue
            seen = torch.cat([images[part], moved[part]]) if self._trades else moved[part]
            with through(model, norm):
                logits = model(seen).float()
            clean, adversarial = logits.chunk(2) if self._trades else (logits, logits)
            natural = self._task.loss(clean, given, self._label_smoothing)
            robust = self._task.divergence(clean, adversarial)
            loss = loss + weight * (natural_weight * natural * count / len(given) + robust_weight * robust)
            right, robustly = (self._task.right(each, given) for each in (clean, adversarial))
            values = [loss.new_zeros(()), right, natural, robust, robustly]
            sums += torch.stack([value.detach().double() for value in values])
        sums[0] = loss.detach().double()
        return loss, sums[: len(self.measures)]


class AutoLora(Robust):
    """Clean images through weights with a low-rank update, adversarial ones through the weights alone.

    ``u CE(z_lora(x), y) + (1 - u) CE(z(x'), y) + v KL(z_lora(x) || z(x'))``, where u and v are ``1 - A`` and ``6 A``
    with ``adversarial.scalars=auto``, A the accuracy of the low-rank branch. Clean images train the update and the
    head, adversarial ones all but the update. Normalisations and head are shared.
    """

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        moved = self._perturb(model, images, labels)
        heads = tuple(f"{name}." for name in head_names(self._accelerator.unwrap_model(model)))
        stopped = {
            name: weight.detach()
            for name, weight in model.named_parameters()
            if not name.endswith((".up", ".down")) and not name.startswith(heads)
        }
        with naturally(model):
            clean = functional_call(model, stopped, (images,)).float()
        adversarial = model(moved).float()
        natural, hard = (self._task.loss(each, labels, self._label_smoothing) for each in (clean, adversarial))
        robust = self._task.divergence(clean, adversarial)
        natural_weight, robust_weight = self.weights
        loss = natural_weight * natural + max(0.0, 1 - natural_weight) * hard + robust_weight * robust
        right, robustly_right = (self._task.right(logits, labels) for logits in (clean, adversarial))
        measures = [loss, right, natural, robust, robustly_right]
        return loss, torch.stack([measure.detach().double() for measure in measures])


class LowRankBranch(nn.Module):
    """A layer whose weight is ``W``, or while :func:`naturally` lasts ``W + B A / r``.

    Args:
        layer: a convolution of k x k kernels, or a linear layer, for which k is 1.
        rank: r; A is ``down``, (r k, k in), normal, and B ``up``, (k out, r k), zero, as in loralib.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer, self.natural, self._scale = layer, False, 1 / rank
        side = layer.kernel_size[0] if isinstance(layer, nn.Conv2d) else 1
        width, out = layer.weight.shape[1], layer.weight.shape[0]
        self.down = nn.Parameter(torch.randn(rank * side, side * width))
        self.up = nn.Parameter(torch.zeros(side * out, rank * side))

    def forward(self, inputs: Tensor) -> Tensor:
        layer = self.layer
        weight = layer.weight
        if self.natural:
            weight = weight + self._scale * (self.up @ self.down).view_as(weight)
        if isinstance(layer, nn.Conv2d):
            convolved: Tensor = layer._conv_forward(inputs, weight, layer.bias)
            return convolved
        return nn.functional.linear(inputs, weight, layer.bias)


@contextmanager
def naturally(model: nn.Module) -> Iterator[None]:
    """While this lasts, the low-rank updates count."""
    branches = [module for module in model.modules() if isinstance(module, LowRankBranch)]
    for branch in branches:
        branch.natural = True
    try:
        yield
    finally:
        for branch in branches:
            branch.natural = False


def add_branch(model: nn.Module, branch: str, rank: int, settings: Finetune) -> nn.Module:
    """The model with the second way through it that ``adversarial.branch`` names, which starts as the first.

    Raises:
        UsageError: a fine-tuning method that does not train the whole network; no batch normalisation for TWINS.
    """
    if branch == "none":
        return model
    if settings.method != "full":
        raise UsageError(
            f"adversarial.branch {branch} is for the whole network; set finetune.method=full, not {settings.method}"
        )
    if branch == "lora":
        return _add_low_rank(model, rank)
    if settings.batch_norm != "affine" or not batch_norm_names(model):
        raise UsageError(
            f"adversarial.branch twins is for networks whose batch normalisation trains, not {type(model).__name__} "
            f"with finetune.batch_norm {settings.batch_norm}; choose a ResNet and finetune.batch_norm=affine"
        )
    pair_norms(model, (ADAPTIVE, FROZEN))
    for pair in model.modules():
        if isinstance(pair, PairedNorm):
            set_batch_norm(pair.norms[FROZEN], "frozen").requires_grad_(True)  # statistics alone stay
    return model


def _add_low_rank(model: nn.Module, rank: int) -> nn.Module:
    """All convolutions and linear layers but the first layer and the head; grouped convolutions have none."""
    first, linear = first_layer(model), set(linear_layers(model))
    for owner_name, owner in list(model.named_modules()):
        for name, layer in owner.named_children():
            whole = f"{owner_name}.{name}".lstrip(".")
            fits = whole in linear or (type(layer) is nn.Conv2d and layer.groups == 1)
            if fits and (first is None or layer is not first[1]):
                setattr(owner, name, LowRankBranch(layer, rank))
    return model


def drop_branch(model: nn.Module) -> nn.Module:
    """Undo :func:`add_branch`: what is left is the way that adversarial images took."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, LowRankBranch):
                setattr(module, name, child.layer)
    return keep_norm(model, ADAPTIVE)
