"""The list of what `download` found, for the owner: beside raw shards, the user's alone, sealed where they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from ppvit.core.errors import UsageError, printable
from ppvit.core.files import atomic_output
from ppvit.core.git import keep_out_of_git
from ppvit.core.private import keep_private
from ppvit.core.reading import read_bounded
from ppvit.data.sealed import Seal
from ppvit.datasets.findings import COLUMNS, Row

_PLAIN, _SEALED = "findings.csv", "findings.sealed"
_BYTES = 2**31 - 2**10  # that can be sealed at once: rows of 10 million images
_PLACE = "findings"  # what it is sealed for
_FORMULAE = ("=", "+", "-", "@")  # with which a spreadsheet takes a cell for something to compute


def write_list(folder: Path, rows: Iterable[Row], seal: Seal | None) -> Path | None:
    """Write the list into a folder.

    Returns:
        Its place; None where there is no row, and nothing is written.
    """
    remaining = iter(rows)
    if (first := next(remaining, None)) is None:
        return None
    lines = _lines(chain([COLUMNS, first], remaining))
    path = folder / (_PLAIN if seal is None else _SEALED)
    if seal is None:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
    else:
        path.write_bytes(seal.seal("".join(lines).encode(), _PLACE))
    keep_private([path])
    return path


def write_refused(raw: Path, rows: Iterable[Row], seal: Seal | None) -> Path:
    """Write the list of a data set that is refused, so that there is no folder ``raw``: into one beside it."""
    target = _refused(raw)
    with atomic_output(target, known_by="findings.*") as folder:
        keep_private([folder])
        keep_out_of_git(folder)
        path = write_list(folder, rows, seal)
    return target / (path.name if path else "")


def clear_refused(raw: Path) -> None:
    """Remove what :func:`write_refused` left, once the data set is taken."""
    for name in (_PLAIN, _SEALED, ".gitignore"):
        (_refused(raw) / name).unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or something of the user's in it
        _refused(raw).rmdir()


def read_list(raw: Path, seal: Seal | None) -> str:
    """The list of the last `download`, as CSV; empty where nothing was found.

    Raises:
        UsageError: it is sealed, and there is no key.
        PpvitError: it is sealed with another key, or was altered.
    """
    for folder in (_refused(raw), raw):
        if (folder / _PLAIN).exists():
            return read_bounded(folder / _PLAIN, _BYTES).decode("utf-8")
        if (folder / _SEALED).exists():
            if seal is None:
                raise UsageError(f"{folder / _SEALED} is sealed; set download.key_id to the key that `download` had")
            return seal.open(read_bounded(folder / _SEALED, _BYTES), str(folder / _SEALED), _PLACE).decode("utf-8")
    return ""


def _refused(raw: Path) -> Path:
    return raw.with_name(f"{raw.name}.refused")


def _lines(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([_cell(each) for each in row])
        yield line.getvalue()


def _cell(text: str) -> str:
    """Without control characters, and nothing that a spreadsheet would run: names are whoever's."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULAE) else text
