"""Outputs that are whole or absent: written to a temporary name beside their place, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, UsageError


@contextmanager
def atomic_output(target: Path, directory: bool = False) -> Iterator[Path]:
    """Yield a temporary path; on success it takes the place of ``target``, on any failure it is removed.

    Args:
        target: the file or folder to write; an old one is replaced only once the new one is complete.
        directory: the temporary path is made as an empty folder.

    Raises:
        PpvitError: the disk is full.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    _remove(temporary)  # what a killed run left behind
    if directory:
        temporary.mkdir()
    try:
        yield temporary
        if directory:
            _remove(target)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PpvitError(
                f"{target}: the disk is full; free some space and run again (nothing was written)"
            ) from error
        raise
    finally:
        _remove(temporary)


def require_apart(source: Path, out: Path) -> None:
    """Refuse an output that lies in what it is made from, or holds it, since an output replaces what is there.

    Raises:
        UsageError: names both.
    """
    inner, outer = out.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError(f"{source} overlaps with {out}, which is written and would replace it; choose another folder")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start work whose result would not fit on the disk.

    Args:
        folder: where the result goes; it need not exist yet.
        needed_bytes: an estimate of the result's size.

    Raises:
        PpvitError: fewer bytes are free.
    """
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise PpvitError(
            f"{folder}: about {needed_bytes / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free; "
            "free some space or lower dataset.train_fraction or dataset.image_size"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in it, sorted."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def write_json(path: Path, values: Any) -> None:
    """Write ``values`` as readable JSON, whole or not at all, same values same bytes."""
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file that an earlier stage wrote.

    Args:
        path: the file.
        made_by: the stage that writes it, named in the error.

    Raises:
        PpvitError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PpvitError(f"{path} is missing; run the stage that writes it: dvc repro {made_by}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PpvitError(f"{path} is not valid JSON ({error}); make it again: dvc repro --force {made_by}") from None
