"""Where models are computed, and what that device can.

Figures are those of float32: products are rounded to TF32 (10 bits of mantissa) in training alone, see :func:`tf32`.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keeps_to_cpu() -> bool:
    """Whether ``ACCELERATE_USE_CPU`` asks for it, as accelerate reads it; needs no torch."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def device() -> torch.device:
    """The GPU where there is one, unless :func:`keeps_to_cpu`; several processes have one each."""
    import torch

    _start_exact()
    return torch.device("cuda" if torch.cuda.is_available() and not keeps_to_cpu() else "cpu")


def has_bf16() -> bool:
    """Whether :func:`device` is a GPU whose matrix units take bfloat16; older ones only imitate it, slowly."""
    import torch

    return device().type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def has_tf32() -> bool:
    """Whether :func:`device` is a GPU whose matrix units take float32 rounded to TF32."""
    import torch

    return device().type == "cuda" and torch.cuda.is_tf32_supported()


def free_bytes() -> int | None:
    """Memory of the GPU that is free for tensors, in bytes, what torch holds in reserve included; None on a CPU."""
    import torch

    if device().type != "cuda":
        return None
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0] + unused)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """While this lasts, products of float32 matrices and convolutions may be rounded to TF32; before and after not."""
    _start_exact()
    _allow_tf32(allowed)
    try:
        yield
    finally:
        _allow_tf32(False)


@functools.cache
def _start_exact() -> None:
    _allow_tf32(False)  # convolutions would use it by default


def _allow_tf32(allowed: bool) -> None:
    """By the older names, which set the newer ``fp32_precision`` too.

    Set by the newer names alone, ``torch.compile`` fails up to torch 2.13, which asks the older ones
    (pytorch/pytorch#166387, #189955). By the older ones some versions warn, once, that there are newer ones.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings", UserWarning)
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
