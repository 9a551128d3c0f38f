"""Refresh: the key holder decrypts the weights of an iteration and encrypts them anew, so that the depth never ends.

Protocol, by files in the trainer's folder: the trainer writes ``refresh/<run>/<number>/request`` (ciphertexts at the
lowest level and a manifest), the owner writes ``answer`` beside it (fresh ciphertexts and a manifest). Both appear by
renaming, whole. A run is one start of the trainer, which removes what earlier ones left; the manifest of its
``weights`` names it, and so the owner tells new weights from old ones, whoever starts first. The owner sees
intermediate weights, which are its own; the trainer sees only ciphertexts. An answer that is ``done`` has the weights
that the owner wants and no point ahead: training ends with them, see `stopping`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import atomic_output
from ppvit.core.reading import read_record
from ppvit.he.algorithms import Floats
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.ckks.session import Session
from ppvit.he.parties.folders import MANIFEST, Manifest, Sent, read_manifest, require_of, weights_name, write_manifest

_POLL_SECONDS = 0.05
_MAX_WAIT = 10**7  # four months
State = list[list[Any]]  # weights and the point ahead, a ciphertext a block


def patience_seconds() -> float:
    """How long a party waits for the other: ``$PPVIT_HE_WAIT``, 600 by default.

    Raises:
        UsageError: that is no number of seconds.
    """
    told = os.environ.get("PPVIT_HE_WAIT", "600")
    with suppress(ValueError):
        if 0 < (seconds := float(told)) <= _MAX_WAIT:
            return seconds
    raise UsageError(f"PPVIT_HE_WAIT is {told!r}; set it to seconds, of at most {_MAX_WAIT:,}")


def start_run(folder: Path) -> str:
    """Trainer: remove what earlier runs left in its folder; returns the name of the new one."""
    for stale in ("weights", "refresh"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    return secrets.token_hex(8)


def asker(folder: Path, run: str, session: Session, fingerprint: str, sent: Sent) -> Callable[[State], State]:
    """Trainer: a function that sends weights and the point ahead, and waits for both anew, or for the last weights.

    It raises a PpvitError where no answer comes in time, or one that is damaged or of other data.
    """
    asked = 0

    def ask(state: State) -> State:
        nonlocal asked
        place = folder / "refresh" / run / f"{asked:06d}"
        asked += 1
        with atomic_output(place / "request", known_by=MANIFEST) as out:
            for kind, ciphertexts in zip("wv", state, strict=True):
                for block, ciphertext in enumerate(ciphertexts):
                    session.save(session.drop(ciphertext, 0), out / weights_name(block, kind))
            write_manifest(out, fingerprint, data=sent.id)
        answer = place / "answer"
        _wait_for(answer.exists, f"no answer in {answer}; start the owner's half: ppvit he refresh")
        kinds = "w" if read_record(answer / MANIFEST, Manifest, "he").done else "wv"
        return _read_state(answer, session, fingerprint, sent, "refresh", len(state[0]), fresh=True, kinds=kinds)

    return ask


def _read_state(
    folder: Path,
    session: Session,
    fingerprint: str,
    sent: Sent,
    made_by: str,
    blocks: int,
    fresh: bool = False,
    kinds: str = "wv",
) -> State:
    """What the other party wrote into a request or an answer, checked."""
    names = [[weights_name(block, kind) for block in range(blocks)] for kind in kinds]
    each = [name for kind in names for name in kind]
    sizes = dict.fromkeys(each, session.parameters.file_bytes("Ciphertext"))
    require_of(sent, folder, read_manifest(folder, made_by, fingerprint, sizes))
    session.try_ciphertexts((folder / name for name in each), fresh)
    return [[session.load("Ciphertext", folder / name) for name in kind] for kind in names]


def answer_trainer(
    folder: Path,
    session: SecretSession,
    fingerprint: str,
    sent: Callable[[], Sent],
    blocks: int,
    ends: Callable[[str, int, list[Floats]], list[Floats] | None] = lambda run, iteration, slots: None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Owner: answer requests until the trainer's new ``weights`` are there; those that lie there already are old.

    Args:
        folder: the trainer's.
        session: the arithmetic with the secret key.
        fingerprint: of that key.
        sent: tells what the owner encrypted last; weights of other data are not renewed.
        blocks: ciphertexts that hold the weights.
        ends: told of a run, how many iterations it did and the slots of its weights, gives the slots of the weights to
            end it with, or None.
        check: called while nothing is asked; raises where the trainer will ask no more.

    Returns:
        The number of answers.

    Raises:
        PpvitError: a request is damaged, or of another key or other data, or none came in time.
    """
    answered, old = 0, _run_of(folder / "weights")
    told = f"neither a request in {folder / 'refresh'} nor new weights in {folder / 'weights'} appeared"

    def appeared() -> bool:
        check()
        return bool(_open_request(folder)) or _run_of(folder / "weights") not in (None, old)

    while True:
        _wait_for(appeared, told)
        request = _open_request(folder)
        if request is None:
            return answered
        try:
            _answer(request, session, fingerprint, sent(), blocks, ends)
            answered += 1
        except (PpvitError, OSError):
            if request.exists():  # else it was an old one, which a new run of the trainer has removed
                raise


def _open_request(folder: Path) -> Path | None:
    requests = sorted((folder / "refresh").glob("*/*/request"))
    return next((each for each in requests if not each.with_name("answer").exists()), None)


def _run_of(weights: Path) -> str | None:
    """The run that wrote a folder of weights; None where there is none."""
    with suppress(PpvitError):
        return read_record(weights / MANIFEST, Manifest, "he").run or ""
    return None


def _answer(
    request: Path,
    session: SecretSession,
    fingerprint: str,
    sent: Sent,
    blocks: int,
    ends: Callable[[str, int, list[Floats]], list[Floats] | None],
) -> None:
    state = _read_state(request, session, fingerprint, sent, "train", blocks)
    number = request.parent.name
    if not number.isdecimal():
        raise PpvitError(f"{request}: '{number}' is no number of a request; train again: ppvit he train")
    with atomic_output(request.with_name("answer"), known_by=MANIFEST) as out:
        try:
            slots = [[session.decrypt(each) for each in kind] for kind in state]
            last = ends(request.parents[1].name, int(number) + 1, slots[0])
            for kind, arrays in zip("w" if last else "wv", [last] if last else slots, strict=True):
                for block, array in enumerate(arrays):
                    session.save(session.encrypt_seeded(array), out / weights_name(block, kind))
        except (ValueError, RuntimeError) as error:  # SEAL's, of numbers that are too large
            raise PpvitError(f"{request} cannot be renewed ({error}); train again: ppvit he train") from None
        write_manifest(out, fingerprint, data=sent.id, **({"done": True} if last else {}))


def _wait_for(condition: Callable[[], Any], told: str) -> None:
    patience = patience_seconds()
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise PpvitError(f"{told} (waited {patience:.0f} s)")
        time.sleep(_POLL_SECONDS)
