"""Files that somebody else may have written: bounded, regular, strict, and refused in one line that names the file.

Owner and trainer do not trust each other, so every file that crosses between them is read through here.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ppvit.core.errors import PpvitError

JSON_BYTES = 16 * 2**20  # more than any file of ours in JSON; a manifest of 100,000 shards takes 13 MB
_DIGITS = 30  # of a whole number in JSON: more than any of ours, and a bound on the time that reading one takes


class Record(BaseModel):
    """Base class of what a file may hold: exactly these names, of exactly these types, and finite numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Line = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\p{Cc}]*$")]
"""Text without control characters: what others wrote must not steer the terminal."""
R = TypeVar("R", bound=BaseModel)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; links are followed, since DVC makes some, but never to a device, pipe or socket.

    Raises:
        PpvitError: it is no regular file.
        OSError: it is missing or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PpvitError(f"{path} is no regular file but a folder, device, pipe or socket; put a file in its place")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes.

    Raises:
        PpvitError: it is larger, or no regular file.
        OSError: it is missing or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise PpvitError(f"{path} is larger than the {limit:,} bytes that it may have; fetch or make it again")
        data = file.read(size + 1)  # read(limit + 1) would take that much memory for the smallest file
    if len(data) > size:
        raise PpvitError(f"{path} grew while it was read; run again once nothing writes it")
    return data


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file's bytes, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """MD5 of a regular file's bytes, in hex: the name that DVC has for them."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def sha256_of_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in it, sorted."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def read_json(path: Path, made_by: str, limit: int = JSON_BYTES) -> Any:
    """Read a JSON file strictly: no name twice in an object, no NaN or infinity, no number of hundreds of digits.

    Args:
        path: the file.
        made_by: the stage that writes it, named in the error.
        limit: bytes that it may have.

    Raises:
        PpvitError: the file is missing, too large, or is not JSON.
    """
    return _json(_text(path, made_by, limit), path, made_by)


def read_record(path: Path, kind: type[R], made_by: str, limit: int = JSON_BYTES) -> R:
    """Read a JSON file that holds a record, usually a :class:`Record`, and check it.

    Args:
        path: the file.
        kind: what it must hold.
        made_by: the stage that writes it, named in the error.
        limit: bytes that it may have.

    Raises:
        PpvitError: see :func:`read_json`; or a name is unknown or missing, or a value of the wrong type or size.
    """
    text = _text(path, made_by, limit)
    _json(text, path, made_by)  # pydantic alone would let the second of two equal names win
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise PpvitError(f"{path}: {first_reason(error)}; make it again: dvc repro --force {made_by}") from None


def first_reason(error: ValidationError) -> str:
    """What is wrong with the first bad value of a record: its name and the reason, never the value itself."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    if first["type"] == "extra_forbidden":
        return f"'{where}' does not belong there"
    if first["type"] == "missing":
        return f"'{where}' is missing"
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    reason = reason[:1].lower() + reason[1:]
    return f"'{where}': {reason}" if where else reason


def _text(path: Path, made_by: str, limit: int) -> str:
    try:
        return read_bounded(Path(path), limit).decode("utf-8")
    except FileNotFoundError:
        raise PpvitError(f"{path} is missing; run the stage that writes it: dvc repro {made_by}") from None
    except UnicodeDecodeError as error:
        raise PpvitError(f"{path} is not valid JSON ({error}); make it again: dvc repro --force {made_by}") from None


def _json(text: str, path: Path, made_by: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unrepeated, parse_constant=_not_finite, parse_int=_bounded_int)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise PpvitError(f"{path} is not valid JSON ({reason}); make it again: dvc repro --force {made_by}") from None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"'{twice[:100]}' stands twice")
    return values


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _bounded_int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)
