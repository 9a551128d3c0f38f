"""Small MATLAB files, in which some data sets keep their labels."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from ppvit.core.errors import PpvitError, brief

_HEADER_BYTES = 128
_COMPRESSED = 15  # type of an element, in a MAT-file of level 5
_UNPACKED_BYTES = 2**27


def variables(data: bytes, where: str, *names: str) -> list[Any]:
    """Variables of a MAT-file of level 5, as scipy simplifies them: arrays, strings, and structures as dictionaries.

    Args:
        data: the file.
        where: it, named in errors.
        names: of the variables.

    Raises:
        PpvitError: the file is damaged, of another kind, unpacks to more than 128 MiB, or lacks a variable.
    """
    from scipy.io import loadmat  # slow to load

    try:
        _require_bounded(data)
        found = loadmat(io.BytesIO(data), variable_names=names, simplify_cells=True)
    except (PpvitError, MemoryError):
        raise
    except Exception as error:  # scipy raises many kinds over damaged headers
        raise PpvitError(f"{where} is damaged or no MAT-file of level 5 ({brief(error)}); copy it again") from None
    if missing := [name for name in names if name not in found]:
        raise PpvitError(f"{where} has no variable '{missing[0]}'; is it the official file?")
    return [found[name] for name in names]


def _require_bounded(data: bytes) -> None:
    """Refuse what scipy would unpack to all memory, by unpacking it in pieces first."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEADER_BYTES])
    if order is None:
        raise ValueError("its header is another")
    start, left = _HEADER_BYTES, _UNPACKED_BYTES
    while start + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, start)
        start += 8
        if start + size > len(data):
            raise ValueError("it ends early")
        if kind == _COMPRESSED:
            unpacker, piece = zlib.decompressobj(), data[start : start + size]
            while piece and not unpacker.eof:
                left -= len(unpacker.decompress(piece, 2**20))
                piece = unpacker.unconsumed_tail
                if left < 0:
                    raise ValueError(f"it unpacks to more than {_UNPACKED_BYTES:,} bytes")
        start += size
