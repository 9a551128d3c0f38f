"""Slot by slot arithmetic that looks after levels and scales by itself, for algorithms that are written plainly.

Such an algorithm does not know the library: it runs on SEAL's ciphertexts (:class:`CiphertextArithmetic`), on those of
OpenFHE (`ppvit.he.ckks.openfhe`), and on arrays in a test.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppvit.he.ckks.session import Session

Vector = NDArray[np.float64]
Value = TypeVar("Value")


class Arithmetic(Protocol[Value]):
    """Slot by slot arithmetic on values of S slots; ciphertexts, or arrays in a test."""

    def add(self, a: Value, b: Value) -> Value: ...
    def multiply(self, a: Value, b: Value) -> Value: ...
    def add_plain(self, a: Value, vector: Vector) -> Value: ...
    def multiply_plain(self, a: Value, vector: Vector) -> Value: ...
    def rotate(self, a: Value, steps: int) -> Value:
        """Slot s takes what was in slot s + steps, around the end."""
        ...


class LazyArithmetic(Arithmetic[Value], Protocol[Value]):
    """`Arithmetic` that leaves it to the algorithm when a key switch is paid, on slots that may be complex numbers."""

    def product(self, a: Value, b: Value) -> Value:
        """A product that can be added to others, and used for nothing else before it is closed."""
        ...

    def close(self, products: Value) -> Value:
        """A sum of products made usable: one key switch and one level, however many they are."""
        ...

    def parts(self, a: Value) -> tuple[Value, Value]:
        """Twice the real and twice the imaginary part of every slot; one key switch."""
        ...

    def lowered(self, a: Value, to: Value) -> Value:
        """The same numbers at the level of another value, where work on them is cheaper."""
        ...


class CiphertextArithmetic:
    """`LazyArithmetic` on ciphertexts, all kept at the fresh scale.

    After every product the scale is taken for the fresh one, although the prime that rescaling divides by is not quite
    a power of two: a relative error of at most 3e-5 a product for primes of 40 bits, in exchange for sums that always
    fit. An operand with levels to spare is brought down to the other's.

    Args:
        session: with keys for all rotations; it counts the key switches.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        # masks return once a group of samples; encoding one takes as long as a key switch in a small ring
        self._encoded = lru_cache(maxsize=4)(self._encode)

    def add(self, a: Any, b: Any) -> Any:
        return self._session.add(*self._level(a, b))

    def multiply(self, a: Any, b: Any) -> Any:
        return self.close(self.product(a, b))

    def product(self, a: Any, b: Any) -> Any:
        return self._session.multiply(*self._level(a, b))

    def close(self, products: Any) -> Any:
        return self._rescale(self._session.relinearise(products))

    def parts(self, a: Any) -> tuple[Any, Any]:
        conjugate = self._session.conjugate(a)
        turned = self._session.multiply_plain(self._session.subtract(a, conjugate), -1j, scale=1.0)  # exact, no level
        return self._session.add(a, conjugate), turned

    def lowered(self, a: Any, to: Any) -> Any:
        return self._session.drop(a, self._session.level(to))

    def add_plain(self, a: Any, vector: Vector) -> Any:
        return self._session.add_plain(a, vector)

    def multiply_plain(self, a: Any, vector: Vector) -> Any:
        encoded = self._encoded(np.asarray(vector, np.float64).tobytes(), self._session.level(a))
        return self._rescale(self._session.multiply_encoded(a, encoded))

    def rotate(self, a: Any, steps: int) -> Any:
        return self._session.rotate(a, steps)

    def _level(self, a: Any, b: Any) -> tuple[Any, Any]:
        level = min(self._session.level(a), self._session.level(b))
        return self._session.drop(a, level), self._session.drop(b, level)

    def _rescale(self, product: Any) -> Any:
        result = self._session.rescale(product)
        result.scale = self._session.parameters.scale
        return result

    def _encode(self, vector: bytes, level: int) -> Any:
        return self._session.encode(np.frombuffer(vector), level)
