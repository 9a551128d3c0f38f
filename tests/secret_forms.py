"""The forms in which a secret could have been written down somewhere, to search for."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np

from ppvit.ciphers.stream import KeyStream


def forms_of_bytes(secret: bytes) -> set[bytes]:
    """Raw, hexadecimal, base64 of both alphabets at all three alignments, Python's repr, and lists of numbers."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode(), repr(secret)[2:-1].encode()}
    for skipped in range(3):  # characters that do not depend on what stands before or behind
        whole = secret[skipped : len(secret) - (len(secret) - skipped) % 3]
        found |= {base64.b64encode(whole), base64.urlsafe_b64encode(whole)}
    return found | _lists(list(secret))


def forms_of_order(values: np.ndarray) -> set[bytes]:
    """An order or mask of 16 numbers or more: of any integer type, and as a list."""
    kinds = [np.int64, np.int32, np.int16] + ([np.uint8] if values.max() < 256 else [])
    whole = values.astype(np.int64)
    return {whole.astype(kind).tobytes() for kind in kinds} | _lists(whole.tolist())


def _lists(values: list[int]) -> set[bytes]:
    texts = [str(number) for number in values]
    return {separator.join(texts).encode() for separator in (", ", ",", " ", "\n")} | {str(np.array(values)).encode()}


def derived(make, monkeypatch) -> Iterator[bytes]:
    """Sub-keys and orders that something takes from a key, in all forms.

    Args:
        make: does it.
        monkeypatch: of pytest.
    """
    from cryptography.hazmat.primitives.kdf import hkdf

    subkeys, orders = [], []
    real, permutation = hkdf.HKDF, KeyStream.permutation

    class Watched:
        def __init__(self, *arguments, **named):
            self._real = real(*arguments, **named)

        def derive(self, material):
            subkeys.append(self._real.derive(material))
            return subkeys[-1]

    def watched(stream, size):
        orders.append(permutation(stream, size))
        return orders[-1]

    with monkeypatch.context() as patched:
        patched.setattr(hkdf, "HKDF", Watched)
        patched.setattr(KeyStream, "permutation", watched)
        make()
    assert subkeys
    assert any(len(order) >= 16 for order in orders)
    for subkey in subkeys:
        yield from forms_of_bytes(subkey)
    for order in orders:
        if len(order) >= 16:  # a few numbers stand in any file
            yield from forms_of_order(order)
