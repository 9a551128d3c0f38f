"""Attention by torch's fused kernel against products and a softmax, one after another, on one core.

    python benchmarks/attention.py

Compared: `softmax(q k^T / sqrt(d)) v` as timm has it with `fused_attn` and without, alone and with the backward pass,
in float32 and bfloat16. Shapes are batch, heads, tokens, width of a head: ViT-Ti/16 at 96 and 224 px, and ViT-B/16.
Processor time, alternating, so that ratios hold on a busy machine. Above 1 the fused kernel takes longer.
`ppvit.training.hardware.attention_in_steps` switches it off where it does: in bfloat16 on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from timing import alternate, benchmark, one_core, print_table, spread
from torch.nn import functional

SHAPES = ((32, 3, 37, 64), (32, 3, 197, 64), (8, 12, 197, 64))
SMOKE_SHAPES = ((2, 1, 5, 8),)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CALLS = 3  # that are timed together


def in_steps(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same without the fused kernel."""
    attention = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return attention.softmax(-1) @ v


KINDS: dict[str, Callable[..., torch.Tensor]] = {
    "fused": functional.scaled_dot_product_attention,
    "steps": in_steps,
}


def calls(kind: str, shape: tuple[int, ...], dtype: torch.dtype, backward: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=dtype, requires_grad=backward) for _ in range(3)]
    upstream = torch.randn(shape, dtype=dtype)

    def run() -> None:
        for _ in range(CALLS):
            result = KINDS[kind](*inputs)
            if backward:
                result.backward(upstream)
                for each in inputs:
                    each.grad = None

    return run


def main(smoke: bool) -> None:
    one_core()
    torch.set_num_threads(1)
    rows = []
    for shape in SMOKE_SHAPES if smoke else SHAPES:
        for name, dtype in DTYPES.items():
            for passes, backward in (("forward", False), ("and backward", True)):
                contestants = {kind: calls(kind, shape, dtype, backward) for kind in KINDS}
                seconds = alternate(contestants, 1 if smoke else 9, clock=time.process_time)
                times = [spread(1000 * seconds[kind] / CALLS) for kind in KINDS]
                ratio = spread(seconds["fused"] / seconds["steps"])
                rows.append([" x ".join(map(str, shape)), name, passes, *times, ratio])
    print(f"milliseconds of processor time: median (min-max); torch {torch.__version__}")
    print_table(["shape", "dtype", "passes", "fused", "in steps", "fused / in steps"], rows)


if __name__ == "__main__":
    benchmark(main)
