"""Secret keys: making, keeping, naming them, and deriving permutations and masks from them.

A key is 32 bytes from the operating system, kept in ``<keyring>/<key_id>.key``. Its id is a hash of it, so a key file
proves that it belongs to its id. Every keyed choice of a cipher comes from its own sub-key (HKDF-SHA256, RFC 5869)
expanded by ChaCha20 (RFC 8439); a change of this derivation is a change of ``VERSION``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppvit.core.errors import PpvitError, UsageError

VERSION = "v1"
SECRET_BYTES = 32
_PREFIX = f"ppvit-key-{VERSION}:"
_ID_DOMAIN = f"ppvit key id {VERSION}\0".encode()

# public by design: a fresh clone must run before its user has made a key
_DEMO_SECRET = hashlib.sha256(b"ppvit demo key: public, protects nothing").digest()


@dataclass(frozen=True)
class Key:
    """A secret key. Neither ``repr`` nor any message shows the secret."""

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise PpvitError(
                f"a key has {SECRET_BYTES} bytes, this one has {len(self.secret)}; make one with `ppvit keygen`"
            )

    @property
    def id(self) -> str:
        """``pk-`` and the first 16 hex digits of SHA-256 over a fixed domain string and the secret."""
        return "pk-" + hashlib.sha256(_ID_DOMAIN + self.secret).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Key({self.id})"


DEMO_KEY = Key(_DEMO_SECRET)


def keyring() -> Path:
    """The folder of key files: ``$PPVIT_KEYRING``, else ``keys`` in the platform's user config folder."""
    if folder := os.environ.get("PPVIT_KEYRING"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_config_dir("ppvit")) / "keys"


def generate() -> Key:
    """A new key from the operating system's random source."""
    return Key(secrets.token_bytes(SECRET_BYTES))


def save(key: Key, folder: Path | None = None, label: str = "") -> Path:
    """Write a key file with mode 0600; an existing file is never overwritten.

    Args:
        key: the key.
        folder: the keyring; by default :func:`keyring`.
        label: a note for people, written to ``<key_id>.label`` beside it.

    Returns:
        The file.

    Raises:
        PpvitError: the keyring cannot be written.
    """
    folder = folder or keyring()
    path = folder / f"{key.id}.key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path  # the id is a hash of the secret: the file already holds this very key
    except OSError as error:
        raise PpvitError(
            f"{path} cannot be written ({error.strerror}); set PPVIT_KEYRING to a folder of yours"
        ) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(_PREFIX + base64.b64encode(key.secret).decode() + "\n")
    if label:
        path.with_suffix(".label").write_text(label + "\n", encoding="utf-8")
    return path


def load(key_id: str, folder: Path | None = None) -> Key:
    """Find a key by its id; the demo key needs no file and warns on stderr.

    Raises:
        UsageError: no such key in the keyring.
        PpvitError: the file is damaged, or holds another key than its name says.
    """
    if key_id == DEMO_KEY.id:
        print(
            "warning: the public demo key encrypts these images, so anybody can decrypt them; make a key of your own "
            "with `ppvit keygen`",
            file=sys.stderr,
        )
        return DEMO_KEY
    path = (folder or keyring()) / f"{key_id}.key"
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise UsageError(
            f"key {key_id} is not in the keyring {path.parent}; copy {path.name} there, point PPVIT_KEYRING to its "
            "folder, or make a key with `ppvit keygen` and set cipher.key_id"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PpvitError(f"{path} cannot be read ({error}); restore it from your backup") from None
    try:
        key = Key(base64.b64decode(text.removeprefix(_PREFIX), validate=True))
    except binascii.Error:
        raise PpvitError(f"{path} is not a key file; restore it from your backup") from None
    if not text.startswith(_PREFIX) or key.id != key_id:
        raise PpvitError(f"{path} does not hold the key that its name says; restore it from your backup")
    return key


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
