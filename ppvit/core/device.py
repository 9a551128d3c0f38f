"""Where models are computed."""

from __future__ import annotations

import os

import torch


def device() -> torch.device:
    """The GPU where there is one, unless ``ACCELERATE_USE_CPU`` says otherwise (as accelerate reads it)."""
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    torch.backends.cudnn.allow_tf32 = False  # convolutions would compute with 10 bits of mantissa; figures are fp32's
    return torch.device("cuda" if torch.cuda.is_available() and not use_cpu else "cpu")
