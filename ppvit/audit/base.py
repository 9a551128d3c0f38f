"""What an attack of the audit is, and the registry of attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ppvit.audit.view import Finding, View
from ppvit.core.registry import Registry

Find = Callable[[View], Iterator[Finding]]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        find: yields what the attacker finds, the headline among it.
        column: its title in tables that compare ciphers.
        ciphertext_only: it needs nothing but ciphertext, and so threatens whoever merely stores or sends it.
        reads: parameters of the section ``audit`` that this attack reads and not every attack does.
    """

    find: Find
    column: str
    ciphertext_only: bool = False
    reads: tuple[str, ...] = ()


ATTACKS: Registry[Attack] = Registry("ppvit.audit.attacks", "audit.attacks")
"""All attacks by name. One more is a file in ``attacks/`` with a function under :func:`attack`."""


def attack(
    name: str, column: str, *, ciphertext_only: bool = False, reads: tuple[str, ...] = (), place: int = 100
) -> Callable[[Find], Find]:
    """Decorator: the function is the attack of this name; other arguments as of :class:`Attack`.

    Args:
        place: orders listings, small ones first.
    """

    def enter(find: Find) -> Find:
        ATTACKS.register(name, place=place)(Attack(find, column, ciphertext_only, reads))
        return find

    return enter
