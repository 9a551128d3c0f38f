"""Names in a zip: in the encoding that it states, in UTF-8, or in the only other one that makes words of them.

A zip states that a name is UTF-8 by bit 11 of its flags (APPNOTE 6.3.10, appendix D) or by a field of Info-ZIP
(0x7075). Names without either are in code page 437 by the standard, and in practice in that of the Windows that wrote
them. A few short names do not tell which (the bytes of two Chinese characters are two Korean ones as well), so what has
several readings is refused.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache

from ppvit.core.errors import PpvitError
from ppvit.datasets.source import warn

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075
# code pages of Windows; of the Asian ones what their national standards have, since the extensions to them turn nearly
# any bytes into some character
_STANDARD, _WESTERN, _OTHERS = "cp437", ("cp850", "cp852"), ("cp866", "cp932", "gb2312", "big5", "euc_kr")
_ANSI = ("cp1251", "cp1252")  # which few programs wrote
_ASIAN = _OTHERS[1:]
_HALFWIDTH = range(0xFF61, 0xFFA0)
_LETTERS = re.compile(r"[^\W\d_]+")


def member_names(members: Sequence[zipfile.ZipInfo], where: str) -> list[str]:
    """The names of a zip's members, with forward slashes where some Windows tools write backslashes.

    Args:
        members: as ``zipfile`` lists them.
        where: the archive, named in messages.

    Raises:
        PpvitError: names of folders have several readings.
    """
    names = [_stated(member) for member in members]
    unstated = [name for name in names if isinstance(name, bytes)]
    codec = _codec(unstated, where) if unstated else "utf-8"
    return [_text(name, codec) for name in names]


def _stated(member: zipfile.ZipInfo) -> str | bytes:
    """A member's name, or its bytes where the zip does not state what they mean."""
    name = member.orig_filename.partition("\0")[0]
    if member.flag_bits & _UTF8_FLAG or name.isascii():
        return name
    raw, extra = name.encode("cp437"), member.extra  # the inverse of what zipfile did
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:5] == b"\1" + struct.pack("<I", zlib.crc32(raw)):
            return field[5:].decode("utf-8", "backslashreplace")
    return raw


def _text(name: str | bytes, codec: str | None) -> str:
    if isinstance(name, bytes):
        if codec is None:  # a backslash may be half a character
            return name.decode("ascii", "backslashreplace")
        name = name.decode(codec)
    return name.replace("\\", "/")


def _codec(names: list[bytes], where: str) -> str | None:
    """What names are in that do not say so; None where that cannot be told and only files have such names."""
    text = b"\n".join(names)
    readings = {
        codec: reading
        for codec in ("utf-8", _STANDARD, *_WESTERN, *_OTHERS, *_ANSI)
        if (reading := _reading(text, codec)) is not None
    }
    if "utf-8" in readings:  # other text is hardly ever valid UTF-8
        return "utf-8"
    if _STANDARD in readings and not readings.keys() & {*_OTHERS}:
        found = [_STANDARD]
    else:
        found = [codec for codec in readings if codec not in _ANSI] or list(readings)
    if len({readings[codec] for codec in found}) == 1:
        _tell(where, f"they were read as {found[0]}, such as {readings[found[0]].splitlines()[0]}")
        return found[0]
    if any(not name.rpartition(b"/")[0].isascii() for name in names):
        told = ", ".join(f"{readings[codec].splitlines()[0]} ({codec})" for codec in found)
        raise PpvitError(
            f"{where} does not say in which encoding its names are, and {_escaped(names[0])} can be read as "
            f"{told or 'none of the usual ones'}; unpack it with the right one (unzip -O, 7z -mcp) and set "
            "dataset.path to the folder"
        )
    _tell(where, f"of some files, such as {_escaped(names[0])}, the bytes are shown")
    return None


def _escaped(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")


def _reading(text: bytes, codec: str) -> str | None:
    """The text in an encoding, if it is made of words of one script each."""
    try:
        reading = text.decode(codec)
    except UnicodeDecodeError:
        return None
    if codec == "utf-8":
        return reading
    if any("\\" in name and "/" in name for name in reading.splitlines()):  # half a character of another encoding
        return None
    letters = {letter for letter in reading if not letter.isascii()}
    kinds = "LMNP" if codec in _ASIAN else "LM"
    if any(unicodedata.category(letter)[0] not in kinds or ord(letter) in _HALFWIDTH for letter in letters):
        return None
    words = [word for word in _LETTERS.findall(reading) if not word.isascii()]
    if codec in _ASIAN:
        return None if any(letter.isascii() for word in words for letter in word) else reading
    one_script = all(len({unicodedata.name(letter).split()[0] for letter in word}) == 1 for word in words)
    return reading if one_script else None


@cache  # an archive is read several times over
def _tell(where: str, what: str) -> None:
    warn(f"{where} does not say in which encoding its names are; {what}")
