"""Bottleneck adapters: a small network with a residual connection behind a layer.

Source: Houlsby et al., "Parameter-efficient transfer learning for NLP", arXiv 1902.00751, Sec. 2.1 and Fig. 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft import get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from ppvit.models.networks import head_names
from ppvit.tuners.base import TUNERS, Tuner, listed_targets
from ppvit.tuners.extension import ExtensionConfig, ExtensionLayer, ExtensionModel, register


@dataclass
class BottleneckConfig(ExtensionConfig):
    """What a bottleneck adapter keeps.

    Attributes:
        r: d, the width of the bottleneck.
    """

    key = "BOTTLENECK"

    r: int = 8


class BottleneckLinear(ExtensionLayer):
    """``out' = out + U gelu(V dropout(out) + b_V) + b_U``; U, b_U and b_V start at zero, V as torch's linear layers."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    mergeable = False
    no_lora = "it is not linear"

    def start_values(self, adapter: str) -> dict[str, nn.Module]:
        features, width = self.linear.out_features, self.configs[adapter].r
        down, up = nn.Linear(features, width), nn.Linear(width, features)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        return {"bottleneck_down": down, "bottleneck_up": up}

    def adapted(self, adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = self.base_layer(*args, **kwargs)
        for adapter in adapters:
            down, up = (getattr(self, container)[adapter] for container in self.adapter_layer_names)
            source = functional.dropout(output, self.configs[adapter].dropout, self.training)
            update = up(functional.gelu(down(source.to(down.weight.dtype))))
            output = output + update.to(output.dtype)
        return output


@register
class BottleneckModel(ExtensionModel):
    """peft's view of bottleneck adapters."""

    prefix = "bottleneck_"
    config_class = BottleneckConfig
    tuner_layer_cls = BottleneckLinear


@TUNERS.register()
class Adapter(Tuner):
    """A network with a bottleneck of width d behind the MLP (Houlsby et al., arXiv 1902.00751).

    d is ``finetune.rank``. Houlsby has one behind attention too. 2 D d + D + d parameters a layer. Starts at zero;
    cannot be merged: the model stays a little slower.
    """

    name = "adapter"
    reads = ("rank", "dropout", "target_modules")
    targets = ("mlp.fc2",)
    mergeable = False
    stock = False

    def attach(self, model: nn.Module) -> nn.Module:
        named = self.settings.target_modules
        targets = listed_targets(model, named or list(self.targets), "" if named else self.name)
        config = BottleneckConfig(
            r=self.settings.rank,
            dropout=self.settings.dropout,
            target_modules=targets,
            modules_to_save=head_names(model),
        )
        return get_peft_model(model, config)
