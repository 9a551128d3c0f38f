"""Image ciphers by name. To add one: a :class:`Cipher` in a file of its own, and its class in ``CIPHERS``."""

from __future__ import annotations

import difflib
from typing import Any

from ppvit.ciphers.base import AffineMap, Cipher
from ppvit.ciphers.etc import Etc, SubblockEtc
from ppvit.ciphers.learnable import Ele, Le
from ppvit.ciphers.neuracrypt import NeuraCrypt
from ppvit.ciphers.orthogonal import Orthogonal
from ppvit.ciphers.permutation import (
    Block,
    BlockNegativePositive,
    NegativePositive,
    PixelPosition,
    Plain,
    Scramble,
    Shuffle,
)
from ppvit.ciphers.pixel import Ffx, Pe
from ppvit.ciphers.restricted import Disposable, Restricted
from ppvit.errors import UsageError
from ppvit.keys import Key

__all__ = ["CIPHERS", "AffineMap", "Cipher", "cipher_class", "make_cipher"]

_ALL: tuple[type[Cipher], ...] = (Plain, Shuffle, Scramble, Block, NegativePositive, BlockNegativePositive)
_ALL += (PixelPosition, Etc, SubblockEtc, Orthogonal, Le, Ele, Pe, Ffx, Restricted, Disposable, NeuraCrypt)
CIPHERS: dict[str, type[Cipher]] = {cipher.name: cipher for cipher in _ALL}


def cipher_class(name: str) -> type[Cipher]:
    """Find a cipher by name.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if name not in CIPHERS:
        close = difflib.get_close_matches(name, CIPHERS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(CIPHERS)}"
        raise UsageError(f"unknown cipher.name '{name}'; {hint}")
    return CIPHERS[name]


def make_cipher(name: str, key: Key | None, image_size: int, block_size: int, **options: Any) -> Cipher:
    """A cipher with its key in place; arguments as of :class:`Cipher`."""
    return cipher_class(name)(key, image_size, block_size, **options)
