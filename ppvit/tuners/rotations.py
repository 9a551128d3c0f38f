"""Orthogonal updates: W is multiplied by a rotation (OFT, BOFT) or by reflections (HRA) of a layer's input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import BOFTConfig, HRAConfig, OFTConfig, get_peft_model
from peft.tuners.boft import layer as boft_layer
from peft.tuners.oft import layer as oft_layer
from torch import nn

from ppvit.core.errors import UsageError
from ppvit.models.networks import head_names
from ppvit.tuners.base import TUNERS, Tuner, target_layers
from ppvit.tuners.lora import Lora


@TUNERS.register()
class Oft(Tuner):
    """Rotations of blocks of b inputs: ``W' = W R^T``, R block-diagonal (Qiu et al., arXiv 2306.07280).

    b is ``finetune.rank``; in (b - 1) / 2 parameters a layer. Every block is the Cayley transform of a skew-symmetric
    matrix, by an exact solve of b x b in float32. peft's default, a series of five terms, is no rotation once the
    entries grow.
    """

    name = "oft"
    reads = ("rank", "dropout", "target_modules")
    targets = Lora.targets

    def attach(self, model: nn.Module) -> nn.Module:
        names = self.target_names(model)
        require_block_size(self.settings.rank, self.name, model, names)
        config = OFTConfig(
            oft_block_size=self.settings.rank,
            module_dropout=self.settings.dropout,
            use_cayley_neumann=False,
            target_modules=names,
            modules_to_save=head_names(model),
        )
        tuned = get_peft_model(model, config)
        for module in tuned.modules():
            if isinstance(module, oft_layer.Linear):
                module.register_forward_pre_hook(_refuse_pictures)
        return tuned


def _refuse_pictures(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    if inputs[0].ndim == 4:  # peft would take them for the input of a convolution
        raise UsageError(
            "finetune.method oft: peft rotates tokens (n, N, D), and this network gives its linear layers pictures "
            "(n, H, W, D); use finetune.method=boft"
        )


@TUNERS.register()
class Boft(Tuner):
    """Rotations as in ``oft`` and a learned scale of every output: ``W' = diag(s) W R^T`` (Liu et al., arXiv
    2311.06243).

    b is ``finetune.rank``; in * b + out parameters a layer: peft trains whole b x b blocks and uses their skew part.
    One butterfly factor: peft takes more only where it can compile a CUDA extension, so an adapter with more would load
    on some machines only. What is left of BOFT is OFT with scaled outputs.
    """

    name = "boft"
    reads = ("rank", "dropout", "target_modules")
    undecayed = ("boft_s",)
    targets = Lora.targets

    def attach(self, model: nn.Module) -> nn.Module:
        names = self.target_names(model)
        require_block_size(self.settings.rank, self.name, model, names)
        config = BOFTConfig(
            boft_block_size=self.settings.rank,
            boft_n_butterfly_factor=1,
            boft_dropout=self.settings.dropout,
            target_modules=names,
            modules_to_save=head_names(model),
        )
        with without_butterfly_extension():
            return get_peft_model(model, config)

    def attach_saved(self, model: nn.Module, saved: Mapping[str, Any]) -> nn.Module:
        with torch.device("cpu"):  # peft looks into its permutations; no block is larger than the layers
            return self.attach(model)


@TUNERS.register()
class Hra(Tuner):
    """Reflections of the inputs: ``W' = W H_1 ... H_r``, ``H = I - 2 u u^T / |u|^2`` (Yuan et al., arXiv 2405.17484).

    r * in parameters a layer. Reflections start in equal pairs, which cancel, so r is even. In a network without linear
    layers they act on the values that a convolution's kernel sees, r k^2 in parameters each.
    """

    name = "hra"
    reads = ("rank", "target_modules")
    convolutions = True
    targets = Lora.targets

    def attach(self, model: nn.Module) -> nn.Module:
        rank = self.settings.rank
        if rank % 2:
            near = f"{rank - 1} or {rank + 1}" if rank > 1 else "2"
            raise UsageError(
                f"finetune.rank {rank}: hra starts with pairs of equal reflections, so rank must be even; use {near}"
            )
        config = HRAConfig(r=rank, target_modules=self.target_names(model), modules_to_save=self.saved_modules(model))
        return get_peft_model(model, config)


def require_block_size(size: int, method: str, model: nn.Module, names: str) -> None:
    """Refuse blocks that do not tile the inputs of every layer; peft would take other ones, with a warning.

    Raises:
        UsageError: names the nearest sizes that do.
    """
    widths = sorted({layer.in_features for layer in target_layers(model, names).values()})
    common = math.gcd(*widths)
    valid = [divisor for divisor in range(2, common + 1) if common % divisor == 0]
    if size in valid:
        return
    wide = " and ".join(map(str, widths))
    if not valid:
        raise UsageError(
            f"{method}: no block tiles inputs of {wide} alike; name fewer layers in finetune.target_modules"
        )
    near = sorted(sorted(valid, key=lambda divisor: abs(divisor - size))[:3])
    raise UsageError(
        f"finetune.rank {size}: {method} rotates blocks of that size, which must be at least 2 and divide the layers' "
        f"inputs ({wide}); the nearest are {', '.join(map(str, near))}"
    )


@contextmanager
def without_butterfly_extension() -> Iterator[None]:
    """Keep peft from compiling its CUDA extension, with warnings where that fails; one butterfly factor needs none."""
    layers: Any = boft_layer
    before, layers._FBD_CUDA = layers._FBD_CUDA, False  # None would mean: not tried yet
    try:
        yield
    finally:
        layers._FBD_CUDA = before
