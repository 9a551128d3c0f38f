"""The name that somebody meant who wrote another one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_ALIKE = 0.5  # share of letters in common from which on a name is offered
_LISTED = 100  # names that an error lists; of more, none


def nearest(word: str, names: Iterable[str], count: int = 1) -> list[str]:
    """The names most like a word, at most ``count``: those that it begins first, then by letters in common."""
    valid, lower = list(names), word.casefold()
    begun = [name for name in valid if lower and name.casefold().startswith(lower)]
    folded = {name.casefold(): name for name in reversed(valid)}
    alike = difflib.get_close_matches(lower[:200], folded, n=count, cutoff=_ALIKE)
    return list(dict.fromkeys([*begun[:count], *(folded[name] for name in alike)]))[:count]


def closest(word: str, names: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest one; empty where none is near."""
    close = nearest(word, names)
    return f"; did you mean '{close[0]}'?" if close else ""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The same, with all of a few names where none is near; empty where there are many."""
    valid = list(names)
    return closest(word, valid) or (f"; there are {', '.join(valid)}" if 0 < len(valid) <= _LISTED else "")
