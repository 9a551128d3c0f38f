"""Refresh: the key holder decrypts the weights of an iteration and encrypts them anew, so that the depth never ends.

Protocol, by files in the trainer's folder: the trainer writes ``refresh/<number>/request`` (ciphertexts at the lowest
level and a manifest), the owner writes ``refresh/<number>/answer`` (fresh ciphertexts and a manifest). Both appear by
renaming, whole. The owner sees intermediate weights, which are its own; the trainer sees only ciphertexts.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ppvit.errors import PpvitError
from ppvit.files import atomic_output
from ppvit.he.ckks import SecretSession, Session
from ppvit.he.folders import read_manifest, weights_name, write_manifest

_POLL_SECONDS = 0.05


def patience_seconds() -> float:
    """How long a party waits for the other: ``$PPVIT_HE_WAIT``, 600 by default."""
    return float(os.environ.get("PPVIT_HE_WAIT", "600"))


def ask_owner(folder: Path, session: Session, fingerprint: str, state: list[list[Any]]) -> list[list[Any]]:
    """Trainer: send weights and the point ahead, wait for both anew.

    Raises:
        PpvitError: no answer in time, or one that is damaged.
    """
    place = folder / "refresh" / f"{len(list((folder / 'refresh').glob('*'))):06d}"
    with atomic_output(place / "request", directory=True) as out:
        for kind, ciphertexts in zip("wv", state, strict=True):
            for block, ciphertext in enumerate(ciphertexts):
                session.save(session.drop(ciphertext, 0), out / weights_name(block, kind))
        write_manifest(out, fingerprint, blocks=len(state[0]))
    answer = place / "answer"
    _wait_for(lambda: answer.exists(), f"no answer in {answer}; start the owner's half: ppvit he refresh")
    read_manifest(answer, "refresh", fingerprint)
    return [
        [session.load("Ciphertext", answer / weights_name(block, kind)) for block in range(len(state[0]))]
        for kind in "wv"
    ]


def answer_trainer(folder: Path, session: SecretSession, fingerprint: str) -> int:
    """Owner: answer requests until the trainer's ``weights`` are there.

    Returns:
        The number of answers.

    Raises:
        PpvitError: a request is damaged or of another key, or none came in time.
    """
    answered = 0
    while True:
        place = folder / "refresh" / f"{answered:06d}"
        request, done = place / "request", folder / "weights"
        _wait_for(lambda: request.exists() or done.exists(), f"neither {request} nor {done} appeared")  # noqa: B023
        if not request.exists():
            return answered
        blocks = read_manifest(request, "train", fingerprint)["blocks"]
        with atomic_output(place / "answer", directory=True) as out:
            for kind in "wv":
                for block in range(blocks):
                    name = weights_name(block, kind)
                    slots = session.decrypt(session.load("Ciphertext", request / name))
                    session.save(session.encrypt_seeded(slots), out / name)
            write_manifest(out, fingerprint)
        answered += 1


def _wait_for(condition: Any, told: str) -> None:
    deadline = time.monotonic() + patience_seconds()
    while not condition():
        if time.monotonic() > deadline:
            raise PpvitError(f"{told} (waited {patience_seconds():.0f} s)")
        time.sleep(_POLL_SECONDS)
