"""Keys in the operating system's keychain, through the package ``keyring``: macOS, Windows, Secret Service, KWallet."""

from __future__ import annotations

import sys
from types import ModuleType

from ppvit.core.errors import PpvitError, UsageError

NAME = "the keychain of this system"
_SERVICE = "ppvit"


def store(key_id: str, line: str) -> None:
    """Keep the line of a key file under the key's id.

    Raises:
        UsageError: the package is not installed, or there is no keychain here that keeps secrets.
        PpvitError: the keychain is locked or refuses.
    """
    keyring = _package()
    if keyring is None:
        raise UsageError("--keychain needs the package keyring; pip install 'ppvit[keychain]', or leave it out")
    backend = keyring.get_keyring()
    if backend.priority < 1:  # by keyring's rule not to be used unasked: none at all, or a file in plain text
        raise UsageError(f"there is no keychain here ({backend.name} is none); leave out --keychain")
    try:
        keyring.set_password(_SERVICE, key_id, line)
        kept = keyring.get_password(_SERVICE, key_id) == line
    except keyring.errors.KeyringError as error:
        raise PpvitError(f"{_refuses(error)}; unlock it and run again, or leave out --keychain") from None
    if not kept:
        raise PpvitError(f"{backend.name} does not give back what it was to keep; leave out --keychain")


def find(key_id: str) -> str | None:
    """The line that :func:`store` kept; None where there is none, or neither package nor keychain.

    Raises:
        PpvitError: the keychain is locked.
    """
    keyring = _package()
    if keyring is None:
        return None
    try:
        line: str | None = keyring.get_password(_SERVICE, key_id)
    except keyring.errors.NoKeyringError:
        return None
    except keyring.errors.KeyringError as error:
        raise PpvitError(
            f"{_refuses(error)}, so key {key_id} was not looked up there; unlock it and run again"
        ) from None
    return line


def _refuses(error: Exception) -> str:
    return f"{NAME} refuses ({' '.join(str(error).split()) or type(error).__name__})"


def _package() -> ModuleType | None:
    if sys.platform != "darwin":  # keyring loads all its backends; this part of one would look for libraries with gcc
        sys.modules.setdefault("keyring.backends.macOS.api", None)  # type: ignore[arg-type]  # it is done without
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    return keyring
