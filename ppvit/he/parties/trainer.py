"""Trainer: logistic regression on encrypted features, labels and weights. Holds no secret key."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from ppvit.core.errors import PpvitError
from ppvit.core.files import atomic_output, write_json
from ppvit.core.progress import tqdm
from ppvit.core.results import Stopwatch, environment, peak_memory_bytes
from ppvit.he.algorithms import Plan
from ppvit.he.ckks.memory import available_bytes
from ppvit.he.ckks.session import Session
from ppvit.he.ckks.trial import require_readable
from ppvit.he.parties.folders import (
    MANIFEST,
    Sent,
    id_of_data,
    read_manifest,
    read_plan,
    weights_name,
    write_manifest,
)
from ppvit.he.parties.measured import TRAINING
from ppvit.he.parties.refresh import asker, start_run


def run(folder: Path, data: Path | None = None) -> None:
    """Train on what the owner sent and write encrypted weights to ``weights`` beside it, anew.

    Args:
        folder: the trainer's: ``plan.json``, ``keys``, ``data``.
        data: encrypted features and labels, where they lie elsewhere.

    Raises:
        PpvitError: a file is missing, altered or of another key; too little memory; in refresh mode, no answer.
    """
    watch = Stopwatch()
    algorithm, fingerprint = read_plan(folder)
    plan = algorithm.plan
    algorithm.require_memory(available_bytes())
    data = data or folder / "data"
    names = list(algorithm.upload_names())
    read_manifest(folder / "keys", "keys", fingerprint, {name: most for name, _, most in _keys(plan)})
    read_manifest(data, "encrypt", fingerprint, dict.fromkeys(names, plan.parameters.file_bytes("Ciphertext")))
    sent = Sent(id_of_data(data), data / MANIFEST, "start again: ppvit he train, ppvit he refresh")
    started = start_run(folder)
    session = Session(plan.parameters)
    session.try_ciphertexts((data / name for name in names), fresh=True)
    load_keys(session, folder, plan)
    renew = asker(folder, started, session, fingerprint, sent) if plan.mode == "refresh" else None
    with tqdm(total=plan.key_switches(), desc="train", unit="key switch", disable=None, file=sys.stderr) as bar:
        try:
            weights, switches = algorithm.train(session, data, bar, renew)
        except (ValueError, RuntimeError) as error:  # SEAL's
            raise PpvitError(f"{data} cannot be trained on ({error}); encrypt again: ppvit he encrypt") from None
    with atomic_output(folder / "weights", known_by=MANIFEST) as out:
        for block, ciphertext in enumerate(weights):
            session.save(ciphertext, out / weights_name(block))
        measured = {
            "train_seconds": round(watch.seconds(), 3),
            "key_switches": switches,
            "memory_bytes": _memory_bytes(algorithm.processes()),
            **environment(),
        }
        write_json(out / TRAINING, measured)
        write_manifest(out, fingerprint, run=started, data=sent.id)


def _memory_bytes(processes: int) -> int:
    """Peak memory of this process and its workers, what they share counted in each."""
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # KiB on Linux, where alone there are any
    return peak_memory_bytes() + (processes * largest if processes > 1 else 0)


def load_keys(session: Session, folder: Path, plan: Plan) -> None:
    """Give a session the owner's evaluation keys.

    Raises:
        PpvitError: one cannot be read, or there is none for a rotation that training takes.
    """
    for name, kind, most in _keys(plan):
        path, attribute = folder / "keys" / name, name.removesuffix(".key")

        def read(path: Path, kind: str = kind, most: int = most) -> object:
            return session.load(kind, path, most)

        require_readable([path], read, most)
        setattr(session, attribute, read(path))
    for step in plan.rotations():
        if not session.rotation.has_key(session.galois_element(step)):
            path = folder / "keys" / "rotation.key"
            raise PpvitError(f"{path} has no key for rotations by {step}; fetch it again or make it: ppvit he keys")


def _keys(plan: Plan) -> list[tuple[str, str, int]]:
    """File name, kind and most bytes of the evaluation keys."""
    parameters = plan.parameters
    return [
        ("relinearisation.key", "RelinKeys", parameters.file_bytes("RelinKeys")),
        ("rotation.key", "GaloisKeys", parameters.file_bytes("GaloisKeys", len(plan.rotations()))),
    ]
