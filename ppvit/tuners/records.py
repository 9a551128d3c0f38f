"""What a fine-tuned model says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ppvit.config import Adversarial, Augment, Finetune
from ppvit.core.errors import PpvitError
from ppvit.core.provenance import RECORD
from ppvit.core.reading import read_record
from ppvit.data.labels import TaskName
from ppvit.data.manifests import ValueRange
from ppvit.models.records import ModelRecord


class FinetunedRecord(ModelRecord):
    """``ppvit.json``.

    Attributes:
        method: ``finetune.method``.
        num_classes: of the head.
        task: what its logits mean, see :mod:`ppvit.models.tasks`; multi-class is not written.
        train_images: how many it was trained on; `robustness` takes no longer than that training.
        finetune: the section, which says what the method trained; `he` writes a linear model without.
        adversarial: the section, where it was trained against an attack.
        augment: the section, where training images were augmented.
        resize_filter, crop, value_range: how images were prepared, as the shards say.
        blocks_sha256: which checkpoint it was trained from, see :func:`ppvit.tuners.made.blocks_sha256`.
    """

    method: Annotated[str, Field(max_length=100)]
    num_classes: Annotated[int, Field(ge=1, le=2**20)]
    task: TaskName = "multiclass"
    train_images: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    finetune: Finetune | None = None
    adversarial: Adversarial | None = None
    augment: Augment | None = None
    resize_filter: Annotated[str, Field(max_length=20)] = ""
    crop: Annotated[str, Field(max_length=20)] = ""
    value_range: ValueRange | None = None
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
