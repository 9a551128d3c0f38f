"""What a check of ``ppvit doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: what was looked at.
        verdict: ``ok``; ``note``: a run goes on without it; ``problem``: some stage will fail.
        found: what there is.
        remedy: what to do; empty where nothing is to be done.
    """

    check: str
    verdict: Literal["ok", "note", "problem"]
    found: str
    remedy: str = ""
