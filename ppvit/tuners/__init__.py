"""Fine-tuning methods by name. To add one: a :class:`Tuner` in a file of its own, and its class in ``TUNERS``."""

from __future__ import annotations

import difflib

from ppvit.config import Finetune
from ppvit.errors import UsageError
from ppvit.tuners.adapter import Adapter
from ppvit.tuners.aoft import AoftAdapter, AoftLora
from ppvit.tuners.base import Tuner, adapter_bytes, trainable_parameters, trained_state
from ppvit.tuners.full import Full
from ppvit.tuners.hta import HtaAdapter, HtaLora
from ppvit.tuners.linear import Linear
from ppvit.tuners.lora import Lora
from ppvit.tuners.lora_export import export_lora
from ppvit.tuners.lora_variants import Dora, Eva, Olora, Pissa, Rslora
from ppvit.tuners.melo import LoraPatch, Melo
from ppvit.tuners.rotations import Boft, Hra, Oft
from ppvit.tuners.saved import finetuned_id, load_adapter, load_finetuned, read_finetuned_record, save_finetuned
from ppvit.tuners.spectral import Fourierft
from ppvit.tuners.vectors import Ia3, Vera
from ppvit.tuners.vpt import AoftVpt, VptDeep

__all__ = [
    "TUNERS",
    "Tuner",
    "adapter_bytes",
    "export_lora",
    "finetuned_id",
    "load_adapter",
    "load_finetuned",
    "make_tuner",
    "read_finetuned_record",
    "save_finetuned",
    "trainable_parameters",
    "trained_state",
]

_STOCK = (Full, Linear, Melo, LoraPatch, Lora, Rslora, Dora, Pissa, Olora, Eva, Oft, Boft, Hra, Vera, Ia3, Fourierft)
_OWN = (Adapter, VptDeep, AoftLora, AoftAdapter, AoftVpt, HtaLora, HtaAdapter)

TUNERS: dict[str, type[Tuner]] = {tuner.name: tuner for tuner in (*_STOCK, *_OWN)}


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
