"""Extending a model by a fine-tuning method, so that it is ready to train."""

from __future__ import annotations

from torch import nn

from ppvit.config import Finetune
from ppvit.core.errors import UsageError
from ppvit.data.batches import EncryptedImages, epoch_batches, load_batches
from ppvit.models import model_input
from ppvit.models.batch_norm import batch_norm_names, set_batch_norm
from ppvit.training.depth import set_stochastic_depth
from ppvit.training.hardware import checkpoint_gradients
from ppvit.tuners import Tuner
from ppvit.tuners.fused import fused


def attach(tuner: Tuner, model: nn.Module, settings: Finetune, images: EncryptedImages) -> nn.Module:
    """The model extended by the method, with its start values, ready to train on ``images``.

    Raises:
        UsageError: there is no batch normalisation for ``finetune.batch_norm``, no blocks for ``finetune.drop_path``,
            or no gradient checkpointing.
    """
    if settings.batch_norm != "frozen" and not batch_norm_names(model):
        raise UsageError(
            f"finetune.batch_norm {settings.batch_norm}: {type(model).__name__} has no batch normalisation; set "
            "finetune.batch_norm=frozen"
        )
    set_stochastic_depth(model, settings.drop_path)
    model = set_batch_norm(tuner.attach(model), settings.batch_norm)
    if settings.gradient_checkpointing:
        checkpoint_gradients(model, settings.batch_norm)
    epoch = epoch_batches(len(images), settings.batch_size, settings.seed, epoch=0)
    tuner.initialise(model, (model_input(batch) for batch, _ in load_batches(images, epoch)))
    return fused(model)
