"""Secret keys: making, keeping and naming them.

A key is 32 bytes from the operating system, kept in ``<keyring>/<key_id>.key`` or in the system's keychain, either with
or without a passphrase. Its id is a hash of it, so a key proves that it belongs to its id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppvit.ciphers import keychain, passphrase
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.git import keep_out_of_git
from ppvit.core.private import make_private, read_private, require_private_folder, write_private
from ppvit.core.workers import clustered

VERSION = "v1"
SECRET_BYTES = 32
_PREFIX = f"ppvit-key-{VERSION}:"
_FILE_BYTES = 1024  # more than any key file has
_ID = re.compile(r"pk-[0-9a-f]{16}")
_ID_DOMAIN = f"ppvit key id {VERSION}\0".encode()

_warned = False  # of the demo key, in this process

_CAME_BY_ID = "_came_by_id"  # of keys in a cluster's worker

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

    def __reduce__(self) -> tuple[Any, ...]:
        # to processes of this machine through a pipe; to a cluster, or back, never: tasks pass through other hands
        by_id = clustered() or _CAME_BY_ID in self.__dict__
        return (_from_own_ring, (self.id,)) if by_id else (Key, (self.secret,))


DEMO_KEY = Key(_DEMO_SECRET)


def _from_own_ring(key_id: str) -> Key:
    """A key where a cluster's worker opens a task that names it."""
    key = Key(_DEMO_SECRET if key_id == DEMO_KEY.id else load(key_id).secret)
    key.__dict__[_CAME_BY_ID] = True
    return key


def is_id(text: str) -> bool:
    """Whether a text has the form of a key id."""
    return _ID.fullmatch(text) is not None


def keyring() -> Path:
    """The folder of key files: ``$PPVIT_KEYRING``, else ``keys`` in the platform's user config folder."""
    if folder := os.environ.get("PPVIT_KEYRING"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_config_dir("ppvit")) / "keys"


def generate() -> Key:
    """A new key from the operating system's random source."""
    return Key(secrets.token_bytes(SECRET_BYTES))


def save(key: Key, folder: Path | None = None, label: str = "", locked_by: str | None = None) -> Path:
    """Write a key file with mode 0600; an existing file is never overwritten.

    Args:
        key: the key.
        folder: the keyring; by default :func:`keyring`.
        label: a note for people, written to ``<key_id>.label`` beside it.
        locked_by: a passphrase.

    Returns:
        The file.

    Raises:
        PpvitError: the keyring cannot be written, or others may use it.
    """
    folder = folder or keyring()
    path = folder / f"{key.id}.key"
    line = _line(key, locked_by)
    with _writable(path):
        if not path.exists():  # the id is a hash of the secret: an old file already holds this very key
            write_private(path, line + "\n")
        if label and not path.with_suffix(".label").exists():
            write_private(path.with_suffix(".label"), label + "\n")
    return path


def save_in_keychain(key: Key, folder: Path | None = None, label: str = "", locked_by: str | None = None) -> None:
    """Keep a key in the operating system's keychain; the keyring gets its label alone, which says that there is one.

    Args: see :func:`save`.

    Raises:
        UsageError: there is no keychain.
        PpvitError: it refuses; or see :func:`save`.
    """
    path = (folder or keyring()) / f"{key.id}.label"
    with _writable(path):
        keychain.store(key.id, _line(key, locked_by))
        if not path.exists():
            write_private(path, label + "\n")


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """The keyring in which ``path`` lies, made where it is missing."""
    try:
        make_private(path.parent)
        require_private_folder(path.parent)
        keep_out_of_git(path.parent)
        yield
    except OSError as error:
        raise PpvitError(
            f"{path} cannot be written ({error.strerror}); set PPVIT_KEYRING to a folder of yours"
        ) from None


def load(key_id: str, folder: Path | None = None) -> Key:
    """Find a key by its id, in the keyring or else in the keychain; the demo key needs neither, and warns on stderr.

    A passphrase is asked for once in a process.

    Raises:
        UsageError: no such key, or nobody to ask for its passphrase.
        PpvitError: others may use the file; it is damaged, or holds another key than its name says; wrong passphrase.
    """
    if key_id == DEMO_KEY.id:
        _warn_of_demo_key()
        return DEMO_KEY
    if not is_id(key_id):
        raise UsageError(f"'{key_id}' is no key id such as pk-0123456789abcdef, as `ppvit keygen` prints it")
    line, where = find(key_id, folder or keyring())
    if not line.startswith(passphrase.PREFIX):
        return _key(line, key_id, where)
    if line not in _unlocked:
        _unlocked[line] = Key(passphrase.unlock(line, key_id, where))
    return _unlocked[line]


def _warn_of_demo_key() -> None:
    """Once in a run: in a process, and of the processes that DVC starts, in that which encrypts."""
    global _warned
    stage = re.split("[:@]", os.environ.get("DVC_STAGE", ""))  # path of dvc.yaml, name, and item of a matrix
    if not _warned and (stage == [""] or "encrypt" in stage):
        _warned = True
        print(
            "warning: the public demo key encrypts these images, so anybody can decrypt them; make a key of your own "
            "with `ppvit keygen`",
            file=sys.stderr,
        )


def require_id(text: str) -> None:
    """Refuse what cannot be the id of a key.

    Raises:
        UsageError: says what one looks like.
    """
    if not re.fullmatch(r"pk-[0-9a-f]{16}", text):
        raise UsageError(f"'{text}' is no key id such as pk-0123456789abcdef; `ppvit keys` lists those that you have")


_unlocked: dict[str, Key] = {}  # by their lines: of this process only


def find(key_id: str, folder: Path) -> tuple[str, str]:
    """The line that holds a key, still locked where it has a passphrase, and where it is.

    Raises:
        UsageError: there is none.
        PpvitError: others may use the file or its folder, it cannot be read, or the keychain is locked.
    """
    path = folder / f"{key_id}.key"
    try:
        require_private_folder(folder)
        return read_private(path, _FILE_BYTES).decode("ascii").strip(), str(path)
    except FileNotFoundError:
        pass
    except UnicodeDecodeError:
        raise _damaged(path) from None
    except OSError as error:
        raise PpvitError(f"{path} cannot be read ({error.strerror}); restore it from your backup") from None
    if line := keychain.find(key_id):
        return line, f"{keychain.NAME}, entry {key_id}"
    raise UsageError(
        f"key {key_id} is not in the keyring {folder}; copy {path.name} there or point PPVIT_KEYRING to its folder; "
        "for images that no key has encrypted yet, `ppvit keygen` makes one"
    )


def _line(key: Key, locked_by: str | None) -> str:
    if locked_by is not None:
        return passphrase.lock(key.secret, key.id, locked_by)
    return _PREFIX + base64.b64encode(key.secret).decode()


def _key(line: str, key_id: str, where: str) -> Key:
    try:
        secret = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise _damaged(where) from None
    if not line.startswith(_PREFIX) or len(secret) != SECRET_BYTES:
        raise _damaged(where)
    key = Key(secret)
    if key.id != key_id:
        raise PpvitError(f"{where} does not hold the key that its name says; restore it from your backup")
    return key


def _damaged(where: Path | str) -> PpvitError:
    return PpvitError(f"{where} is damaged or truncated, so it holds no key; restore it from your backup")
