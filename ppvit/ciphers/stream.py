"""Uniform random numbers from a key: permutations, masks, choices, normal numbers.

Every keyed choice of a cipher comes from its own sub-key (HKDF-SHA256, RFC 5869) expanded by ChaCha20 (RFC 8439); a
change of this derivation is a change of ``VERSION``.
"""

from __future__ import annotations

import numpy as np

from ppvit.ciphers.keys import VERSION, Key


class KeyStream:
    """Uniform random numbers from a key, one independent stream for each purpose.

    Args:
        key: the secret key.
        purpose: what the numbers are for, e.g. ``("block", "pixels", 16, 224)``: cipher, step and geometry. Equal
            keys and purposes give equal numbers on every machine; different purposes give independent ones.
    """

    _CHUNK = 1 << 16

    def __init__(self, key: Key, purpose: tuple[str | int, ...]) -> None:
        # imported here because only whoever holds a key needs it
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = "/".join(["ppvit", VERSION, *map(str, purpose)]).encode()
        subkey = HKDF(SHA256(), length=32, salt=None, info=info).derive(key.secret)
        # a sub-key makes one stream only, so a fixed nonce repeats nothing
        self._cipher = Cipher(algorithms.ChaCha20(subkey, bytes(16)), mode=None).encryptor()
        self._words = np.empty(0, np.uint32)
        self._next = 0

    def uint32(self, count: int) -> np.ndarray:
        """The next ``count`` words of the stream, uint32, little endian."""
        while len(self._words) - self._next < count:
            fresh = np.frombuffer(self._cipher.update(bytes(max(self._CHUNK, 4 * count))), "<u4")
            self._words = np.concatenate([self._words[self._next :], fresh])
            self._next = 0
        self._next += count
        return self._words[self._next - count : self._next]

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound), by rejection, so that no value is more likely than another."""
        limit = 2**32 - 2**32 % bound
        while True:
            word = int(self.uint32(1)[0])
            if word < limit:
                return word % bound

    def permutation(self, size: int) -> np.ndarray:
        """A uniform permutation of 0 .. size - 1 by Fisher-Yates, intp, (size,)."""
        values = list(range(size))
        for last in range(size - 1, 0, -1):
            other = self.below(last + 1)
            values[last], values[other] = values[other], values[last]
        return np.array(values, np.intp)

    def choices(self, bound: int, count: int) -> np.ndarray:
        """``count`` independent uniform integers in [0, bound), by rejection: intp, (count,)."""
        limit = 2**32 - 2**32 % bound
        found = np.empty(0, np.intp)
        while len(found) < count:
            words = self.uint32(count - len(found)).astype(np.uint64)
            found = np.concatenate([found, (words[words < limit] % bound).astype(np.intp)])
        return found

    def normal(self, count: int) -> np.ndarray:
        """``count`` independent standard normal numbers by Box and Muller's transform: float64, (count,)."""
        half = (count + 1) // 2
        words = self.uint32(2 * half).reshape(2, half)
        radius = np.sqrt(-2 * np.log((words[0] + 0.5) / 2**32))  # + 0.5: never the logarithm of zero
        angle = 2 * np.pi * (words[1] / 2**32)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def half_mask(self, size: int) -> np.ndarray:
        """A uniform choice of half (rounded down) of ``size`` positions, bool, (size,)."""
        mask = np.zeros(size, bool)
        mask[self.permutation(size)[: size // 2]] = True
        return mask
