"""Linear layers on a CPU by oneDNN: the same products as torch's own, in float32, and up to twice as fast.

torch gives matrix products in float32 to MKL, which on processors that are not Intel's computes with vectors of half
the width, and is slow where a matrix has a few columns, as those of a low-rank update have. oneDNN, which comes with
torch too and which it uses for convolutions, chooses by the instructions that the processor has. Results differ by
rounding, as between two libraries. Measured in ``benchmarks/lora_step.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ppvit.models.stems import patch_projection


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``inputs weight^T + bias`` without a gradient, for what :func:`takes` says yes to.

    Args:
        inputs: float32 (..., k), strided as they are.
        weight: float32 (n, k), strided as it is.
        bias: float32 (n,).

    Returns:
        float32 (..., n).
    """
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(inputs, weight, bias, "none", [], "")
    return result


def takes(inputs: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there for a product, and to be used: float32 on a CPU, outside autocast and torch.compile."""
    return (
        is_used()
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == weight.device.type == "cpu"
        and inputs.ndim > 1
        and inputs.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def is_used() -> bool:
    """Whether torch has oneDNN, and it is not switched off (``torch.backends.mkldnn.enabled``)."""
    return _AVAILABLE and bool(torch.backends.mkldnn.enabled)


def rows(values: Tensor) -> Tensor:
    """(..., k) as (n, k) in one piece: gradients of sums and means are broadcast, which oneDNN cannot read."""
    return values.reshape(-1, values.shape[-1]).contiguous()


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``, once differentiable where oneDNN computes it; arguments: as there."""
    if not takes(inputs, weight):
        return functional.linear(inputs, weight, bias)
    if not torch.is_grad_enabled():
        return product(inputs.contiguous(), weight, bias)
    result: Tensor = _Linear.apply(inputs.contiguous(), weight, bias)
    return result


class _Linear(torch.autograd.Function):
    """Gradients that nobody needs are not computed: those of frozen weights, and of inputs below all that trains."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs if ctx.needs_input_grad[1] else None, weight)
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        flat = rows(gradient)
        return (
            product(flat, weight.t()).view(*gradient.shape[:-1], -1) if of_inputs else None,
            product(flat.t(), rows(inputs).t()) if of_weight else None,
            flat.sum(0) if of_bias else None,
        )


class _LinearByOneDnn(nn.Linear):
    """A linear layer as torch has it, with another forward pass."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

    def _get_name(self) -> str:
        return nn.Linear.__name__


def by_onednn(model: nn.Module) -> nn.Module:
    """Let oneDNN compute the linear layers of a model, in place, wherever :func:`takes` says yes; returns the model.

    All but a linear patch embedding, which adaptation knows by its class.
    """
    base: Any = getattr(model, "get_base_model", lambda: model)()
    embedding = patch_projection(base)
    for module in model.modules():
        if type(module) is nn.Linear and module is not embedding:
            module.__class__ = _LinearByOneDnn
    return model


def _is_available() -> bool:
    try:
        torch.ops.mkldnn._linear_pointwise.default  # noqa: B018 - looked up
    except (AttributeError, RuntimeError):  # torch was built without
        return False
    return bool(torch.backends.mkldnn.is_available())


_AVAILABLE = _is_available()
