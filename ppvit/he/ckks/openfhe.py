"""The same slot arithmetic through OpenFHE, which can also bootstrap: give back the levels that a ciphertext has spent.

What runs on it is an algorithm that is written against :class:`ppvit.he.ckks.arithmetic.LazyArithmetic`, such as
`ppvit.he.diagonals.steps.train` with ``renew``. The parties' files are SEAL's and stay so.

OpenFHE looks after scales by itself (its FLEXIBLEAUTO); a sum of products is rescaled before the next product. Its
wheels are for Python 3.12 on Ubuntu 24.04, and 3.10: for Python 3.11 there was none in November 2026 (1.6.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppvit.core.errors import PpvitError
from ppvit.he.ckks.arithmetic import Vector
from ppvit.he.ckks.session import CONJUGATION

_LEVELS_OF_TRANSFORMS = [2, 2]  # of bootstrapping, from slots to coefficients and back: few, for small rings


def openfhe() -> Any:
    """The library, imported when first needed: it is an extra.

    Raises:
        PpvitError: it is not installed, or its wheel is not for this Python.
    """
    try:
        import openfhe
    except ImportError as error:
        raise PpvitError(
            f"OpenFHE cannot be loaded ({error}); its wheels are for Python 3.12 on Ubuntu 24.04: pip install "
            "'ppvit[openfhe]' there, or leave homomorphic training to TenSEAL"
        ) from None
    return openfhe


class OpenFheOwner:
    """The half with the secret key: makes keys, encrypts and decrypts.

    Args:
        depth: levels that an algorithm needs; on top of them come those that bootstrapping itself takes.
        ring: degree N; 0 has OpenFHE take the smallest of 128 bits of security.
        scale_bits: of fresh ciphertexts.
        bootstrapping: make what it needs.
        secure: refuse less than 128 bits; False is for tests alone, in rings that take no time.

    Attributes:
        context: OpenFHE's ``CryptoContext``, which also holds the evaluation keys.
        slots: of a ciphertext.
    """

    def __init__(
        self, depth: int, ring: int = 0, scale_bits: int = 50, bootstrapping: bool = False, secure: bool = True
    ) -> None:
        fhe = openfhe()
        settings = fhe.CCParamsCKKSRNS()
        settings.SetSecretKeyDist(fhe.UNIFORM_TERNARY)
        settings.SetSecurityLevel(fhe.HEStd_128_classic if secure else fhe.HEStd_NotSet)
        if ring:
            settings.SetRingDim(ring)
        settings.SetScalingModSize(scale_bits)
        settings.SetFirstModSize(min(60, scale_bits + 10))
        settings.SetScalingTechnique(fhe.FLEXIBLEAUTO)
        settings.SetCKKSDataType(fhe.COMPLEX)
        if bootstrapping:
            depth += fhe.CryptoContext.GetBootstrapDepth(_LEVELS_OF_TRANSFORMS, fhe.UNIFORM_TERNARY)
        settings.SetMultiplicativeDepth(depth)
        try:
            self.context = fhe.GenCryptoContext(settings)
        except RuntimeError as error:
            raise PpvitError(f"OpenFHE refuses the parameters: {' '.join(str(error).split())}") from None
        for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE, fhe.ADVANCEDSHE, fhe.FHE):
            self.context.Enable(feature)
        self.slots = self.context.GetRingDimension() // 2
        self._bootstrapping = bootstrapping
        self._keys = self.context.KeyGen()

    def arithmetic(self, rotations: Iterable[int]) -> OpenFheArithmetic:
        """Make evaluation keys, and the half that works without the secret one.

        Args:
            rotations: steps; :data:`ppvit.he.ckks.session.CONJUGATION` among them for imaginary parts.
        """
        secret, steps = self._keys.secretKey, set(rotations)
        self.context.EvalMultKeyGen(secret)
        self.context.EvalRotateKeyGen(secret, sorted(steps - {CONJUGATION}))
        conjugation = None
        if CONJUGATION in steps:
            conjugation = self.context.EvalAutomorphismKeyGen(secret, [4 * self.slots - 1])
        if self._bootstrapping:
            self.context.EvalBootstrapSetup(_LEVELS_OF_TRANSFORMS, [0, 0], self.slots)
            self.context.EvalBootstrapKeyGen(secret, self.slots)
        return OpenFheArithmetic(self.context, conjugation)

    def encrypt(self, values: NDArray[Any]) -> Any:
        """A fresh ciphertext of real or complex numbers, (S,)."""
        return self.context.Encrypt(self._keys.publicKey, self.context.MakeCKKSPackedPlaintext(values))

    def decrypt(self, ciphertext: Any) -> Vector:
        """The real parts of all slots: float64, (S,)."""
        plaintext = self.context.Decrypt(self._keys.secretKey, ciphertext)
        plaintext.SetLength(self.slots)
        return np.real(np.asarray(plaintext.GetCKKSPackedValue()))


class OpenFheArithmetic:
    """`LazyArithmetic` on OpenFHE's ciphertexts, and bootstrapping; from :meth:`OpenFheOwner.arithmetic`."""

    def __init__(self, context: Any, conjugation: Any) -> None:
        self._context, self._conjugation = context, conjugation
        self._slots = context.GetRingDimension() // 2

    def add(self, a: Any, b: Any) -> Any:
        return self._context.EvalAdd(a, b)

    def multiply(self, a: Any, b: Any) -> Any:
        return self._context.EvalMult(a, b)

    def add_plain(self, a: Any, vector: Vector) -> Any:
        return self._context.EvalAdd(a, self._context.MakeCKKSPackedPlaintext(np.asarray(vector)))

    def multiply_plain(self, a: Any, vector: Vector) -> Any:
        return self._context.EvalMult(a, self._context.MakeCKKSPackedPlaintext(np.asarray(vector)))

    def rotate(self, a: Any, steps: int) -> Any:
        return self._context.EvalRotate(a, steps)

    def product(self, a: Any, b: Any) -> Any:
        return self._context.EvalMultNoRelin(a, b)

    def close(self, products: Any) -> Any:
        return self._context.Relinearize(products)

    def parts(self, a: Any) -> tuple[Any, Any]:
        """As of `LazyArithmetic`; the product with -i takes a level, as OpenFHE encodes no number at the scale 1."""
        conjugate = self._context.EvalAutomorphism(a, 4 * self._slots - 1, self._conjugation)
        turn = self._context.MakeCKKSPackedPlaintext(np.full(self._slots, -1j))
        difference = self._context.EvalMult(self._context.EvalSub(a, conjugate), turn)
        return self._context.EvalAdd(a, conjugate), difference

    def lowered(self, a: Any, to: Any) -> Any:
        return a  # the library does it where it must

    def renew(self, values: list[Any]) -> list[Any]:
        """Bootstrap every ciphertext: the same numbers with levels to spend."""
        return [self._context.EvalBootstrap(each) for each in values]
