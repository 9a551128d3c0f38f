"""LoRA on any linear layers, as peft has it."""

from __future__ import annotations

from peft import LoraConfig, get_peft_model
from torch import nn

from ppvit.tuners.base import Tuner, head_names, linear_names


class Lora(Tuner):
    """``W' = W + (alpha / r) B A`` on ``target_modules`` (Hu et al., arXiv 2106.09685).

    r (in + out) parameters a layer.
    """

    name = "lora"

    def attach(self, model: nn.Module) -> nn.Module:
        config = LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,
            lora_dropout=self.settings.dropout,
            target_modules=linear_names(model, self.settings.target_modules),
            modules_to_save=head_names(model),
        )
        return get_peft_model(model, config)
