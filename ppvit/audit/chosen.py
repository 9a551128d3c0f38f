"""Which attacks a run makes."""

from __future__ import annotations

from ppvit.audit.base import ATTACKS
from ppvit.config import Audit


def chosen_attacks(settings: Audit) -> list[str]:
    """The names in ``audit.attacks``, ``all`` spelled out, each once.

    Raises:
        UsageError: there is no such attack.
    """
    for name in settings.attacks:
        if name != "all":
            ATTACKS[name]  # refuses a name that there is not
    return list(ATTACKS) if "all" in settings.attacks else list(dict.fromkeys(settings.attacks))
