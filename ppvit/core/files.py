"""Outputs that are whole or absent: written to a temporary name beside their place, then exchanged by renaming."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.locks import hidden, sole_writer
from ppvit.core.shortages import shortage
from ppvit.core.stopping import undisturbed

_DEVICES = Path("/dev")  # as /dev/stdout, which leads to whatever standard output is
_RENAME_EXCHANGE = 2  # of renameat2(2)
_AT_FDCWD = -100


@contextmanager
def atomic_output(target: Path, known_by: str = "", holding: str = "") -> Iterator[Path]:
    """Yield a temporary path; on success it takes the place of ``target``, on any failure it is removed.

    The temporary name is of this call alone, one process at a time writes an output (see
    :func:`ppvit.core.locks.sole_writer`), and what killed ones left beside it is removed first. An old output is
    exchanged with the new one in one step, so that a kill at any moment leaves one of the two, whole. A link is
    replaced, never written through: DVC's lead into its cache.

    Args:
        target: the file or folder to write; an old one is replaced only once the new one is complete.
        known_by: the output is a folder, and this is a glob pattern of a file in it by which it is known to be ours.
        holding: a text in that file, where others have files of that name too.

    Raises:
        UsageError: what is there would be lost: a folder with something in it that is not known to be ours; a file in
            place of a folder, or the reverse; a device, pipe or socket.
        PpvitError: the machine has run out of something (see :mod:`ppvit.core.shortages`), or the folder that
            ``target`` is in cannot be written.
    """
    target = Path(os.path.abspath(target))
    _require_ours(target, known_by, holding)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with sole_writer(target) as alone:
            if alone:
                _clear(target)
            temporary = hidden(target, f"{secrets.token_hex(_RANDOM_BYTES)}{_UNFINISHED}")
            process = os.getpid()
            try:
                if known_by:
                    temporary.mkdir()
                yield temporary
                _put_in_place(temporary, target)
            finally:
                if os.getpid() == process:  # not a copy of it
                    with undisturbed():
                        _remove(temporary)
    except Exception as error:
        if (told := _told(error, target)) is None:
            raise
        raise PpvitError(f"{target}: {told} (it was not written)") from error


_RANDOM_BYTES = 4  # in a temporary name
_UNFINISHED = ".partial"
_OLD = ".old.partial"  # what is in the way while two names are exchanged in two steps


def _told(error: Exception, target: Path) -> str | None:
    """What kept an output from being written, for one line; None where that was something else, or has been told."""
    if isinstance(error, PpvitError) or any(part.endswith(_UNFINISHED) for part in target.parts):
        return None  # the second: whoever writes the folder that this one is in will tell the name that it gets
    if reason := shortage(error):
        return reason
    if not isinstance(error, OSError) or not str(error.filename).startswith(str(hidden(target, ""))):
        return None
    if error.errno in (errno.EBUSY, errno.EXDEV):
        return "another disk is mounted in its place; mount it at the folder above, or name a folder on that disk"
    return f"{error.strerror}; see to it that {target.parent} can be written"


def _clear(target: Path) -> None:
    """Remove what killed processes left beside an output; but an old output that was in the way comes back."""
    ours = _escaped(hidden(target, "").name) + "[0-9a-f]" * 2 * _RANDOM_BYTES  # and not those of `<name>.json`
    for old in target.parent.glob(ours + _OLD):
        if not os.path.lexists(target):
            os.replace(old, target)
    for ending in (_OLD, _UNFINISHED):
        for left in target.parent.glob(ours + ending):
            _remove(left)


def _put_in_place(temporary: Path, target: Path) -> None:
    if not temporary.is_dir() or not os.path.lexists(target):
        os.replace(temporary, target)
    else:
        _exchange(temporary, target)  # the old one is then under the temporary name, and removed as such


def _exchange(first: Path, second: Path) -> None:
    """Exchange two names in one step; where the system cannot, in some, between which :func:`_clear` can go back."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = (os.fsencode(first), os.fsencode(second))
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # what those say that cannot
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(first))
    aside = first.with_name(first.name.replace(_UNFINISHED, _OLD))
    with undisturbed():
        os.replace(second, aside)
        os.replace(first, second)
        os.replace(aside, first)


def _require_ours(target: Path, known_by: str, holding: str) -> None:
    if target.parent == _DEVICES or (target.exists() and not (target.is_file() or target.is_dir())):
        raise UsageError(f"{target} is a device, pipe or socket, which an output would replace; name a file")
    if known_by and target.is_file():
        raise UsageError(f"{target} is a file, where a folder is to be written; name another place")
    if not target.is_dir():
        return
    if not known_by:
        raise UsageError(f"{target} is a folder, where a file is to be written; name another place")
    ours = any(path.is_file() and holding.encode() in path.read_bytes() for path in target.glob(known_by))
    if not ours and any(target.iterdir()):
        raise UsageError(
            f"{target} is not empty, and has no {known_by}, by which ppvit would know that it has written it; name "
            "another folder or remove it"
        )


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def require_apart(source: Path, out: Path, remedy: str = "choose another folder") -> None:
    """Refuse an output that lies in what it is made from, or holds it, since an output replaces what is there.

    Raises:
        UsageError: names both.
    """
    inner, outer = out.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError(f"{source} overlaps with {out}, which is written and would replace it; {remedy}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):  # what is in a read-only folder, as of an old output, could not be removed
            os.chmod(folder, 0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start work whose result would not fit on the disk.

    Args:
        folder: where the result goes; it need not exist yet.
        needed_bytes: an estimate of the result's size.

    Raises:
        PpvitError: fewer bytes are free.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise PpvitError(
            f"{folder}: about {needed_bytes / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free; "
            "free some space or lower dataset.train_fraction or dataset.image_size"
        )


def announce_size(what: str, folder: Path, needed_bytes: int) -> None:
    """Say what is about to be written, how large it is and what is free; then as :func:`require_free_space`."""
    size, free = f"{needed_bytes / 2**20:,.1f} MiB", f"{free_bytes(folder) / 2**20:,.0f} MiB are free"
    print(f"{what} take about {size} in {folder}, where {free}")
    require_free_space(folder, needed_bytes)


def as_json(values: Any) -> str:
    """``values`` as readable JSON, same values same text."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, values: Any) -> None:
    """Write ``values`` as :func:`as_json`, whole or not at all."""
    with atomic_output(path) as temporary:
        temporary.write_text(as_json(values), encoding="utf-8")
