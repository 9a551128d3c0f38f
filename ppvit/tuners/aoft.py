"""AOFT: low-rank updates whose factors are approximately orthogonal and come from one vector each.

As described in summaries by others of Yang et al., arXiv 2507.13260, whose text we could not read; the matrices are in
:mod:`ppvit.tuners.orthogonal`. The authors' start values and learning rates are not known to us: ours start at
``random_vector``, and alpha / r stands in front of the LoRA form, as in LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from peft import get_peft_model
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from ppvit.core.errors import UsageError
from ppvit.models.networks import head_names
from ppvit.tuners.base import TUNERS, Tuner
from ppvit.tuners.extension import register
from ppvit.tuners.orthogonal import difference_update, orthogonal_columns, product_update, random_vector
from ppvit.tuners.structured import StructuredConfig, StructuredLinear, StructuredModel, Update, chosen_targets


@dataclass
class AoftConfig(StructuredConfig):
    """What an AOFT adapter keeps.

    Attributes:
        r: d, the columns of AO(q).
        scaling: factor of the update.
        scaled: whether the columns have learned factors lambda.
    """

    key = "AOFT"

    r: int = 8
    scaling: float = 1.0
    scaled: bool = True


class AoftLinear(StructuredLinear):
    """``dW = scaling * AO(q_up) diag(lambda) AO(q_down)^T``, by row block.

    Scaled, lambda starts at zero. Unscaled, lambda is 1, no q makes the product zero (for d >= 2 it has singular values
    of 1 whatever q is), and so the product at the start is subtracted; its vectors are saved in the adapter, but do not
    train.
    """

    adapter_layer_names = ("aoft_down", "aoft_up", "aoft_scale")
    frozen_names = ("aoft_start",)

    def start_values(self, adapter: str) -> dict[str, nn.Module]:
        config, (parts, _, height, width) = self.configs[adapter], self.blocks[adapter]
        if config.r > min(height, width):
            raise UsageError(
                f"finetune.rank {config.r} is more columns than a {height} x {width} update of {self.name} has; "
                f"use at most {min(height, width)}"
            )
        down = {part: random_vector(width) for part in parts}
        up = {part: random_vector(height) for part in parts}
        kept = {} if config.scaled else {"down": down, "up": up}
        start = {f"{way}_{part}": vector.clone() for way, vectors in kept.items() for part, vector in vectors.items()}
        scale = {part: torch.zeros(config.r) for part in parts} if config.scaled else {}
        return {
            "aoft_down": nn.ParameterDict(down),
            "aoft_up": nn.ParameterDict(up),
            "aoft_scale": nn.ParameterDict(scale),
            "aoft_start": BufferDict(start, persistent=True),
        }

    def update(self, adapter: str) -> Update:
        config, parts = self.configs[adapter], self.blocks[adapter].parts
        down, up = (self.stacked(container, adapter) for container in ("aoft_down", "aoft_up"))
        if config.scaled:
            return product_update(down, up, config.scaling * self.stacked("aoft_scale", adapter))
        scale = down.new_full((len(parts), config.r), config.scaling)
        first_down, first_up = (
            torch.stack([self.kept("aoft_start", adapter, f"{way}_{part}") for part in parts]) for way in ("down", "up")
        )
        return difference_update(product_update(down, up, scale), product_update(first_down, first_up, scale))

    def lora_factors(self, adapter: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Blocks of rank d each, or 2 d unscaled: the second d subtract the product at the start."""
        base, (parts, starts, height, _) = self.linear, self.blocks[adapter]
        pairs = [self._factors(adapter, part) for part in parts]
        if self.configs[adapter].form == "adapter":
            (a, b), weight = pairs[0], base.weight.detach().cpu().double()
            bias = None if base.bias is None else b @ (a @ base.bias.detach().cpu().double())
            return a @ weight, b, bias
        rank = len(pairs[0][0])
        lora_b = torch.zeros(self.out_features, rank * len(pairs), dtype=torch.float64)
        for block, (start, (_, b)) in enumerate(zip(starts, pairs, strict=True)):
            lora_b[start : start + height, block * rank : (block + 1) * rank] = b
        return torch.cat([a for a, _ in pairs]), lora_b, None

    def _factors(self, adapter: str, part: str) -> tuple[Tensor, Tensor]:
        """A (d or 2 d, in) and B (out, d or 2 d) of one row block, B A = dW."""
        config = self.configs[adapter]

        def columns(container: str, name: str) -> Tensor:
            return orthogonal_columns(self.kept(container, adapter, name).detach().cpu().double(), config.r)

        a, b = config.scaling * columns("aoft_down", part).T, columns("aoft_up", part)
        if config.scaled:
            return self.kept("aoft_scale", adapter, part).detach().cpu().double()[:, None] * a, b
        first = -config.scaling * columns("aoft_start", f"down_{part}").T
        return torch.cat([a, first]), torch.cat([b, columns("aoft_start", f"up_{part}")], dim=1)


@register
class AoftModel(StructuredModel):
    """peft's view of AOFT."""

    prefix = "aoft_"
    config_class = AoftConfig
    tuner_layer_cls = AoftLinear


@TUNERS.register()
class AoftLora(Tuner):
    """Approximately orthogonal factors from one vector each: ``W' = W + (alpha / r) AO(q_up) diag(lambda)
    AO(q_down)^T`` (as described in summaries by others of Yang et al., arXiv 2507.13260; their start values are not
    known to us).

    On matrices or on the rows of q, k, v. in + out parameters a matrix, + r where scaled: 2 D a square one. Starts at
    zero; merges; exact as stock LoRA.
    """

    name = "aoft_lora"
    reads: ClassVar[tuple[str, ...]] = (
        "rank",
        "alpha",
        "scaled",
        "dropout",
        "target_modules",
        "vector_learning_rate",
        "scale_learning_rate",
    )
    targets: ClassVar[tuple[str, ...]] = ("attn.q", "attn.v")
    stock = False
    form: ClassVar[Literal["lora", "adapter"]] = "lora"

    def attach(self, model: nn.Module) -> nn.Module:
        config = AoftConfig(
            form=self.form,
            r=self.settings.rank,
            scaling=self.settings.alpha / self.settings.rank if self.form == "lora" else 1.0,
            scaled=self.settings.scaled,
            dropout=self.settings.dropout,
            target_modules=chosen_targets(self, model, self.form),
            modules_to_save=head_names(model),
        )
        return get_peft_model(model, config)

    def learning_rates(self) -> dict[str, float]:
        vectors, factors = self.settings.vector_learning_rate, self.settings.scale_learning_rate
        return {"aoft_down": vectors, "aoft_up": vectors, "aoft_scale": factors}


@TUNERS.register()
class AoftAdapter(AoftLora):
    """Approximately orthogonal factors behind the MLP: ``out' = out + out AO(q_down) diag(lambda) AO(q_up)^T`` (as
    described in summaries by others of Yang et al., arXiv 2507.13260; their start values are not known to us).

    Or behind other layers. 2 D parameters a layer, + r where scaled. Starts at zero; merges into weight and bias; exact
    as stock LoRA with a bias.
    """

    name = "aoft_adapter"
    reads = ("rank", "scaled", "dropout", "target_modules", "vector_learning_rate", "scale_learning_rate")
    targets = ("mlp.fc2",)
    form = "adapter"
