"""Image ciphers by name. One more is a file here with a :class:`Cipher` under ``@CIPHERS.register()``."""

from __future__ import annotations

from typing import Any

from ppvit.ciphers.base import CIPHERS, AffineMap, Cipher
from ppvit.ciphers.keys import Key

__all__ = ["CIPHERS", "AffineMap", "Cipher", "make_cipher"]


def make_cipher(name: str, key: Key | None, image_size: int, block_size: int, **options: Any) -> Cipher:
    """A cipher with its key in place; for arguments see :class:`Cipher`.

    Raises:
        UsageError: an unknown name, an option that the cipher does not have, or a geometry that does not fit.
    """
    return CIPHERS[name](key, image_size, block_size, **options)
