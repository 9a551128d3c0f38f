"""Ends of module names, by which ``finetune.target_modules`` names layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ppvit.core.nearest import closest


def ends_in(name: str, ending: str) -> bool:
    """Whether a module's name is an ending, or ends in one behind a dot."""
    return name == ending or name.endswith(f".{ending}")


def last_parts(names: Iterable[str]) -> list[str]:
    """What module names have behind the last number, for errors: each once, in the order of the alphabet."""
    return sorted({re.sub(r"^(.*?\d+\.)+(?=\D)", "", name) for name in names})


def those_there(ending: str, names: Iterable[str]) -> str:
    """The end of an error about an ending of none of these names: those that there are, and the nearest."""
    parts = last_parts(names)
    return f"; there are {', '.join(parts)}{closest(ending, parts)}"
