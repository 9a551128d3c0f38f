"""CKKS (Cheon, Kim, Kim, Song, ASIACRYPT 2017) through the binding of Microsoft SEAL in TenSEAL, with exact scales.

Numbers live in N/2 slots of a ciphertext, times a scale. A product multiplies the scales; :meth:`Session.rescale`
divides by the last prime of the modulus chain and drops it. Primes are near, never equal to, powers of two, so scales
are tracked exactly and the few that must agree are made to.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import open_regular
from ppvit.core.temporary import memory_file
from ppvit.he.ckks.scheme import Parameters, sealapi
from ppvit.he.ckks.trial import require_readable

Numbers = Sequence[float] | np.ndarray | float | complex

CONJUGATION = 0  # in place of the steps of a rotation, of which 0 needs no key
_SAME_SCALE = 1e-9  # relative; far below the noise


class Session:
    """Arithmetic on ciphertexts under one parameter set; with evaluation keys also key switches, which it counts.

    No method changes its operands. Ciphertexts, plaintexts and keys are SEAL's own objects.

    Args:
        parameters: the parameter set.
        relinearisation, rotation: evaluation keys, where products and rotations are wanted.

    Attributes:
        key_switches: relinearisations and rotations so far; they take most of the arithmetic's time.
    """

    def __init__(self, parameters: Parameters, relinearisation: Any = None, rotation: Any = None) -> None:
        self.parameters = parameters
        self.relinearisation, self.rotation = relinearisation, rotation
        self.key_switches = 0
        self._seal = seal = sealapi()
        settings = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        settings.set_poly_modulus_degree(parameters.ring)
        try:
            self.moduli = seal.CoeffModulus.Create(parameters.ring, list(parameters.prime_bits))
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                f"no primes of {list(parameters.prime_bits)} bits for ring {parameters.ring} ({error})"
            ) from None
        settings.set_coeff_modulus(self.moduli)
        self.context = seal.SEALContext(settings, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise UsageError(f"SEAL refuses the parameters: {self.context.parameters_error_message()}")
        self._encoder = seal.CKKSEncoder(self.context)
        self._evaluator = seal.Evaluator(self.context)

    @cached_property
    def primes(self) -> list[int]:
        """The primes that ciphertexts use; rescaling at level l divides by ``primes[l]``."""
        return [modulus.value() for modulus in self.moduli[:-1]]

    @cached_property
    def _ids(self) -> dict[int, Any]:
        ids, data = {}, self.context.first_context_data()
        while data is not None:
            ids[data.chain_index()] = data.parms_id()
            data = data.next_context_data()
        return ids

    def level(self, ciphertext: Any) -> int:
        """How often a ciphertext can still be rescaled."""
        return int(ciphertext.coeff_modulus_size()) - 1

    def encode(self, values: Numbers, level: int, scale: float | None = None) -> Any:
        """A plaintext of up to N/2 numbers, or of one number in all slots, at a level; default scale: the fresh one.

        The imaginary unit of complex numbers is X^(N/2) here, by which products are exact at any scale: in SEAL's order
        of slots that is i in even ones and -i in odd ones.
        """
        plaintext = self._seal.Plaintext()
        if np.iscomplexobj(values):
            pairs = np.broadcast_to(values, self.parameters.slots) if np.ndim(values) == 0 else np.asarray(values)
            values = np.where(np.arange(len(pairs)) % 2, pairs.conj(), pairs)
        else:
            values = np.asarray(values, np.float64)
        numbers = values.tolist()  # one number alone where it is one
        self._encoder.encode(numbers, self._ids[level], scale or self.parameters.scale, plaintext)
        return plaintext

    def add(self, first: Any, second: Any) -> Any:
        """Sum of two ciphertexts of one level and scale."""
        return self._made(self._evaluator.add, first, second)

    def sum(self, ciphertexts: Iterable[Any]) -> Any:
        """Sum of ciphertexts of one level and scale."""
        ciphertexts = iter(ciphertexts)
        total = self._copy(next(ciphertexts))
        for ciphertext in ciphertexts:
            self._evaluator.add_inplace(total, ciphertext)
        return total

    def subtract(self, first: Any, second: Any) -> Any:
        """Difference of two ciphertexts of one level and scale."""
        return self._made(self._evaluator.sub, first, second)

    def add_plain(self, ciphertext: Any, values: Numbers) -> Any:
        """Add known numbers."""
        plaintext = self.encode(values, self.level(ciphertext), ciphertext.scale)
        return self._made(self._evaluator.add_plain, ciphertext, plaintext)

    def multiply(self, first: Any, second: Any) -> Any:
        """Product by slots, of three polynomials until :meth:`relinearise`, with the product of the scales."""
        return self._made(self._evaluator.multiply, first, second)

    def multiply_plain(self, ciphertext: Any, values: Numbers, scale: float | None = None) -> Any:
        """Product with known numbers, encoded at ``scale``; their product is the scale of the result."""
        return self.multiply_encoded(ciphertext, self.encode(values, self.level(ciphertext), scale))

    def multiply_encoded(self, ciphertext: Any, plaintext: Any) -> Any:
        """Product with what :meth:`encode` made at the ciphertext's level, for numbers that are used many times."""
        return self._made(self._evaluator.multiply_plain, ciphertext, plaintext)

    def relinearise(self, ciphertext: Any) -> Any:
        """Bring a product back to two polynomials: one key switch."""
        if self.relinearisation is None:
            raise PpvitError("there is no relinearisation key; read the evaluation keys first")
        self.key_switches += 1
        return self._made(self._evaluator.relinearize, ciphertext, self.relinearisation)

    def rescale(self, ciphertext: Any) -> Any:
        """Divide the scale by the last prime and drop that prime: one level less.

        Raises:
            PpvitError: no level is left.
        """
        if self.level(ciphertext) == 0:
            raise PpvitError("the modulus chain is used up; choose parameters for more iterations")
        return self._made(self._evaluator.rescale_to_next, ciphertext)

    def drop(self, ciphertext: Any, level: int) -> Any:
        """The same numbers at a lower level."""
        if level == self.level(ciphertext):
            return ciphertext
        return self._made(self._evaluator.mod_switch_to, ciphertext, self._ids[level])

    def rotate(self, ciphertext: Any, steps: int) -> Any:
        """Move every slot ``steps`` places towards the first, round the end: one key switch.

        Raises:
            PpvitError: there is no key for this rotation.
        """
        if self.rotation is None or not self.rotation.has_key(self.galois_element(steps)):
            raise PpvitError(f"there is no key for rotations by {steps}; make the evaluation keys with it")
        self.key_switches += 1
        return self._made(self._evaluator.apply_galois, ciphertext, self.galois_element(steps), self.rotation)

    def conjugate(self, ciphertext: Any) -> Any:
        """The complex conjugate of every slot: one key switch, as a rotation by :data:`CONJUGATION`."""
        return self.rotate(ciphertext, CONJUGATION)

    def galois_element(self, steps: int) -> int:
        """The automorphism X -> X^(3^steps mod 2N), which rotates the slots; X -> X^-1 conjugates them."""
        order = 2 * self.parameters.ring
        return order - 1 if steps == CONJUGATION else pow(3, steps % self.parameters.slots, order)

    def as_scale(self, ciphertext: Any, scale: float) -> Any:
        """The same ciphertext, its scale set exactly.

        Raises:
            PpvitError: the scale differs by more than rounding.
        """
        if abs(ciphertext.scale / scale - 1) > _SAME_SCALE:
            raise PpvitError(f"scales {ciphertext.scale:.6g} and {scale:.6g} differ: the parameters do not fit")
        return self.read_at(ciphertext, scale)

    def read_at(self, ciphertext: Any, scale: float) -> Any:
        """The same integers read at another scale: all numbers times old scale / new scale, at no cost."""
        result = self._copy(ciphertext)
        result.scale = scale
        return result

    def _made(self, operation: Callable[..., None], *operands: Any) -> Any:
        """What an operation of SEAL's writes into the ciphertext that is its last argument."""
        result = self._seal.Ciphertext()
        operation(*operands, result)
        return result

    def _copy(self, ciphertext: Any) -> Any:
        # the binding has no copy constructor; switching to the level it is at copies
        return self._made(self._evaluator.mod_switch_to, ciphertext, self._ids[self.level(ciphertext)])

    def save(self, item: Any, path: Path) -> None:
        """Write a ciphertext or key to a file, in SEAL's own format."""
        item.save(str(path))

    def load(self, kind: str, path: Path, most_bytes: int | None = None) -> Any:
        """Read what :meth:`save` wrote.

        Args:
            kind: Ciphertext, SecretKey, RelinKeys or GaloisKeys.
            path: the file.
            most_bytes: that it may have; needed for GaloisKeys.

        Raises:
            PpvitError: missing, too large, truncated, altered, or made with other parameters.
        """
        if not path.exists():
            raise PpvitError(f"{path} is missing; fetch it again or make it again")
        most_bytes = most_bytes or self.parameters.file_bytes(kind)
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > most_bytes:
                raise PpvitError(f"{path} has {size:,} bytes, of at most {most_bytes:,}; fetch it again")
        item = self._read(kind, path)
        if kind == "Ciphertext" and not self._usable(item):
            raise PpvitError(f"{path} is no ciphertext of two polynomials with a possible scale; fetch it again")
        if kind == "RelinKeys" and not (item.size() == 1 and item.has_key(2)):  # else SEAL reads beyond its memory
            raise PpvitError(f"{path} holds another key than that of products; fetch it again")
        return item

    def try_ciphertexts(self, paths: Iterable[Path], fresh: bool = False) -> None:
        """Refuse ciphertexts that somebody else wrote and :meth:`load` would refuse or not survive.

        Args:
            paths: the files.
            fresh: they are at the top level and the fresh scale, as after encryption.

        Raises:
            PpvitError: names the first; see :func:`ppvit.he.ckks.trial.require_readable`.
        """

        def read(path: Path) -> None:
            ciphertext = self.load("Ciphertext", path)
            wanted = (self.parameters.top_level, self.parameters.scale)
            if fresh and (self.level(ciphertext), ciphertext.scale) != wanted:
                raise PpvitError(f"{path} is not as encryption writes it; fetch it again or encrypt again")

        require_readable(paths, read, self.parameters.ciphertext_bytes())

    def _read(self, kind: str, path: Path) -> Any:
        item = getattr(self._seal, kind)()
        try:
            item.load(self.context, str(path))
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:  # also SEAL's logic_error
            raise PpvitError(
                f"{path} is no {kind} of these parameters, is truncated or was altered ({error}); fetch it again"
            ) from None
        return item

    def _usable(self, ciphertext: Any) -> bool:
        """Whether work on a ciphertext can begin; SEAL itself has seen that it is one of these parameters."""
        level = ciphertext.coeff_modulus_size() - 1
        of_data = 0 <= level <= self.parameters.top_level  # one higher are keys
        bits = sum(self.parameters.prime_bits[: level + 1])
        # the comparison is false for NaN too
        possible = of_data and 1 <= ciphertext.scale < 2.0**bits
        return bool(
            possible and ciphertext.size() == 2 and ciphertext.is_ntt_form() and not ciphertext.is_transparent()
        )

    def to_bytes(self, item: Any) -> bytes:
        """:meth:`save` to memory (the binding knows only files)."""
        with self._passing_file() as path:
            self.save(item, path)
            return path.read_bytes()

    def from_bytes(self, kind: str, data: bytes) -> Any:
        """What :meth:`to_bytes` of this session gave; nothing about its size or scale is checked."""
        with self._passing_file() as path:
            path.write_bytes(data)
            return self._read(kind, path)

    @contextmanager
    def _passing_file(self) -> Iterator[Path]:
        with memory_file("item") as path:
            if path is not None:
                yield path
                return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "item"
