"""Which keys there are, how each is kept, and what in a project is of which key. No secret is unlocked or shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppvit.ciphers import keys, passphrase
from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import read_bounded, read_json
from ppvit.places import Places

_LABEL_BYTES = 1000


@dataclass(frozen=True)
class Listed:
    """A key by its id.

    Attributes:
        label: the note that was made with it.
        kept: ``file`` or ``keychain``, with or without passphrase, ``public`` for the demo key, or ``missing``.
        problem: why it cannot be used as it is kept; empty where it can.
        used: parameters and folders that are of it.
    """

    key_id: str
    label: str
    kept: str
    problem: str
    used: list[str]


def run(config: Config | None, places: Places, folder: Path | None = None) -> list[Listed]:
    """All keys of the key ring, those that a project uses and the ring lacks, and the demo key where it is used.

    Args:
        config: parameters that may name keys; None where there are none.
        places: ``raw``, ``encrypted``, ``adapted`` and ``finetuned``, and what lies beside the first two.
        folder: the key ring, by default :func:`ppvit.ciphers.keys.keyring`.
    """
    folder = folder or keys.keyring()
    used: dict[str, list[str]] = {}
    for what, key_id in _uses(config, places):
        if isinstance(key_id, str) and keys.is_id(key_id) and what not in used.setdefault(key_id, []):
            used[key_id].append(what)
    noted = {path.stem for pattern in ("*.key", "*.label") for path in folder.glob(pattern) if keys.is_id(path.stem)}
    return [_listed(key_id, folder, used.get(key_id, [])) for key_id in sorted(noted | used.keys())]


def _uses(config: Config | None, places: Places) -> Iterator[tuple[str, Any]]:
    if config is not None:
        yield "cipher.key_id", config.cipher.key_id
        yield "download.key_id", config.download.key_id
        if config.encrypt.views > 1:
            yield "encrypt.view_key_id", config.encrypt.view_key_id
    for path in sorted(places.raw.parent.glob("*/dataset.json")):
        yield str(path.parent), _at(path, "download", "sealed", "key_id")
    for path in sorted(places.encrypted.parent.glob("*/*/manifest.json")):
        yield str(path.parent.parent), _at(path, "encrypt", "key_id")
    yield str(places.adapted), _at(places.adapted / "config.json", "adapt", "ppvit", "key_id")
    yield str(places.finetuned), _at(places.finetuned / "ppvit.json", "finetune", "key_id")


def _at(path: Path, made_by: str, *names: str) -> Any:
    """What a file of others says under these names; None where it does not, or is missing or damaged."""
    try:
        value = read_json(path, made_by)
    except (PpvitError, OSError):
        return None
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _listed(key_id: str, folder: Path, used: list[str]) -> Listed:
    if key_id == keys.DEMO_KEY.id:
        return Listed(key_id, "demo key", "public", "protects nothing", used)
    kept, problem = "missing", ""
    try:
        line, where = keys.find(key_id, folder)
        locked = line.startswith(passphrase.PREFIX)
        kept = ("file" if where.startswith(str(folder)) else "keychain") + (", passphrase" if locked else "")
        if not locked:
            keys.load(key_id, folder)  # whole, and the one that its name says
    except UsageError:
        problem = f"not in {folder} or the keychain"
    except PpvitError as error:
        kept, problem = "file" if (folder / f"{key_id}.key").exists() else "keychain", str(error)
    return Listed(key_id, _label(folder / f"{key_id}.label"), kept, problem, used)


def _label(path: Path) -> str:
    try:
        return read_bounded(path, _LABEL_BYTES).decode("utf-8", "replace").strip()
    except (PpvitError, OSError):
        return ""
