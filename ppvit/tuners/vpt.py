"""Visual prompt tuning: learned tokens beside the patches, new ones in every layer.

Source: Jia et al., "Visual prompt tuning", arXiv 2203.12119, Sec. 3.2, VPT-deep (eq. 7); with prompts from one vector a
layer, as described in summaries by others of Yang et al., arXiv 2507.13260. The prompts are appended to the tokens of a
block and dropped behind it. In the paper they stand between class token and patches: attention does not know the order
of its inputs, so that is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import get_peft_model
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from ppvit.core.errors import UsageError
from ppvit.models.networks import head_names
from ppvit.models.stems import patch_projection
from ppvit.tuners.base import TUNERS, Tuner
from ppvit.tuners.extension import ExtensionConfig, ExtensionLayer, ExtensionModel, register
from ppvit.tuners.orthogonal import orthogonal_columns, random_vector


@dataclass
class VptConfig(ExtensionConfig):
    """What prompts keep.

    Attributes:
        prompts: d, how many a layer.
        width: D, of a token.
        patch_values: numbers in a patch, which the start values of free prompts depend on.
        orthogonal: prompts AO(q)^T of one vector q a layer.
        scaled: whether orthogonal prompts have learned factors.
    """

    key = "VPT"

    prompts: int = 8
    width: int = 0
    patch_values: int = 0
    orthogonal: bool = False
    scaled: bool = True


class VptBlock(ExtensionLayer):
    """A transformer block with prompts of its own, which other blocks do not see.

    Free prompts start uniform in +-sqrt(6 / (patch_values + D)), as the paper's (Xavier, patch embedding's sizes).
    Orthogonal ones start from a random unit vector (:func:`random_vector`) with factors 1: lengths are 1, which free
    prompts have on average too for 16-pixel patches and D = 768.
    """

    adapter_layer_names = ("vpt_prompts", "vpt_vector", "vpt_scale")
    mergeable = False
    no_lora = "prompts are inputs, no weights"

    def start_values(self, adapter: str) -> dict[str, nn.Module]:
        config = self.configs[adapter]
        bound = math.sqrt(6 / (config.patch_values + config.width))
        prompts = {} if config.orthogonal else {"free": torch.empty(config.prompts, config.width)}
        for free in prompts.values():
            nn.init.uniform_(free, -bound, bound)
        vector = {"q": random_vector(config.width)} if config.orthogonal else {}
        scale = {"factors": torch.ones(config.prompts)} if config.orthogonal and config.scaled else {}
        return {
            "vpt_prompts": nn.ParameterDict(prompts),
            "vpt_vector": nn.ParameterDict(vector),
            "vpt_scale": nn.ParameterDict(scale),
        }

    def prompts(self, adapter: str) -> Tensor:
        """(d, D), float32."""
        config = self.configs[adapter]
        if not config.orthogonal:
            return self.kept("vpt_prompts", adapter, "free")
        prompts = orthogonal_columns(self.kept("vpt_vector", adapter, "q"), config.prompts).T
        return self.kept("vpt_scale", adapter, "factors")[:, None] * prompts if config.scaled else prompts

    def adapted(self, adapters: list[str], x: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The block's output for the tokens x (n, T, D); every one of them may attend to every prompt."""
        prompts = torch.cat(
            [functional.dropout(self.prompts(name), self.configs[name].dropout, self.training) for name in adapters]
        )
        if attn_mask is not None:  # (..., T or 1, T): True or 0 is what lets attention through
            more = len(prompts)
            queries = more if attn_mask.shape[-2] == x.shape[1] else 0
            allowed = True if attn_mask.dtype == torch.bool else 0.0
            kwargs["attn_mask"] = functional.pad(attn_mask, (0, more, 0, queries), value=allowed)
        output: Tensor = self.base_layer(torch.cat([x, prompts.to(x.dtype).expand(len(x), -1, -1)], dim=1), **kwargs)
        return output[:, : x.shape[1]]

    def __getattr__(self, name: str) -> Any:
        """Parts of the block are found where they are in timm: attn, mlp, norm1."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


@register
class VptModel(ExtensionModel):
    """peft's view of visual prompts."""

    prefix = "vpt_"
    config_class = VptConfig
    tuner_layer_cls = VptBlock


@TUNERS.register()
class VptDeep(Tuner):
    """d learned prompts beside the tokens of every block (Jia et al., arXiv 2203.12119).

    d is ``finetune.rank``; d D parameters a layer. Does not start at zero: attention to a prompt takes weight from the
    patches. Cannot be merged. ``finetune.dropout`` is on the prompts, as in the paper's code.
    """

    name = "vpt_deep"
    plain_vit = True
    reads: ClassVar[tuple[str, ...]] = ("rank", "dropout", "target_modules")
    names_layers = False
    zero_start = False
    mergeable = False
    stock = False
    orthogonal: ClassVar[bool] = False

    def attach(self, model: nn.Module) -> nn.Module:
        if self.settings.target_modules:
            raise UsageError(f"{self.name} puts prompts into every block; leave finetune.target_modules empty")
        projection = patch_projection(model)
        if not isinstance(model, VisionTransformer) or projection is None:
            kind = type(model).__name__
            raise UsageError(f"{self.name} needs a plain timm ViT, not {kind}; use finetune.method=full")
        width, prompts = model.embed_dim, self.settings.rank
        if self.orthogonal and prompts > width:
            raise UsageError(f"finetune.rank {prompts} exceeds the width {width} of the model; use at most that many")
        config = VptConfig(
            prompts=prompts,
            width=width,
            patch_values=next(projection.parameters())[0].numel(),
            orthogonal=self.orthogonal,
            scaled=self.settings.scaled if self.orthogonal else True,
            dropout=self.settings.dropout,
            target_modules=r"blocks\.\d+",
            modules_to_save=head_names(model),
        )
        return get_peft_model(model, config)


@TUNERS.register()
class AoftVpt(VptDeep):
    """d prompts from one vector q a block: ``diag(lambda) AO(q)^T`` (as described in summaries by others of Yang et
    al., arXiv 2507.13260; their start values are not known to us).

    D parameters a layer, + d where scaled; lambda starts at one.
    """

    name = "aoft_vpt"
    reads = ("rank", "scaled", "dropout", "target_modules", "vector_learning_rate", "scale_learning_rate")
    orthogonal = True

    def learning_rates(self) -> dict[str, float]:
        return {"vpt_vector": self.settings.vector_learning_rate, "vpt_scale": self.settings.scale_learning_rate}
