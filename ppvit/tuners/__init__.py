"""Fine-tuning methods by name. To add one: a :class:`Tuner` in a file of its own, and its class in ``TUNERS``."""

from __future__ import annotations

import difflib

from ppvit.config import Finetune
from ppvit.errors import UsageError
from ppvit.tuners.base import Tuner, adapter_bytes, trainable_parameters
from ppvit.tuners.full import Full
from ppvit.tuners.linear import Linear
from ppvit.tuners.lora import Lora
from ppvit.tuners.melo import LoraPatch, Melo
from ppvit.tuners.saved import load_finetuned, read_finetuned_record, save_finetuned

__all__ = [
    "TUNERS",
    "Tuner",
    "adapter_bytes",
    "load_finetuned",
    "make_tuner",
    "read_finetuned_record",
    "save_finetuned",
    "trainable_parameters",
]

TUNERS: dict[str, type[Tuner]] = {tuner.name: tuner for tuner in (Full, Linear, Melo, LoraPatch, Lora)}


def make_tuner(settings: Finetune) -> Tuner:
    """The method that ``finetune.method`` names.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if settings.method not in TUNERS:
        close = difflib.get_close_matches(settings.method, TUNERS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(TUNERS)}"
        raise UsageError(f"unknown finetune.method '{settings.method}'; {hint}")
    return TUNERS[settings.method](settings)
