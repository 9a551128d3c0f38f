"""What a fine-tuned model says of itself, and its identity."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ppvit.config import Adversarial, Finetune
from ppvit.core.errors import PpvitError
from ppvit.core.reading import read_record, sha256_of
from ppvit.models.records import ModelRecord

RECORD = "ppvit.json"
ADAPTER, ADAPTER_CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"
WEIGHTS = (ADAPTER, "model.safetensors")
LOADED = (ADAPTER_CONFIGURATION, "config.json", RECORD, *WEIGHTS)  # every file that is looked at when one is loaded


class FinetunedRecord(ModelRecord):
    """``ppvit.json``.

    Attributes:
        method: ``finetune.method``.
        num_classes: of the head.
        finetune: the section, which says what the method trained; `he` writes a linear model without.
        adversarial: the section, where it was trained against an attack.
        resize_filter, crop: of the section ``encrypt``, as the shards say.
        blocks_sha256: which checkpoint it was trained from, see :func:`ppvit.tuners.made.blocks_sha256`.
    """

    method: Annotated[str, Field(max_length=100)]
    num_classes: Annotated[int, Field(ge=1, le=2**20)]
    finetune: Finetune | None = None
    adversarial: Adversarial | None = None
    resize_filter: Annotated[str, Field(max_length=20)] = ""
    crop: Annotated[str, Field(max_length=20)] = ""
    blocks_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = ""


def checked_record(folder: Path) -> FinetunedRecord:
    """``ppvit.json`` of a fine-tuned model.

    Raises:
        PpvitError: it is missing or damaged, or method and parameters are of two runs.
    """
    record = read_record(folder / RECORD, FinetunedRecord, "finetune")
    if record.finetune is None and record.method != "linear":
        raise PpvitError(f"{folder / RECORD}: 'finetune' is missing; make it again: dvc repro --force finetune")
    if record.finetune is not None and record.finetune.method != record.method:
        raise PpvitError(
            f"{folder / RECORD} says method {record.method} and finetune.method {record.finetune.method}; make it "
            "again: dvc repro --force finetune"
        )
    return record


def read_finetuned_record(folder: Path) -> dict[str, Any]:
    """The ``record`` that :func:`ppvit.tuners.save_finetuned` kept; errors: see :func:`checked_record`."""
    return checked_record(folder).model_dump(exclude_unset=True)


def finetuned_id(folder: Path) -> str:
    """16 hexadecimal digits that tell one fine-tuned model from another.

    The start of the SHA-256 of a list of the files that are loaded, as `sha256sum` writes it, sorted by name; so it
    covers weights, settings and record.

    Raises:
        PpvitError: there are no weights.
    """
    if not any((folder / name).exists() for name in WEIGHTS):
        raise PpvitError(f"{folder} holds no weights; run the stage that writes it: dvc repro finetune")
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in sorted(LOADED) if (folder / name).exists()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
