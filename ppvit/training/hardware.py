"""How training uses the device: arithmetic, layout in memory, compilation. What was used stands in the result."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import nn

from ppvit.core.device import device, has_bf16, has_tf32, tf32
from ppvit.core.errors import UsageError

# compilers that know of gradient checkpointing; "eager" draws other units to drop when it computes again
_DRAWS_AGAIN = (None, "inductor", "aot_eager")


@dataclass(frozen=True)
class Arithmetic:
    """What numbers are computed with, all of which results depend on.

    Attributes:
        precision: of forward and backward pass; half precisions by autocast.
        tf32: whether products that stay in float32 are rounded to TF32.
        compiled: the backend of ``torch.compile``, or ``no``.
    """

    precision: Literal["fp32", "bf16", "fp16"]
    tf32: bool
    compiled: str

    @classmethod
    def of(cls, precision: str) -> Arithmetic:
        """What ``finetune.precision`` means on this device, and ``$PPVIT_COMPILE`` in this environment.

        Args:
            precision: ``auto`` is bfloat16 on a GPU that has it and float32 elsewhere. TF32 is used where the GPU has
                it, but for ``fp32``, which is float32 throughout.

        Raises:
            UsageError: fp16 without a GPU, or torch has no such backend.
        """
        if precision == "fp16" and device().type != "cuda":
            raise UsageError("finetune.precision fp16 needs a GPU; use bf16 or fp32")
        chosen: Any = precision if precision != "auto" else "bf16" if has_bf16() else "fp32"
        return cls(chosen, precision != "fp32" and has_tf32(), compile_backend() or "no")

    def record(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)

    def in_force(self) -> AbstractContextManager[None]:
        """Training that lasts while this does uses TF32, if at all; the rest is autocast's, which accelerate calls."""
        return tf32(self.tf32)


@contextmanager
def attention_in_steps(model: nn.Module, arithmetic: Arithmetic) -> Iterator[None]:
    """While this lasts, attention in bfloat16 on a CPU is computed as products and a softmax, one after another.

    torch's fused kernel for CPUs takes seven times as long there for 37 tokens and three times for 197, forward and
    backward; see ``benchmarks/attention.py``. Results differ by rounding.
    """
    slow = device().type == "cpu" and arithmetic.precision == "bf16"
    fused = [module for module in model.modules() if slow and getattr(module, "fused_attn", False) is True]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


def place(model: nn.Module, arithmetic: Arithmetic) -> nn.Module:
    """The model on its device, in the layout that the device computes fastest, compiled if that is wanted.

    Args:
        model: the same one is returned, with its parameters: an optimiser made for it stays right.
    """
    model.to(device())
    if device().type == "cuda":
        arrange(model)
    if arithmetic.compiled != "no":
        model.compile(backend=arithmetic.compiled)  # what it has compiled is called in its place; names stay
    return model


def take_back(model: nn.Module) -> nn.Module:
    """The model as it was before :func:`place`, on the CPU, trained."""
    model.cpu().to(memory_format=torch.contiguous_format)
    model._compiled_call_impl = None
    return model


def arrange(model: nn.Module) -> None:
    """Keep the weights of networks that convolve feature maps with the channels last, as matrix units take them.

    Inputs follow the weights. A network that convolves patches of the image alone is left as it is.
    """
    if any(
        isinstance(module, nn.Conv2d) and module.in_channels > 3 and max(module.kernel_size) > 1
        for module in model.modules()
    ):
        model.to(memory_format=torch.channels_last)


def checkpoint_gradients(model: nn.Module, batch_norm: str) -> None:
    """Keep the inputs of blocks alone for the backward pass, which computes the rest again; gradients are the same.

    Args:
        model: timm's, or a ``peft.PeftModel`` around it.
        batch_norm: ``finetune.batch_norm``.

    Raises:
        UsageError: timm does not do that for this network, running statistics would count every image twice, or
            ``$PPVIT_COMPILE`` names a backend that does not draw the same dropout again.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if batch_norm != "frozen":
        raise UsageError(
            f"finetune.gradient_checkpointing computes twice, and with finetune.batch_norm {batch_norm} every image "
            "would count twice; set one of them to false or frozen"
        )
    if (backend := compile_backend()) not in _DRAWS_AGAIN:
        raise UsageError(
            f"finetune.gradient_checkpointing with PPVIT_COMPILE {backend} has wrong gradients where there is dropout; "
            "set PPVIT_COMPILE to 1 or 0"
        )
    try:
        base.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        raise UsageError(
            f"finetune.gradient_checkpointing: timm's {type(base).__name__} cannot do that; set it to false"
        ) from None


def fused_optimizer() -> bool | None:
    """On a GPU all parameters in one kernel; on a CPU torch's own choice."""
    return True if device().type == "cuda" else None


def compile_backend() -> str | None:
    """What compiles the model in training: ``$PPVIT_COMPILE``, where 1 means inductor; None for 0, empty or unset.

    Raises:
        UsageError: torch has no such backend.
    """
    wanted = os.environ.get("PPVIT_COMPILE", "0")
    if wanted in ("", "0"):
        return None
    backend = "inductor" if wanted == "1" else wanted
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise UsageError(f"PPVIT_COMPILE {wanted}: torch compiles with {', '.join(known)}; set one of them, 1 or 0")
    return backend
