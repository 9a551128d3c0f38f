"""A key file behind a passphrase: one line, scrypt (RFC 7914) and AES-256-GCM.

``ppvit-key-v1-scrypt:ln=17,r=8,p=1:<salt>:<nonce and box>``, both base64; log2 of scrypt's N is ln. The box is the
secret of 32 bytes and a tag of 16, with all that stands before it and the key's id as associated data, so that neither
the cost nor the id can be exchanged unnoticed.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.private import read_private

PREFIX = "ppvit-key-v1-scrypt:"
_LOG2_N = 17  # 128 MiB and about half a second for every guess
_MOST_LOG2_N = 20  # 1 GiB: what a file may ask for
_LINE = re.compile(rf"({PREFIX}ln=(\d\d),r=8,p=1:([A-Za-z0-9+/]{{22}}==):)([A-Za-z0-9+/]{{80}})")
_PASSPHRASE_BYTES = 4096  # of the file that holds one


def lock(secret: bytes, key_id: str, passphrase: str) -> str:
    """The line that holds a key's secret behind a passphrase."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    head = f"{PREFIX}ln={_LOG2_N},r=8,p=1:{base64.b64encode(salt).decode()}:"
    box = AESGCM(_derived(passphrase, salt, _LOG2_N)).encrypt(nonce, secret, (head + key_id).encode())
    return head + base64.b64encode(nonce + box).decode()


def unlock(line: str, key_id: str, where: Path | str) -> bytes:
    """The secret in a line that :func:`lock` made; the passphrase is asked for, see :func:`ask`.

    Raises:
        PpvitError: a damaged line, one that asks for more than 1 GiB, or the wrong passphrase.
        UsageError: there is nobody to ask.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    match = _LINE.fullmatch(line)
    if match is None or not 14 <= int(match[2]) <= _MOST_LOG2_N:
        raise PpvitError(f"{where} is damaged or truncated; restore it from your backup")
    box = base64.b64decode(match[4])
    derived = _derived(ask(key_id), base64.b64decode(match[3]), int(match[2]))
    try:
        return AESGCM(derived).decrypt(box[:12], box[12:], (match[1] + key_id).encode())
    except InvalidTag:
        raise PpvitError(
            f"{where} does not open: wrong passphrase, or the file was altered; try again, or restore it from your "
            "backup"
        ) from None


def _derived(passphrase: str, salt: bytes, log2_n: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    text = unicodedata.normalize("NFC", passphrase)  # another keyboard may spell the same letters otherwise
    try:
        return Scrypt(salt, length=32, n=2**log2_n, r=8, p=1).derive(text.encode())
    except MemoryError:
        needed = 2**log2_n // 1024
        raise PpvitError(f"a passphrase needs {needed} MiB of memory to be tried; free some and run again") from None


def ask(key_id: str, new: bool = False) -> str:
    """The passphrase of a key: from the file that ``$PPVIT_PASSPHRASE_FILE`` names, else typed at the terminal.

    Args:
        key_id: whose.
        new: it is being chosen: ask twice.

    Raises:
        PpvitError: the file is missing, or others may read it.
        UsageError: there is no terminal; or a new passphrase is empty or typed in two ways.
    """
    if name := os.environ.get("PPVIT_PASSPHRASE_FILE"):
        passphrase = _from_file(Path(name))
    else:
        passphrase = _typed(f"Passphrase of key {key_id}: ")
        if new and _typed("The same again: ") != passphrase:
            raise UsageError("the two passphrases differ; nothing was written, try again")
    if new and not passphrase:
        raise UsageError("an empty passphrase protects nothing; choose another, or leave out --passphrase")
    return passphrase


def _from_file(path: Path) -> str:
    try:
        return read_private(path, _PASSPHRASE_BYTES).decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise PpvitError(f"{path} cannot be read ({error.strerror}); PPVIT_PASSPHRASE_FILE names it") from None
    except UnicodeDecodeError:
        raise PpvitError(f"{path} is no text, so it holds no passphrase; PPVIT_PASSPHRASE_FILE names it") from None


def _typed(prompt: str) -> str:
    import getpass

    terminal = sys.stdin is not None and sys.stdin.isatty()
    with suppress(OSError):  # where input is not the terminal, the process may still have one
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        terminal = True
    if not terminal:  # getpass would show what is typed, or wait for a pipe
        raise UsageError(
            f"{prompt.partition(':')[0].lower()} is needed and there is no terminal to ask at; set "
            "PPVIT_PASSPHRASE_FILE to a file that holds it and only you can read"
        )
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise UsageError("no passphrase was typed; run again, or set PPVIT_PASSPHRASE_FILE") from None
