"""Names of classes: refused where nothing can print them or two are the same, remarked on where they look mistaken."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from ppvit.core.errors import PpvitError

_LETTERS = 1000  # of a name
_SHOWN = 60  # of them, in a message
# control characters, halves of characters, and what breaks lines
_NO_NAME = ("Cc", "Cs", "Zl", "Zp")
_BYTES = re.compile(r"\\x[89a-f][0-9a-f]")  # as names are shown that are no UTF-8


def check_names(classes: Sequence[str], where: str) -> None:
    """Refuse names that cannot be printed in a line, or told apart.

    Raises:
        PpvitError: names the class.
    """
    labels: dict[str, int] = {}
    for label, name in enumerate(classes):
        if len(name) > _LETTERS or any(unicodedata.category(letter) in _NO_NAME for letter in name):
            raise PpvitError(
                f"{where}: the name of class {label} has control characters or is too long; rename it: "
                + ascii(name[:_SHOWN])
            )
        if not name.strip():
            raise PpvitError(f"{where}: class {label} has no name but spaces; rename it")
        other = labels.setdefault(unicodedata.normalize("NFC", name), label)
        if other != label:
            how = "" if classes[other] == name else ", spelled in two ways of Unicode"
            raise PpvitError(
                f"{where}: classes {other} and {label} have the same name, '{name}'{how}; rename one of them"
            )


def nearly(name: str, others: Iterable[str]) -> str:
    """A hint, for the end of a message, at the other name that a person may take for this one; empty without one."""
    meant = next((other for other in others if other != name and _alike(other) == _alike(name)), None)
    return "" if meant is None else f"; there is '{meant}', of which only case, width or spaces differ: rename one"


def _alike(name: str) -> str:
    """What names have in common that a person may take for one."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def remarks(classes: Sequence[str]) -> list[str]:
    """Questions about names that a person may take for one, and about names in no known encoding."""
    seen: dict[str, str] = {}
    told = []
    for name in classes:
        if (other := seen.setdefault(_alike(name), name)) != name:
            told.append(f"are '{other}' and '{name}' meant as two classes? Only case, width or spaces differ")
        if _BYTES.search(name):
            told.append(f"the name {name} is not in UTF-8; its bytes are shown")
    return told
