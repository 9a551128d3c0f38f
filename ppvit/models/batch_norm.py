"""What fine-tuning does to batch normalisation: its running statistics change without a gradient, if one lets them.

Source: Ioffe and Szegedy, arXiv 1502.03167, alg. 1 and 2. Vision Transformers have none.
"""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNormMode = Literal["frozen", "stats", "affine"]


def batch_norm_names(model: nn.Module) -> list[str]:
    """Module names of the batch normalisations of a model."""
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


def set_batch_norm(model: nn.Module, mode: BatchNormMode) -> nn.Module:
    """Choose what training changes in the batch normalisations of a model, whatever else trains.

    Args:
        model: as :meth:`ppvit.tuners.Tuner.attach` returned it; changed in place.
        mode: ``frozen``: neither running statistics nor weight and bias, in training mode too; ``stats``: running
            statistics follow the batches of training mode; ``affine``: weight and bias train as well.

    Returns:
        The same model.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            unused = "original_module" in name.split(".")  # what peft keeps beside the copy that trains
            module.requires_grad_(mode == "affine" and not unused)
            if mode == "frozen":
                module.register_forward_pre_hook(_stay_in_eval_mode)  # whoever calls ``model.train()``
    return model


def _stay_in_eval_mode(module: nn.Module, _inputs: object) -> None:
    """Called in front of every forward pass of a frozen normalisation."""
    module.eval()
