"""Trying all keys: arithmetic only. How many bits of key does the derivation really use?

A key is 256 bits, from which everything is derived; a cipher that can do fewer different things than that uses fewer.
Nothing is tried here, since either number is beyond trying or the cipher falls faster in other ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log2

from ppvit.audit.base import attack
from ppvit.audit.view import Finding, View
from ppvit.ciphers.keys import SECRET_BYTES

KEYS_PER_SECOND = 1e9  # a large GPU, generously
FEASIBLE_BITS = 64  # years for one such machine, days for a thousand


@attack("brute_force", "key bits", figure="key_bits", place=10)
def find(view: View) -> Iterator[Finding]:
    """Count the bits of key that trying all keys would have to guess; nothing is tried."""
    space_bits = view.space.example.key_space_bits
    used = min(space_bits, 8.0 * SECRET_BYTES) if view.space.keyed else 0.0
    seconds = 2.0 ** (used - 1) / KEYS_PER_SECOND
    feasible = used < FEASIBLE_BITS
    says = (
        f"The key is one of 2^{used:.0f}"
        + (f" (the cipher could tell 2^{space_bits:.0f} apart, a key has 256 bits)" if space_bits > used else "")
        + f"; at a billion a second, half of them take {_time(seconds)}."
    )
    says = (
        f"Broken by patience: {says[0].lower()}{says[1:]}" if feasible else f"Out of reach: {says[0].lower()}{says[1:]}"
    )
    scores = {"key_bits": round(used, 1), "key_space_bits": round(space_bits, 1)}
    strength = 0.0 if not feasible else 1.0 if seconds < 86400 else 0.4
    yield Finding("ciphertexts and patience", view.pictures, headline=True, scores=scores, says=says, strength=strength)


def _time(seconds: float) -> str:
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            count = seconds / length
            return f"{count:.0f} {unit}" if count < 1e6 else f"10^{log2(count) / log2(10):.0f} {unit}"
    return f"{seconds:.0f} seconds"
