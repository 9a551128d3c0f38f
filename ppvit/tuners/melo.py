"""LoRA on the query and value projections of every layer, and the same with the patch embedding unfrozen.

Sources: MeLo (Zhu et al., arXiv 2311.08236); Lin, Imaizumi, Kiya, arXiv 2507.11943: ``Q' = Q + (alpha / r) B A X``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ppvit.core.errors import UsageError
from ppvit.models.networks import head_names
from ppvit.models.stems import patch_embedding_name
from ppvit.tuners.base import TUNERS, Tuner, keep_zero, linear_names, patch_learning_rate


@TUNERS.register(place=3)
class Melo(Tuner):
    """LoRA on the rows of ``attn.qkv`` that make queries and values (Zhu et al., arXiv 2311.08236).

    4 D r parameters a layer. timm keeps q, k and v in one matrix. Two adapters of rank r on its q and v rows are one
    plain LoRA of rank 2r whose B is block-structured: q rows use the first r columns, v rows the last r, the rest stays
    zero. With alpha doubled as well, alpha / r is unchanged, and stock peft loads the result. The structural zeros are
    not counted.
    """

    name = "melo"
    reads: ClassVar[tuple[str, ...]] = ("rank", "alpha", "dropout")

    def unfrozen(self, model: nn.Module) -> list[str]:
        """Modules that train as a whole, besides the head."""
        return []

    def attach(self, model: nn.Module) -> nn.Module:
        rank = self.settings.rank
        config = LoraConfig(
            r=2 * rank,
            lora_alpha=2 * self.settings.alpha,  # type: ignore[arg-type]  # peft takes any number
            lora_dropout=self.settings.dropout,
            target_modules=linear_names(model, ["attn.qkv"], self.name),
            modules_to_save=[*head_names(model), *self.unfrozen(model)],
        )
        tuned = get_peft_model(model, config)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                keep_zero(parameter, query_value_mask(parameter.shape, rank))
        return tuned


def query_value_mask(shape: torch.Size, rank: int) -> torch.Tensor:
    """Where B of shape (3 D, 2 r) may differ from zero: bool, q rows x first r columns and v rows x last r columns."""
    if shape[0] % 3:
        raise UsageError(
            f"melo needs query, key and value of equal width, this model's qkv has {shape[0]} rows; "
            "use finetune.method=lora"
        )
    width = shape[0] // 3
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:width, :rank] = True
    mask[2 * width :, rank:] = True
    return mask


@TUNERS.register(place=3)
class LoraPatch(Melo):
    """``melo`` and the patch embedding, which then reveals the key (Lin, Imaizumi and Kiya, arXiv 2507.11943).

    + D (B + 1) parameters, weight and bias, B values of a patch. Whoever has the public checkpoint compares the two;
    see the audit.
    """

    name = "lora_patch"
    reads = ("rank", "alpha", "dropout", "patch_learning_rate")

    def attach(self, model: nn.Module) -> nn.Module:
        self._rates = patch_learning_rate(self.settings, model)
        return super().attach(model)

    def learning_rates(self) -> dict[str, float]:
        return self._rates

    def unfrozen(self, model: nn.Module) -> list[str]:
        if not (name := patch_embedding_name(model)):
            raise UsageError(
                f"finetune.method {self.name} trains the patch embedding, which {type(model).__name__} does not have; "
                "use melo"
            )
        return [name]
