"""LoRA of peft in one product a layer, for training on a CPU.

peft computes ``x W^T + s (x A^T) B^T`` in three products and two passes over the result, and its backward pass in eight
products, of which six have a matrix with r columns. Here base and update are added first, which are small beside the
activations: ``x (W + s B A)^T``. Backward has one large product and four small ones. The modules stay peft's, and so
does what is saved.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ppvit.models.products import by_onednn, product, rows, takes


class _Lora(torch.autograd.Function):
    """``y = x W'^T + bias`` with ``W' = W + s B A``; of W' nothing is kept for the backward pass.

    With g the gradient of y, (n, out): those of x, A and B are ``g W'``, ``s (g B)^T x`` and ``s g^T (x A^T)``.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight, a, b)
        ctx.scale = scale
        return product(inputs, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, a, b = ctx.saved_tensors
        of_inputs, _, _, of_a, of_b, _ = ctx.needs_input_grad
        flat, x = rows(gradient), rows(inputs)
        to_inputs = to_a = to_b = None
        if of_inputs:
            to_inputs = product(flat, torch.addmm(weight, b, a, alpha=ctx.scale).t()).view_as(inputs)
        if of_a:
            to_a = product(product(flat, b.t()).t(), x.t()).mul_(ctx.scale)
        if of_b:  # the few columns as rows, which is several times as fast
            to_b = product(product(x, a).t(), flat.t()).mul_(ctx.scale).t()
        return to_inputs, None, None, to_a, to_b, None


class _FusedLora(LoraLinear):
    """peft's layer with another forward pass, where it is plain LoRA without dropout, training in float32."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base = cast(nn.Linear, self.base_layer)
        name = self._one_plain_adapter() if not (args or kwargs) and takes(x, base.weight) else None
        if name is None:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        a, b = (cast(Tensor, factors[name].weight) for factors in (self.lora_A, self.lora_B))
        if x.numel() // x.shape[-1] * (a.shape[1] + b.shape[0]) < base.weight.numel():
            result = super().forward(x)  # so few rows that adding the matrices would cost more than it saves
        else:
            result = _Lora.apply(x.contiguous(), base.weight, base.bias, a, b, self.scaling[name])
        return result

    def _one_plain_adapter(self) -> str | None:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name, weight = self.active_adapters[0], cast(Tensor, self.base_layer.weight)
        plain = (
            name in self.lora_A
            and name not in self.lora_variant
            and isinstance(self.lora_dropout[name], nn.Identity)
            and self.lora_B[name].bias is None
            and not weight.requires_grad
            and self.lora_A[name].weight.dtype == torch.float32
        )
        return name if plain else None

    def _get_name(self) -> str:
        return "Linear"


def fused(model: nn.Module) -> nn.Module:
    """Let a model train with fast products, in place: its linear layers by oneDNN, and LoRA in one product each."""
    for module in model.modules():
        if type(module) is LoraLinear and type(module.base_layer) is nn.Linear:
            module.__class__ = _FusedLora
    return by_onednn(model)
