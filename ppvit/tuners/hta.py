"""HTA: square updates of full rank from two Householder-like transformations, a diagonal and a rank-one term.

Source: Dong et al., "Efficient adaptation of pre-trained Vision Transformer via Householder transformation", arXiv
2410.22952:

    dW = W_HTA + b a^T,     W_HTA = (I - v_l v_l^T) diag(d) (I - v_r v_r^T)

without the factor 2 of a Householder reflection and without normalisation. Multiplied out, W_HTA is diag(d)
- (d v_r) v_r^T - v_l (d v_l)^T + (v_l . d v_r) v_l v_r^T: a diagonal and two rank-one terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from ppvit.core.errors import UsageError
from ppvit.models.networks import head_names
from ppvit.tuners.base import TUNERS, Tuner
from ppvit.tuners.extension import register
from ppvit.tuners.structured import StructuredConfig, StructuredLinear, StructuredModel, Update, chosen_targets


@dataclass
class HtaConfig(StructuredConfig):
    """Nothing beside what all have: sizes come from the layers."""

    key = "HTA"


class HtaLinear(StructuredLinear):
    """``dW = (I - v_l v_l^T) diag(d) (I - v_r v_r^T) + b a^T``, by row block."""

    adapter_layer_names = ("hta_left", "hta_right", "hta_diagonal", "hta_down", "hta_up")
    no_lora = "its diagonal has full rank"

    def start_values(self, adapter: str) -> dict[str, nn.Module]:
        """d = 0 and b = 0, so that nothing changes; |v|^2 = 2, where I - v v^T is a reflection; a as LoRA's A."""
        parts, _, height, size = self.blocks[adapter]
        if height != size:
            raise UsageError(
                f"HTA is for square matrices, {self.name} maps {size} to {height}; name others in "
                "finetune.target_modules, such as attn.q, attn.k, attn.v, attn.proj"
            )

        def values(draw: Callable[[], Tensor]) -> nn.ParameterDict:
            return nn.ParameterDict({part: draw() for part in parts})

        def reflection() -> Tensor:
            return math.sqrt(2) * functional.normalize(torch.randn(size), dim=0)

        return {
            "hta_left": values(reflection),
            "hta_right": values(reflection),
            "hta_diagonal": values(lambda: torch.zeros(size)),
            "hta_down": values(lambda: (2 * torch.rand(size) - 1) / math.sqrt(size)),
            "hta_up": values(lambda: torch.zeros(size)),
        }

    def update(self, adapter: str) -> Update:
        left, right, diagonal, down, up = (self.stacked(container, adapter) for container in self.adapter_layer_names)
        scaled_left, scaled_right = diagonal * left, diagonal * right
        both = (left * scaled_right).sum(-1, keepdim=True)
        return Update(
            diagonal=diagonal,
            down=torch.stack([right, scaled_left, down], dim=1),
            up=torch.stack([both * left - scaled_right, -left, up], dim=1),
        )


@register
class HtaModel(StructuredModel):
    """peft's view of HTA."""

    prefix = "hta_"
    config_class = HtaConfig
    tuner_layer_cls = HtaLinear


@TUNERS.register()
class HtaLora(Tuner):
    """A diagonal between two reflections, and rank one: ``W' = W + W_HTA + b a^T`` (Dong et al., arXiv 2410.22952).

    On square matrices or on the rows of q, k, v. 5 D parameters a D x D matrix. Starts at zero; merges; no exact LoRA.
    """

    name = "hta_lora"
    reads = ("dropout", "target_modules", "vector_learning_rate", "scale_learning_rate")
    targets: ClassVar[tuple[str, ...]] = ("attn.q", "attn.k", "attn.v", "attn.proj")
    stock = False
    form: ClassVar[Literal["lora", "adapter"]] = "lora"

    def attach(self, model: nn.Module) -> nn.Module:
        config = HtaConfig(
            form=self.form,
            dropout=self.settings.dropout,
            target_modules=chosen_targets(self, model, self.form),
            modules_to_save=head_names(model),
        )
        return get_peft_model(model, config)

    def learning_rates(self) -> dict[str, float]:
        vectors = self.settings.vector_learning_rate
        return {"hta_left": vectors, "hta_right": vectors, "hta_diagonal": self.settings.scale_learning_rate}


@TUNERS.register()
class HtaAdapter(HtaLora):
    """A diagonal between two reflections, and rank one, behind attention and MLP: ``out' = out + (W_HTA + b a^T) out``
    (Dong et al., arXiv 2410.22952, Eq. 7).

    Or behind other layers. 5 D parameters a layer, two of them in a block. Starts at zero; merges into weight and bias;
    no exact LoRA.
    """

    name = "hta_adapter"
    targets = ("attn.proj", "mlp.fc2")
    form = "adapter"
