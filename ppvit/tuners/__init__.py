"""Fine-tuning methods by name. One more is a file here with a :class:`Tuner` under ``@TUNERS.register()``.

``import ppvit.tuners`` also makes our own methods known to peft, so that ``peft.PeftModel.from_pretrained`` loads their
adapters.
"""

from __future__ import annotations

from ppvit.config import Finetune
from ppvit.core.provenance import finetuned_id
from ppvit.tuners.base import TUNERS, Tuner, adapter_bytes, trainable_parameters, trained_state
from ppvit.tuners.loading import load_adapter, load_finetuned
from ppvit.tuners.lora_export import export_lora
from ppvit.tuners.records import read_finetuned_record
from ppvit.tuners.saved import save_finetuned

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

len(TUNERS)  # imports the module of every method, where those that peft does not have enter themselves into its tables


def make_tuner(settings: Finetune) -> Tuner:
    """The method that ``finetune.method`` names.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    return TUNERS[settings.method](settings)
