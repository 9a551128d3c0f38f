"""Files and folders that are the user's alone, which others may neither read nor write: keys, plain images."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path

from ppvit.core.errors import PpvitError
from ppvit.core.reading import open_regular

_MODES = os.name == "posix"  # elsewhere a mode says nothing of who may read
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_private(path: Path, limit: int) -> bytes:
    """The first ``limit`` bytes of a file that only its owner, who is the user, may read or write; links are followed.

    Raises:
        PpvitError: it is no regular file, belongs to another user, or others may use it, as `ssh` refuses its keys.
        OSError: it is missing or cannot be read.
    """
    with open_regular(path) as file:
        _require_private(os.fstat(file.fileno()), path, "600")
        return file.read(limit)


def require_private_folder(folder: Path) -> None:
    """Refuse a folder that others may list or change; one that does not exist is nobody's.

    Raises:
        PpvitError: names the remedy.
    """
    if folder.is_dir():
        _require_private(os.stat(folder), folder, "700")


def _require_private(status: os.stat_result, path: Path, mode: str) -> None:
    if not _MODES:
        return
    if status.st_uid != os.geteuid() != 0:  # root, and whoever seems to be root in a container, may use anybody's
        raise PpvitError(f"{path} belongs to another user, who may know what is in it; use a copy of your own")
    if status.st_mode & _OTHERS:
        close = shlex.join(["chmod", mode, str(path)])
        raise PpvitError(f"{path} can be used by others (mode {stat.S_IMODE(status.st_mode):04o}); {close}")


def write_private(path: Path, text: str) -> None:
    """Write a new file with mode 0600.

    Raises:
        FileExistsError: there is one; it stays as it is.
        OSError: it cannot be written; nothing is left there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def make_private(folder: Path) -> None:
    """Make a folder that only the user can enter; one that exists keeps its mode, which may be meant.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def keep_private(paths: Iterable[Path]) -> None:
    """Take files and folders from all but the user: mode 0600, 0700.

    Raises:
        OSError: one of them is not the user's.
    """
    for path in paths:
        path.chmod(0o700 if path.is_dir() else 0o600)
