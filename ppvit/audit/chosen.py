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


def parameters_read(settings: Audit) -> set[str]:
    """Names of the parameters of ``audit`` that its attacks read: no other changes a figure.

    Raises:
        UsageError: there is no such attack.
    """
    special = {name for attack in ATTACKS.values() for name in attack.reads}
    read = {name for attack in chosen_attacks(settings) for name in ATTACKS[attack].reads}
    return set(type(settings).model_fields) - (special - read)
