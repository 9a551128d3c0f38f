"""Frozen parts once: where the head alone trains, it trains on features that are computed once and kept.

Not where the images change: under attack, which moves them along the gradient through the whole model (so the robust
start of the head has no use for kept features either), and under augmentation.
"""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from ppvit.config import Finetune
from ppvit.data.batches import EncryptedImages
from ppvit.models.features import head_and_features
from ppvit.training.hardware import Arithmetic, attention_in_steps
from ppvit.tuners.linear import Linear


def frozen_once(
    model: nn.Module, splits: dict[str, EncryptedImages], settings: Finetune, accelerator: Accelerator
) -> tuple[nn.Module, dict[str, EncryptedImages]]:
    """What trains, and on what: the head on features of the splits, or the model on images where that is not the same.

    Args:
        model: as :func:`ppvit.training.attach.attach` returned it.
        splits: train and all that is measured, by name.
        settings, accelerator: of the run.

    Returns:
        The model or its head, with the parameters that an optimiser has; and the splits by the same names.
    """
    views = splits["train"].views
    if settings.method != Linear.name or settings.adversarial != "none" or settings.epochs <= views:
        return model, splits
    arithmetic = Arithmetic.of(settings.precision)
    rounds = arithmetic.precision != "fp32" or arithmetic.tf32
    with arithmetic.in_force(), attention_in_steps(model, arithmetic):  # as in the training loop
        known = {"precision": arithmetic.precision, "tf32": arithmetic.tf32} if rounds else {}
        return head_and_features(model.train(), splits, accelerator.autocast, known)
