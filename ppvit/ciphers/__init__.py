"""Image ciphers by name. One more is a file here with a :class:`Cipher` under ``@CIPHERS.register()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppvit.ciphers.base import CIPHERS, AffineMap, Cipher
from ppvit.ciphers.keys import Key

if TYPE_CHECKING:  # a cipher needs no params.yaml
    from ppvit.config import Cipher as Settings

__all__ = ["CIPHERS", "AffineMap", "Cipher", "make_cipher", "parameters_read"]


def make_cipher(name: str, key: Key | None, image_size: int, block_size: int, **options: Any) -> Cipher:
    """A cipher with its key in place; for arguments see :class:`Cipher`.

    Raises:
        UsageError: an unknown name, an option that the cipher does not have, or a geometry that does not fit.
    """
    return CIPHERS[name](key, image_size, block_size, **options)


def parameters_read(settings: Settings) -> set[str]:
    """Names of the parameters of ``cipher`` that the chosen one reads: no other changes a ciphertext.

    Raises:
        UsageError: there is no such cipher.
    """
    kind = CIPHERS[settings.name]
    return {"name", "block_size", *kind.options} | ({"key_id"} if kind.keyed else set())
