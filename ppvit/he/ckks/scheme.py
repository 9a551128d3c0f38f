"""CKKS parameter sets at 128 bits of security, and the library that they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppvit.core.errors import PpvitError, UsageError

# homomorphicencryption.org standard, 128-bit classical security, ternary secrets: all primes together, in bits
CAPS = {2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}


def sealapi() -> Any:
    """The binding of SEAL, imported when first needed: it is an extra.

    Raises:
        PpvitError: it is not installed.
    """
    try:
        import tenseal.sealapi
    except ImportError:
        raise PpvitError("homomorphic training needs TenSEAL; install it: pip install 'ppvit[he]'") from None
    return tenseal.sealapi


@dataclass(frozen=True)
class Parameters:
    """A CKKS parameter set at 128 bits of security.

    Attributes:
        ring: degree N of the polynomial ring.
        prime_bits: sizes of the primes in bits: the one that is left at the end, those that rescaling drops, last
            dropped first, and the special one of key switching.
        scale_bits: scale of fresh ciphertexts, as a power of two.

    Raises:
        UsageError: less than 128 bits of security, or a chain that SEAL cannot use.
    """

    ring: int
    prime_bits: tuple[int, ...]
    scale_bits: int

    def __post_init__(self) -> None:
        if self.ring not in CAPS:
            raise UsageError(f"a ring of degree {self.ring} is not supported; choose {', '.join(map(str, CAPS))}")
        total = sum(self.prime_bits)
        if total > CAPS[self.ring]:
            raise UsageError(
                f"a modulus of {total} bits in a ring of degree {self.ring} has less than 128 bits of security (at "
                f"most {CAPS[self.ring]} bits); use fewer iterations or a larger ring"
            )
        if len(self.prime_bits) < 2 or max(self.prime_bits) > 60 or self.prime_bits[-1] < max(self.prime_bits):
            raise UsageError(
                f"modulus chain {list(self.prime_bits)}: needs two primes or more, of 60 bits at most, the last one "
                "the largest"
            )

    @property
    def slots(self) -> int:
        """Numbers in a ciphertext."""
        return self.ring // 2

    @property
    def scale(self) -> float:
        """Scale of fresh ciphertexts."""
        return 2.0**self.scale_bits

    @property
    def top_level(self) -> int:
        """How often a fresh ciphertext can be rescaled."""
        return len(self.prime_bits) - 2

    def ciphertext_bytes(self, level: int | None = None) -> int:
        """Size of a ciphertext in memory, two polynomials; a fresh one under symmetric encryption travels as half."""
        return 2 * 8 * self.ring * ((self.top_level if level is None else level) + 1)

    def modulus_bytes(self) -> int:
        """Size of a fresh ciphertext as papers count it: two polynomials, a coefficient as many bits as its modulus."""
        return 2 * self.ring * sum(self.prime_bits[:-1]) // 8

    def table_bytes(self) -> int:
        """Size of SEAL's precomputed tables: of roots both ways, 32 bytes a coefficient.

        A set of l primes has l tables and, for base conversion, up to l + 2 more; there is one set for every level and
        one with the special prime.
        """
        return 32 * self.ring * sum(2 * primes + 2 for primes in range(1, len(self.prime_bits) + 1))

    def key_bytes(self, rotations: int) -> int:
        """Size in memory of the relinearisation key and the keys of that many rotations."""
        primes = len(self.prime_bits)
        return (rotations + 1) * (primes - 1) * 2 * 8 * self.ring * primes

    def file_bytes(self, kind: str, rotations: int = 0) -> int:
        """The most that a file of SEAL's may have: uncompressed, and a little for headers and what does not compress.

        Args:
            kind: Ciphertext, SecretKey, RelinKeys or GaloisKeys.
            rotations: number of keys in GaloisKeys.
        """
        bodies = {
            "Ciphertext": self.ciphertext_bytes(),
            "SecretKey": 8 * self.ring * len(self.prime_bits),
            "RelinKeys": self.key_bytes(0),
            "GaloisKeys": self.key_bytes(rotations - 1) + 8 * self.ring,  # and a number for every key that is not there
        }
        return bodies[kind] * 65 // 64 + 2**14
