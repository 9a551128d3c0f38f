"""Arithmetic that only counts key switches, for plans: an algorithm runs on it before there are keys."""

from __future__ import annotations

from typing import Any


class KeySwitchCounter:
    """Takes the place of :class:`ppvit.he.ckks.arithmetic.Arithmetic` and of the lazy one; all values are 0.

    Attributes:
        key_switches: products, rotations and conjugations so far.
    """

    def __init__(self) -> None:
        self.key_switches = 0

    def multiply(self, a: int, b: int) -> int:
        self.key_switches += 1
        return 0

    rotate = multiply

    def close(self, products: int) -> int:
        self.key_switches += 1
        return 0

    def parts(self, a: int) -> tuple[int, int]:
        self.key_switches += 1
        return 0, 0

    def add(self, a: int, b: Any) -> int:
        return 0

    add_plain = multiply_plain = product = lowered = add
