"""What things were made with: the one check that shards, models and parameters belong together.

Shards and models carry a public record (:attr:`ppvit.ciphers.Cipher.record`): key id, cipher and its settings,
image size. Whatever is used together must agree in all that both sides record.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError

# what is compared, and the parameter that decides it
_PARAMETERS = {
    "key_id": "cipher.key_id",
    "cipher": "cipher",
    "image_size": "dataset.image_size",
    "model": "model.name",
    "num_classes": "number of classes",
}


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


def require_made_alike(first: Made, *others: Made) -> None:
    """Refuse things that were not made with the same key, cipher, size, model and classes.

    Raises:
        PpvitError: names the parameter, both sides and the stages to run again.
    """
    for other in others:
        for name, parameter in _PARAMETERS.items():
            if name not in first.record or name not in other.record or first.record[name] == other.record[name]:
                continue
            stages = " ".join(dict.fromkeys(made.by for made in (first, other) if made.by))
            back = "" if first.by and other.by else f", or set {parameter} back"
            raise PpvitError(
                f"{first.what} was made with {parameter} {first.record[name]}, {other.what} with "
                f"{other.record[name]}; make them again: dvc repro {stages}{back}"
            )
