"""LoRA on any linear layers or convolutions, as peft has it."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import LoraConfig, get_peft_model
from torch import nn

from ppvit.tuners.base import TUNERS, Tuner


@TUNERS.register(place=3)
class Lora(Tuner):
    """Low-rank factors beside the weights: ``W' = W + (alpha / r) B A`` (Hu et al., arXiv 2106.09685).

    On the linear layers, r (in + out) parameters each. In a network without linear layers it is on the convolutions, r
    (k^2 in + out) parameters each, and ``finetune.batch_norm`` says what else trains; its normalisations are then in
    the adapter.
    """

    name = "lora"
    convolutions = True
    targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    variant: ClassVar[dict[str, Any]] = {}
    """arguments of ``peft.LoraConfig`` that make it another method"""

    def attach(self, model: nn.Module) -> nn.Module:
        return get_peft_model(model, self.configuration(model))

    def configuration(self, model: nn.Module) -> LoraConfig:
        """peft's settings for this model."""
        return LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,  # type: ignore[arg-type]  # peft takes any number
            lora_dropout=self.settings.dropout,
            target_modules=self.target_names(model),
            modules_to_save=self.saved_modules(model),
            **self.variant,
        )
