"""What each party measured on its way, as it is read at the end; the trainer's figures are checked most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ppvit.core.errors import PpvitError
from ppvit.core.reading import Record, read_record
from ppvit.he.parties.folders import MANIFEST, DataId, Sent, id_of_data

TRAINING, TRAINING_BYTES = "training.json", 2**16

Seconds = Annotated[float, Field(ge=0, le=1e9)]  # thirty years
Bytes = Annotated[int, Field(ge=0, le=2**50)]
Text = Annotated[str, Field(max_length=1000)]


class Training(Record):
    """``training.json`` of the trainer."""

    train_seconds: Seconds
    key_switches: int = Field(ge=0)
    memory_bytes: Bytes
    device: Text
    git_revision: Text
    versions: Text


class KeyMaking(Record):
    """``keys.json`` of the owner."""

    keys_seconds: Seconds
    keys_memory_bytes: Bytes


class Encryption(Record):
    """``encrypt.json`` of the owner; ``settings`` are those of :func:`ppvit.he.parties.features.settings_of`."""

    data: DataId
    patience: int = Field(ge=0, le=1000)
    settings: dict[str, str | int | float | bool | list[float]]
    validation_accuracy_percent: float | None = Field(None, ge=0, le=100)
    validation_auroc: float | None = Field(None, ge=0, le=1)
    max_scores: float = Field(ge=0)
    encrypt_seconds: Seconds
    upload_bytes: Bytes
    key_bytes: Bytes
    encrypt_memory_bytes: Bytes


def read_training(path: Path, key_switches: int) -> Training:
    """What the trainer measured.

    Args:
        path: the file.
        key_switches: that the plan takes; an honest trainer has counted as many.

    Raises:
        PpvitError: no such figures.
    """
    training = read_record(path, Training, "he (or ppvit he train)", TRAINING_BYTES)
    if training.key_switches != key_switches:
        raise PpvitError(
            f"{path}: key_switches is {training.key_switches}, the plan takes {key_switches}; train again: ppvit he "
            "train"
        )
    return training


def read_owners_measured(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of `keys` and `encrypt` by name, and the settings of `encrypt`.

    Raises:
        PpvitError: missing or damaged.
    """
    making = read_record(folder / "keys.json", KeyMaking, "he (or ppvit he keys)")
    figures = {**making.model_dump(), **_read_encryption(folder).model_dump(exclude={"data", "patience"})}
    return figures, figures.pop("settings")


def read_sent(folder: Path, trainer: Path) -> Sent:
    """Owner: which data it has encrypted last, and what to do with weights of others.

    Args:
        folder: the owner's.
        trainer: the trainer's; its ``data`` are old ones where it was copied back over newer ones.

    Raises:
        PpvitError: ``encrypt.json`` is missing or damaged.
    """
    last, data = _read_encryption(folder).data, trainer / "data"
    there = not (data / MANIFEST).exists() or id_of_data(data) == last
    remedy = "train again: ppvit he train" if there else "encrypt and train again: ppvit he encrypt"
    return Sent(last, folder / "encrypt.json", remedy)


def read_patience(folder: Path) -> int:
    """Owner: ``he.patience`` of the last encryption.

    Raises:
        PpvitError: ``encrypt.json`` is missing or damaged.
    """
    return _read_encryption(folder).patience


def _read_encryption(folder: Path) -> Encryption:
    return read_record(folder / "encrypt.json", Encryption, "he (or ppvit he encrypt)")
