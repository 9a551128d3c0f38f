"""The half of CKKS that needs the secret key: making keys, encrypting, decrypting; the owner's alone."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from typing import Any

import numpy as np

from ppvit.core.results import Stopwatch
from ppvit.he.ckks.scheme import Parameters
from ppvit.he.ckks.session import Numbers, Session


class SecretSession(Session):
    """A session that holds the secret key: it also encrypts, decrypts and makes evaluation keys.

    Args:
        parameters: the parameter set.
        secret: SEAL's ``SecretKey``; None draws a new one from the operating system's randomness.
    """

    def __init__(self, parameters: Parameters, secret: Any = None) -> None:
        super().__init__(parameters)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # a dump has the key
        seal = self._seal
        self._generator = seal.KeyGenerator(self.context, secret) if secret else seal.KeyGenerator(self.context)
        self.secret = secret or self._generator.secret_key()
        self._encryptor = seal.Encryptor(self.context, self.secret)
        self._decryptor = seal.Decryptor(self.context, self.secret)

    def seeded_relinearisation(self) -> Any:
        """A relinearisation key to save: half of it is a seed. Reading it with :meth:`load` makes it whole."""
        return self._generator.create_relin_keys()

    def seeded_rotation(self, steps: Iterable[int]) -> Any:
        """Keys for rotations by these steps, to save: half of each is a seed."""
        return self._generator.create_galois_keys([self.galois_element(step) for step in sorted(set(steps))])

    def add_evaluation_keys(self, steps: Iterable[int]) -> None:
        """Make evaluation keys for this session itself."""
        self.relinearisation, self.rotation = self._seal.RelinKeys(), self._seal.GaloisKeys()
        self._generator.create_relin_keys(self.relinearisation)
        elements = [self.galois_element(step) for step in sorted(set(steps))]
        self._generator.create_galois_keys(elements, self.rotation)

    def key_switch_seconds(self) -> float:
        """How long a key switch takes here at the top level, where it takes longest."""
        key = self._seal.RelinKeys()
        self._generator.create_relin_keys(key)
        fresh, result = self.encrypt(0.0), self._seal.Ciphertext()
        product = self.multiply(fresh, fresh)
        watch = Stopwatch()
        self._evaluator.relinearize(product, key, result)
        return watch.seconds()

    def encrypt(self, values: Numbers) -> Any:
        """A fresh ciphertext at the top level and the fresh scale."""
        result = self._seal.Ciphertext()
        self._encryptor.encrypt_symmetric(self.encode(values, self.parameters.top_level), result)
        return result

    def encrypt_seeded(self, values: Numbers) -> Any:
        """A fresh ciphertext to save: half of it is a seed. Reading it with :meth:`load` makes it whole."""
        return self._encryptor.encrypt_symmetric(self.encode(values, self.parameters.top_level))

    def decrypt(self, ciphertext: Any) -> np.ndarray:
        """The numbers of all slots: float64, (N/2,)."""
        plaintext = self._seal.Plaintext()
        self._decryptor.decrypt(ciphertext, plaintext)
        return np.array(self._encoder.decode_double(plaintext))
