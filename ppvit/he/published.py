"""The published algorithm from features to decrypted weights, owner and trainer in one process, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from ppvit.errors import PpvitError
from ppvit.he import quadratic_gradient, volley_revolver
from ppvit.he.arithmetic import CiphertextArithmetic
from ppvit.he.ckks import SecretSession, Session
from ppvit.results import Stopwatch


@dataclass(frozen=True)
class Measured:
    """One training.

    Attributes:
        weights: as decrypted, float64 (C, d).
        twin: the same in plain arithmetic.
        record: for a result file: seconds, bytes, key switches, largest error of a weight.
    """

    weights: NDArray[np.float64]
    twin: quadratic_gradient.Trained
    record: dict[str, Any]


def run(features: NDArray[np.float64], labels: NDArray[np.integer], classes: int, iterations: int) -> Measured:
    """Encrypt, train with evaluation keys alone, decrypt, compare with the twin.

    Args:
        features: (n, d), float64, raw in the paper, the constant included.
        labels: (n,), 0..C-1.
        classes: C.
        iterations: T, 1 to 3; the keys for two, of 401 features, take 4.5 GB of memory.

    Raises:
        UsageError: too many classes, features or iterations.
        PpvitError: too little memory, found before any work; TenSEAL is not installed.
    """
    parameters = volley_revolver.parameters(iterations)
    layout = volley_revolver.plan(*features.shape, classes, parameters.slots)
    # keys above all; beside them all samples and labels, and the few products that wait to be added up
    ciphertexts = 2 * layout.groups + 16
    needed = parameters.key_bytes(len(layout.rotations())) + ciphertexts * parameters.ciphertext_bytes()
    if needed > psutil.virtual_memory().available:
        raise PpvitError(
            f"volley_revolver needs about {needed / 2**30:.0f} GiB of memory, most of it for keys, more than is free; "
            "take fewer iterations or the tiles"
        )
    owner = SecretSession(parameters)
    owner.add_evaluation_keys(layout.rotations())
    trainer = Session(parameters, owner.relinearisation, owner.rotation)
    uploaded: list[int] = []

    def send(slots: NDArray[np.float64]) -> Any:
        data = owner.to_bytes(owner.encrypt_seeded(slots))
        uploaded.append(len(data))
        return trainer.from_bytes("Ciphertext", data)

    watch = Stopwatch()
    upload = volley_revolver.prepare(layout, features, labels).each(send)
    encrypt_seconds = watch.seconds()
    watch = Stopwatch()
    trained = volley_revolver.train(CiphertextArithmetic(trainer), layout, upload, iterations)
    train_seconds = watch.seconds()
    weights = layout.unpack(owner.decrypt(trained))
    twin = quadratic_gradient.train(features, labels, classes, iterations)
    record = {
        "encrypt_seconds": round(encrypt_seconds, 3),
        "train_seconds": round(train_seconds, 3),
        "upload_bytes": sum(uploaded),
        "upload_ciphertexts": len(uploaded),
        "key_switches": trainer.key_switches,
        "key_bytes_in_memory": parameters.key_bytes(len(layout.rotations())),
        "resident_memory_bytes": psutil.Process().memory_info().rss,
        "max_weight_error": float(np.abs(weights - twin.weights).max()),
    }
    return Measured(weights, twin, record)
