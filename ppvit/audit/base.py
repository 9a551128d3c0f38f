"""What an attack of the audit is, and the registry of attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ppvit.audit.view import Finding, View
from ppvit.core.registry import Registry

Find = Callable[[View], Iterator[Finding]]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        find: yields what the attacker finds: any number of findings, exactly one of them the ``headline``.
        column: its title in tables that compare ciphers.
        ciphertext_only: it needs nothing but ciphertext, and so threatens whoever merely stores or sends it.
        reads: parameters of the section ``audit`` that this attack reads and not every attack does.
        figure: what those tables show: the result ``<attack>_<figure>``.
        counts: what a variant that is a number counts, in words: "pair". Its headline repeats the largest number.
        variants: its other variants in words. The headline is one of them and repeated, unless they include "".
    """

    find: Find
    column: str
    ciphertext_only: bool = False
    reads: tuple[str, ...] = ()
    figure: str = "strength_percent"
    counts: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)


ATTACKS: Registry[Attack] = Registry("ppvit.audit.attacks", "audit.attacks")
"""All attacks by name. One more is a file in ``attacks/`` with a function under :func:`attack`."""


def attack(name: str, column: str, *, place: int = 100, **facts: Any) -> Callable[[Find], Find]:
    """Decorator: the function is the attack of this name.

    Args:
        place: orders listings, small ones first.
        column, facts: the attributes of :class:`Attack`.
    """

    def enter(find: Find) -> Find:
        ATTACKS.register(name, place=place)(Attack(find, column, **facts))
        return find

    return enter
