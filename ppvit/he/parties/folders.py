"""What the parties exchange: plans, and folders of ciphertexts or keys with the hashes of their files.

A party reads what the other wrote, which it does not trust: every file has a name that is expected and a bounded size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import atomic_output, write_json
from ppvit.core.git import keep_out_of_git
from ppvit.core.reading import JSON_BYTES, Record, open_regular, read_bounded, read_record, sha256_of
from ppvit.he.algorithms import ALGORITHMS, Algorithm

MANIFEST = "manifest.json"
SCHEMA = 1

Fingerprint = Annotated[str, Field(pattern=r"\Ahe-[0-9a-f]{16}\z")]
DataId = Annotated[str, Field(pattern=r"\Adata-[0-9a-f]{16}\z")]
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class PlanFile(Record):
    """``plan.json``, public: which algorithm takes which sizes and settings, for which key."""

    schema_: int = Field(alias="schema", ge=SCHEMA, le=SCHEMA)
    fingerprint: Fingerprint
    algorithm: str = Field(max_length=100)
    plan: dict[str, Any]


class Manifest(Record):
    """``manifest.json``: SHA-256 of every file beside it.

    Attributes:
        fingerprint: of the secret key.
        files: hashes by name.
        run: of new weights, which start of the trainer wrote them.
        data: of weights and what goes with `refresh`, what was trained on; see :func:`id_of_data`.
        done: of an answer in `refresh`, that the owner ends the training and gives the weights that it wants.
    """

    schema_: int = Field(alias="schema", ge=SCHEMA, le=SCHEMA)
    fingerprint: Fingerprint
    files: dict[str, Sha256]
    run: str | None = Field(None, pattern=r"\A[0-9a-f]{16}\z")
    data: DataId | None = None
    done: bool = False


@dataclass(frozen=True)
class Sent:
    """Which of the owner's encryptions a party works with.

    Attributes:
        id: see :func:`id_of_data`.
        told_by: the file that says so, named in errors.
        remedy: what to do with what is of another.
    """

    id: str
    told_by: Path
    remedy: str


@dataclass(frozen=True)
class OwnersFiles:
    """What the owner keeps.

    Attributes:
        folder: has ``plan.json``, ``keys.json`` and ``encrypt.json``, of which nothing is secret.
        secret_key: the CKKS key; a path in the folder, or anywhere.
        kept: see :mod:`ppvit.he.parties.kept`; likewise.
    """

    folder: Path
    secret_key: Path = Path("secret.key")
    kept: Path = Path("kept.safetensors")

    def place(self, path: Path) -> Path:
        """Where a file is."""
        return self.folder / path

    @contextmanager
    def writing(self, path: Path, folder: Path | None = None) -> Iterator[BinaryIO]:
        """A file to write that its owner alone may read, whole or absent; in ``folder`` while that is being made."""
        if path.is_absolute():  # in memory: it has no name that others could look for
            with path.open("wb") as file:
                yield file
        else:
            with atomic_output((folder or self.folder) / path) as temporary:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    yield file


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


@contextmanager
def owners_folder(folder: Path) -> Iterator[Path]:
    """The owner's folder, made anew: for the user alone, and never in git, wherever it is."""
    with atomic_output(folder, known_by="plan.json") as out:
        out.chmod(0o700)
        keep_out_of_git(out)
        yield out


def write_plan(folder: Path, algorithm: Algorithm, fingerprint: str) -> None:
    """Write ``plan.json``."""
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
        PpvitError: missing, unreadable, or no plan of this version.
    """
    path = folder / "plan.json"
    record = read_record(path, PlanFile, "he (or ppvit he keys)")
    if record.algorithm not in ALGORITHMS:
        raise PpvitError(f"{path} is of another version; make it again: ppvit he keys")
    return ALGORITHMS[record.algorithm].read(record.plan, str(path)), record.fingerprint


def write_manifest(folder: Path, fingerprint: str, **record: Any) -> None:
    """List every file of a folder with its SHA-256, beside the fingerprint of the secret key and ``record``."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    write_json(folder / MANIFEST, {"schema": SCHEMA, "fingerprint": fingerprint, **record, "files": files})


def id_of_data(folder: Path) -> str:
    """``data-`` and 16 hexadecimal digits that tell one encryption from another: a hash of the manifest of ``data``.

    Equal features give other ciphertexts every time, so no two encryptions share it.

    Raises:
        PpvitError: the manifest is larger than one can be.
        OSError: it is missing or cannot be read.
    """
    return "data-" + hashlib.sha256(read_bounded(folder / MANIFEST, JSON_BYTES)).hexdigest()[:16]


def read_manifest(folder: Path, made_by: str, fingerprint: str, expected: Mapping[str, int]) -> Manifest:
    """Check every file of a folder against its manifest.

    The hashes find damage and mix-ups. They do not bind whoever can rewrite the manifest too: CKKS has no integrity.

    Args:
        folder: what :func:`write_manifest` described.
        made_by: the verb that writes it, named in errors.
        fingerprint: of the key that it must belong to.
        expected: the files that there must be, no more and no fewer, and how many bytes each may have.

    Raises:
        PpvitError: something is missing, too much, truncated, altered, or belongs to another key.
    """
    again = f"make it again: ppvit he {made_by}"
    manifest = read_record(folder / MANIFEST, Manifest, f"he (or ppvit he {made_by})")
    if manifest.fingerprint != fingerprint:
        raise PpvitError(
            f"{folder} belongs to the key {manifest.fingerprint}, here the key is {fingerprint}: keys were mixed "
            f"up; use the right folders or {again}"
        )
    if more := manifest.files.keys() - expected.keys():
        raise PpvitError(f"{folder / MANIFEST} names '{min(more)[:100]}', which does not belong there; {again}")
    for name, most in expected.items():
        path = folder / name
        if name not in manifest.files or not path.exists():
            raise PpvitError(f"{path} is missing; fetch it again or {again}")
        require_bytes(path, most, again)
        if sha256_of(path) != manifest.files[name]:
            raise PpvitError(
                f"{path} does not match its SHA-256: it is truncated or was altered; fetch it again or {again}"
            )
    return manifest


def require_of(sent: Sent, folder: Path, manifest: Manifest) -> None:
    """Refuse what was made from other data than those.

    Args:
        sent: the right ones.
        folder: what was made from some.
        manifest: its, from :func:`read_manifest`.

    Raises:
        PpvitError: names both and the remedy.
    """
    if manifest.data != sent.id:
        raise PpvitError(
            f"{folder} is of {manifest.data or 'data that it does not name'}, {sent.told_by} of {sent.id}: two runs of "
            f"ppvit he encrypt were mixed up; use the right folders or {sent.remedy}"
        )


def require_bytes(path: Path, most: int, remedy: str) -> None:
    """Refuse what is no regular file of at most so many bytes, before it is read.

    Raises:
        PpvitError: names the file, its size and the remedy.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size > most:
        raise PpvitError(f"{path} has {size:,} bytes, of at most {most:,}; fetch it again or {remedy}")


def weights_name(block: int, kind: str = "w") -> str:
    """File name of a block of weights."""
    return f"{kind}-{block:04d}.ct"
