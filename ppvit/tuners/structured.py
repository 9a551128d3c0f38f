"""Updates of linear layers that are a diagonal plus few rank-one terms, at O(in + out) a token.

Both AOFT and HTA are of this form (:mod:`ppvit.tuners.orthogonal`, :mod:`ppvit.tuners.hta`):

    dW = diag(diagonal) + up^T down        diagonal (d,) in the upper left corner, down (r, in), up (r, out), r <= 4

so that neither the in x d and out x d factors nor an N x N matrix is ever made in training. A layer may carry several
such updates, each of rows of its own: those of query, key or value in timm's fused qkv.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ppvit.core.errors import UsageError
from ppvit.tuners.base import Tuner, linear_names, listed_targets
from ppvit.tuners.extension import ExtensionConfig, ExtensionLayer, ExtensionModel

PARTS = ("q", "k", "v")
WHOLE = "whole"


class Update(NamedTuple):
    """k updates of the same layer, one a row block: ``dW_i = diag(diagonal_i) + up_i^T down_i``.

    Attributes:
        diagonal: (k, d) in the first d rows and columns, or None for zero.
        down: (k, r, in).
        up: (k, r, out).
    """

    diagonal: Tensor | None
    down: Tensor
    up: Tensor

    def dense(self) -> Tensor:
        """The matrices, (k, out, in)."""
        matrices = self.up.mT @ self.down
        if self.diagonal is not None:
            size = self.diagonal.shape[1]
            matrices[:, :size, :size] += torch.diag_embed(self.diagonal)
        return matrices


class _Add(torch.autograd.Function):
    """``output + source @ dW^T`` for row blocks that start at ``starts``.

    By hand, because autograd through slices makes a zero-filled gradient as large as the output for each of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        source: Tensor,
        diagonal: Tensor | None,
        down: Tensor,
        up: Tensor,
        starts: tuple[int, ...],
    ) -> Tensor:
        rows = source.reshape(-1, source.shape[-1])  # (tokens, in)
        inner = rows @ down.flatten(0, 1).T  # (tokens, k r)
        result = output.clone(memory_format=torch.contiguous_format)
        flat, (rank, width) = result.view(-1, result.shape[-1]), up.shape[1:]
        for block, start in enumerate(starts):
            part = flat[:, start : start + width]
            part.addmm_(inner[:, block * rank : (block + 1) * rank], up[block])
            if diagonal is not None:
                size = diagonal.shape[1]
                part[:, :size].addcmul_(rows[:, :size], diagonal[block])
        ctx.starts, ctx.source_shape = starts, source.shape
        ctx.save_for_backward(rows, inner, diagonal, down, up)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, diagonal, down, up = ctx.saved_tensors
        flat, (rank, width) = gradient.reshape(-1, gradient.shape[-1]), up.shape[1:]
        parts = [flat[:, start : start + width] for start in ctx.starts]
        inner_gradient, up_gradient = torch.empty_like(inner), torch.empty_like(up)
        for block, part in enumerate(parts):
            columns = slice(block * rank, (block + 1) * rank)
            inner_gradient[:, columns] = part @ up[block].T
            torch.mm(inner[:, columns].T, part, out=up_gradient[block])
        down_gradient = (inner_gradient.T @ rows).view_as(down)
        source_gradient = inner_gradient @ down.flatten(0, 1) if ctx.needs_input_grad[1] else None
        diagonal_gradient = None
        if diagonal is not None:
            size = diagonal.shape[1]
            diagonal_gradient = torch.stack([(part[:, :size] * rows[:, :size]).sum(0) for part in parts])
            if source_gradient is not None:
                for block, part in enumerate(parts):
                    source_gradient[:, :size].addcmul_(part[:, :size], diagonal[block])
        if source_gradient is not None:
            source_gradient = source_gradient.view(ctx.source_shape)
        return gradient, source_gradient, diagonal_gradient, down_gradient, up_gradient, None


def add_update(output: Tensor, source: Tensor, update: Update, starts: tuple[int, ...]) -> Tensor:
    """``output + source @ dW^T``, computed in the dtype of ``output``.

    Args:
        output: (..., rows of all blocks).
        source: (..., in).
        update: of k blocks; gradients reach its values.
        starts: first row of each of the k blocks.
    """
    diagonal, down, up = (None if value is None else value.to(output.dtype) for value in update)
    result: Tensor = _Add.apply(output, source.to(output.dtype), diagonal, down, up, starts)
    return result


@dataclass
class StructuredConfig(ExtensionConfig):
    """What both methods keep.

    Attributes:
        form: lora changes the layer's matrix, ``W + dW``; adapter its output, ``(I + dW)(W x + b)``.
        target_modules: list of ends of module names; attn.q, attn.k, attn.v mean those rows of attn.qkv.

    Raises:
        ValueError: ``target_modules`` is a regular expression, which cannot name rows.
    """

    form: Literal["lora", "adapter"] = "lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.target_modules, str):
            raise ValueError(f"target_modules must be a list of ends of module names, not '{self.target_modules}'")


def split_target(ending: str) -> tuple[str, str]:
    """The end of a module name and the part of its rows that an end of ``target_modules`` means."""
    path, _, last = ending.rpartition(".")
    return (f"{path}.qkv" if path else "qkv", last) if last in PARTS else (ending, WHOLE)


def checked_targets(model: nn.Module, endings: list[str], form: str, method: str = "") -> list[str]:
    """``endings``, if every one of them is found in the model, see :func:`ppvit.tuners.base.listed_targets`.

    Raises:
        UsageError: one matches no linear layer, names rows twice, or names rows where whole layers are needed.
    """
    targets = [split_target(ending) for ending in endings]
    linear_names(model, [module for module, _ in targets], method)
    for module, part in targets:
        if part != WHOLE and (form == "adapter" or (module, WHOLE) in targets):
            why = "the output of whole layers only" if form == "adapter" else f"{module} already"
            raise UsageError(f"finetune.target_modules: '{part}' of {module}, but the method adapts {why}; remove it")
    rows = [ending for ending in endings if split_target(ending)[1] != WHOLE]
    whole = listed_targets(model, [ending for ending in endings if ending not in rows], method)
    return list(dict.fromkeys(ending for ending in [*endings, *whole] if ending in rows or ending in whole))


def chosen_targets(tuner: Tuner, model: nn.Module, form: str) -> list[str]:
    """The layers that the user names, or those that a method of ours is for; see :func:`checked_targets`."""
    named = tuner.settings.target_modules
    return checked_targets(model, named or list(tuner.targets), form, "" if named else tuner.name)


class Blocks(NamedTuple):
    """Where the updates of an adapter are.

    Attributes:
        parts: row blocks that get one each: some of q, k, v, or the whole.
        starts: first row of every block.
        height, width: rows and columns of one update.
    """

    parts: tuple[str, ...]
    starts: tuple[int, ...]
    height: int
    width: int


class StructuredLinear(ExtensionLayer):
    """A linear layer with updates of the form above. A class says which by :meth:`update`."""

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__(base_layer, name)
        self.in_features: int = self.linear.in_features
        self.out_features: int = self.linear.out_features
        self.blocks: dict[str, Blocks] = {}
        self.other_param_names += ("blocks",)

    def update(self, adapter: str) -> Update:
        """The update as it is now, float32 or better, with gradients to the adapter's values."""
        raise NotImplementedError

    def stacked(self, container: str, adapter: str) -> Tensor:
        """The values of all row blocks, (k, ...)."""
        return torch.stack([self.kept(container, adapter, part) for part in self.blocks[adapter].parts])

    def add_adapter(self, adapter: str, config: StructuredConfig) -> None:
        self.blocks[adapter] = self._blocks(config)
        super().add_adapter(adapter, config)

    def _blocks(self, config: StructuredConfig) -> Blocks:
        targets = [split_target(ending) for ending in config.target_modules or ()]
        named = {part for module, part in targets if self.name == module or self.name.endswith(f".{module}")}
        if WHOLE in named:
            width = self.in_features if config.form == "lora" else self.out_features
            return Blocks((WHOLE,), (0,), self.out_features, width)
        if self.out_features % len(PARTS):
            raise UsageError(
                f"query, key and value must be of equal width, {self.name} has {self.out_features} rows; name the "
                "whole layer in finetune.target_modules"
            )
        parts, height = tuple(part for part in PARTS if part in named), self.out_features // len(PARTS)
        return Blocks(parts, tuple(PARTS.index(part) * height for part in parts), height, self.in_features)

    def adapted(self, adapters: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = self.base_layer(x, *args, **kwargs)
        for adapter in adapters:
            config = self.configs[adapter]
            source = x if config.form == "lora" else output
            source = functional.dropout(source, config.dropout, self.training) if config.dropout else source
            output = add_update(output, source, self.update(adapter), self.blocks[adapter].starts)
        return output

    def merged_weights(self, adapter: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        matrices = self.update(adapter).dense()
        weight = weight.to(torch.promote_types(weight.dtype, matrices.dtype), copy=True)
        matrices, bias = matrices.to(weight.dtype), None if bias is None else bias.to(weight.dtype)
        if self.configs[adapter].form == "adapter":
            return weight + matrices[0] @ weight, None if bias is None else bias + matrices[0] @ bias
        for matrix, start in zip(matrices, self.blocks[adapter].starts, strict=True):
            weight[start : start + len(matrix)] += matrix
        return weight, bias


class StructuredModel(ExtensionModel):
    """Finds the fused layers that hold the rows of attn.q and the like."""

    tuner_layer_cls: type[StructuredLinear]

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> bool | re.Match[str] | None:
        assert isinstance(peft_config, StructuredConfig)
        modules = [split_target(ending)[0] for ending in peft_config.target_modules or ()]
        return check_target_module_exists(dataclasses.replace(peft_config, target_modules=modules), key)
