"""What the parties exchange: plans, and folders of ciphertexts or keys with the hashes of their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import write_json
from ppvit.core.reading import read_json, sha256_of
from ppvit.he.algorithms import ALGORITHMS, Algorithm

MANIFEST = "manifest.json"
SCHEMA = 1


def require_replaceable(folder: Path) -> None:
    """Refuse to replace what no party made.

    Raises:
        UsageError: a file, or a folder with something in it and no ``plan.json``.
    """
    ours = folder.is_dir() and ((folder / "plan.json").is_file() or not any(folder.iterdir()))
    if folder.exists() and not ours:
        raise UsageError(
            f"{folder} is not empty and ppvit he keys has not made it (it has no plan.json); name another folder or "
            "remove it"
        )


def open_private(path: Path) -> BinaryIO:
    """A new file to write that its owner alone may read."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def write_plan(folder: Path, algorithm: Algorithm, fingerprint: str) -> None:
    """Write ``plan.json``, public: which algorithm takes which sizes and settings, for which key."""
    record = {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "algorithm": algorithm.name,
        "plan": algorithm.plan.as_record(),
    }
    write_json(folder / "plan.json", record)


def read_plan(folder: Path) -> tuple[Algorithm, str]:
    """The algorithm with its plan, and the key's fingerprint, from a party's folder.

    Raises:
        PpvitError: missing or unreadable.
    """
    path = folder / "plan.json"
    record = read_json(path, "he (or ppvit he keys)")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or record.get("algorithm") not in ALGORITHMS:
        raise PpvitError(f"{path} is of another version; make it again: ppvit he keys")
    algorithm = ALGORITHMS[record["algorithm"]].read(record.get("plan"), str(path))
    if not isinstance(record.get("fingerprint"), str):
        raise PpvitError(f"{path} does not say of which key it is; make it again: ppvit he keys")
    return algorithm, record["fingerprint"]


def write_manifest(folder: Path, fingerprint: str, **record: Any) -> None:
    """List every file of a folder with its SHA-256, beside the fingerprint of the secret key and ``record``."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    write_json(folder / MANIFEST, {"schema": SCHEMA, "fingerprint": fingerprint, **record, "files": files})


def read_manifest(folder: Path, made_by: str, fingerprint: str | None = None) -> dict[str, Any]:
    """Check every file of a folder against its manifest.

    The hashes find damage and mix-ups. They do not bind whoever can rewrite the manifest too: CKKS has no integrity.

    Args:
        folder: what :func:`write_manifest` described.
        made_by: the verb that writes it, named in errors.
        fingerprint: of the key that it must belong to; None takes any.

    Raises:
        PpvitError: something is missing, truncated, altered, or belongs to another key.
    """
    manifest = read_json(folder / MANIFEST, f"he (or ppvit he {made_by})")
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise PpvitError(f"{folder / MANIFEST} is of another version; make it again: ppvit he {made_by}")
    if fingerprint is not None and manifest["fingerprint"] != fingerprint:
        raise PpvitError(
            f"{folder} belongs to the key {manifest['fingerprint']}, here the key is {fingerprint}: keys were mixed "
            f"up; use the right folders or make it again: ppvit he {made_by}"
        )
    for name, expected in manifest["files"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise PpvitError(f"{path} is missing; fetch it again or make it again: ppvit he {made_by}")
        if sha256_of(path) != expected:
            raise PpvitError(
                f"{path} does not match its SHA-256: it is truncated or was altered; fetch it again or make it "
                f"again: ppvit he {made_by}"
            )
    return manifest


def weights_name(block: int, kind: str = "w") -> str:
    """File name of a block of weights."""
    return f"{kind}-{block:04d}.ct"
