"""What a card can do, what a training step asks of it, and how much time there is left."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

# dense bfloat16 with sums in float32, in TFLOP/s, by the name that the driver gives; from the vendors' data sheets,
# which mostly print twice as much, for matrices of which half are zeros: NVIDIA B200, H200, H100 (SXM, PCIe and NVL in
# one), A100, A30, A10, A40, L40S, L4; the white papers of Ada (RTX 4090) and GA102 (RTX 3090); AMD Instinct MI300X
PEAKS = {
    r"B200": 2250.0,
    r"GH200|H200": 989.4,
    r"H100.*NVL": 835.5,
    r"H100.*PCIe": 756.0,
    r"H100": 989.4,
    r"A100": 312.0,
    r"A30\b": 165.0,
    r"A10\b": 125.0,
    r"A40\b": 149.7,
    r"L40S": 362.0,
    r"L4\b": 121.0,
    r"RTX 4090\b": 165.2,
    r"RTX 3090\b": 71.0,
    r"MI300X": 1307.4,
}


def peak_flops(card: str) -> float | None:
    """Of a card, in FLOP/s; None for one that is not in the table."""
    return next((1e12 * peak for name, peak in PEAKS.items() if re.search(name, card)), None)


def flops_per_image(model: nn.Module, image_size: int) -> int:
    """Of forward and backward pass of one image, a product and a sum as two; nothing is computed.

    Gradients that a method does not need are not counted, nor is what is computed twice to save memory.

    Args:
        model: as it is trained; moved to the device ``meta``.
        image_size: its side in pixels.
    """
    model = model.to("meta").train()
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.empty(1, 3, image_size, image_size, device="meta"))
        functional.cross_entropy(logits, torch.zeros(1, dtype=torch.int64, device="meta")).backward()
    return int(counter.get_total_flops())


class Budget:
    """Seconds that a script may take, from when this is made."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start, self.seconds = clock, clock(), seconds

    def passed(self) -> float:
        return self._clock() - self._start

    def left(self, until: float = 1.0) -> float:
        """Seconds until this share of them has passed; negative afterwards."""
        return until * self.seconds - self.passed()
