"""What things were made with: the one check that shards, models and parameters belong together.

Shards and models carry a public record (:attr:`ppvit.ciphers.Cipher.record`): key id, cipher and its settings,
image size; shards also how pictures were brought to that size. A fine-tuned model has all that of the shards that it
was trained on, and the SHA-256 of the blocks that it was trained from, which no key changes. Whatever is used together
must agree in all that both sides record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError
from ppvit.core.reading import sha256_of

# what is compared, and the parameter that decides it
_PARAMETERS = {
    "key_id": "cipher.key_id",
    "cipher": "cipher",
    "image_size": "dataset.image_size",
    "model": "model.name",
    "num_classes": "number of classes",
    "task": "task",
    "resize_filter": "encrypt.resize_filter",
    "crop": "encrypt.crop",
    "value_range": "encrypt.value_range",
    "blocks_sha256": "weights of the checkpoint",
}
_LETTERS = 80  # of a value in a message

ADAPTER, ADAPTER_CONFIGURATION, RECORD = "adapter_model.safetensors", "adapter_config.json", "ppvit.json"
_ADAPTER, _MODEL = (ADAPTER_CONFIGURATION, ADAPTER), ("config.json", "model.safetensors")  # files that are read


@dataclass(frozen=True)
class Made:
    """Something that was made with a key.

    Attributes:
        what: its folder or file, for messages.
        record: what it was made with, by the names of ``_PARAMETERS``; other names are ignored.
        by: the stage that makes it; empty for parameters, which are not made.
    """

    what: Path | str
    record: dict[str, Any]
    by: str = ""


def require_made_alike(*things: Made) -> None:
    """Refuse things of which two were not made with the same key, cipher, size, model, classes and pictures.

    Raises:
        PpvitError: names the parameter, both sides and the stages to run again.
    """
    for first, other in combinations(things, 2):
        for name, parameter in _PARAMETERS.items():
            if name not in first.record or name not in other.record or first.record[name] == other.record[name]:
                continue
            stages = " ".join(dict.fromkeys(made.by for made in (first, other) if made.by))
            back = "" if first.by and other.by else f", or set {parameter} back"
            one, another = (str(made.record[name])[:_LETTERS] for made in (first, other))
            raise PpvitError(
                f"{first.what} was made with {parameter} {one}, {other.what} with {another}; make them again: "
                f"dvc repro {stages}{back}"
            )


def finetuned_id(folder: Path) -> str:
    """16 hexadecimal digits that tell one fine-tuned model from another, see :func:`_id_of`.

    Raises:
        PpvitError: weights or their configuration are missing.
    """
    adapter = any((folder / name).exists() for name in _ADAPTER)
    return _id_of(folder, (*(_ADAPTER if adapter else _MODEL), RECORD), "finetune")


def adapted_id(folder: Path) -> str:
    """The same of an adapted model, on which an adapter works."""
    return _id_of(folder, _MODEL, "adapt")


def _id_of(folder: Path, loaded: tuple[str, ...], made_by: str) -> str:
    """The start of the SHA-256 of a list of the files that are loaded, as `sha256sum` writes it, sorted by name.

    So it covers weights, settings and record; the first two of ``loaded`` must be there.
    """
    if missing := [name for name in loaded[:2] if not (folder / name).exists()]:
        raise PpvitError(f"{folder / missing[0]} is missing; fetch it (ppvit pull), or run dvc repro {made_by}")
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in sorted(loaded) if (folder / name).exists()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def identities(adapted: Path, finetuned: Path) -> dict[str, str]:
    """What result files say of the model that was measured: ``finetuned_id`` and ``adapted_id``.

    Raises:
        PpvitError: a file of them is missing.
    """
    return {"finetuned_id": finetuned_id(finetuned), "adapted_id": adapted_id(adapted)}


@contextmanager
def one_model(adapted: Path, finetuned: Path) -> Iterator[dict[str, str]]:
    """Yield :func:`identities` while something is measured.

    Raises:
        PpvitError: a file is missing; or another model has taken the place of one, so that figures could be of either.
    """
    before = identities(adapted, finetuned)
    yield before
    if identities(adapted, finetuned) != before:
        raise PpvitError(f"{finetuned} or {adapted} was replaced meanwhile; run again once nothing writes it")
