"""Owner: keys, encryption of features and labels, decryption of the head; the secret key never leaves this half.

Folders: ``owner`` holds ``secret.key``, and what :mod:`ppvit.he.parties.kept` keeps of the images; ``trainer`` is all
that the trainer gets.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ppvit.config import Config, He
from ppvit.core.errors import PpvitError, say
from ppvit.core.files import atomic_output, require_free_space, write_json
from ppvit.core.progress import tqdm
from ppvit.core.results import Stopwatch, peak_memory_bytes
from ppvit.he.algorithms import Algorithm, Floats, Labels, Plan, Slots
from ppvit.he.ckks.forks import Forks, Report, process_count
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.ckks.session import Session
from ppvit.he.parties.divergence import check as check_divergence
from ppvit.he.parties.effort import told
from ppvit.he.parties.features import (
    backbone_of,
    extract,
    load_libraries,
    settings_of,
    whitening_for,
)
from ppvit.he.parties.folders import (
    MANIFEST,
    OwnersFiles,
    id_of_data,
    owners_folder,
    read_manifest,
    read_plan,
    require_of,
    require_replaceable,
    weights_name,
    write_manifest,
    write_plan,
)
from ppvit.he.parties.kept import Kept, write_kept
from ppvit.he.parties.measured import TRAINING, TRAINING_BYTES, read_sent
from ppvit.he.parties.planning import planned
from ppvit.he.parties.refresh import answer_trainer
from ppvit.he.parties.score import figure, headline_of
from ppvit.he.parties.stopping import ender, held_out_images
from ppvit.places import Places

VALIDATION = 0.2  # share of the training images on which settings may be compared; never the test images


def make_keys(config: Config, places: Places, owner: OwnersFiles, trainer: Path, memory: int | None = None) -> None:
    """Draw a secret key for ``owner`` and make the evaluation keys for ``trainer``; each folder replaced whole.

    Args:
        config, places: see :func:`ppvit.he.parties.planning.planned`.
        owner: where the owner keeps things.
        trainer: the trainer's folder.
        memory: bytes that the trainer will have, which are checked; None where it is another machine.

    Raises:
        UsageError: see :func:`ppvit.he.parties.planning.planned`; a folder is not one of ours.
        PpvitError: the disk has no room for the keys, or this machine's memory none for a trainer that is here.
    """
    watch = Stopwatch()
    for folder in (owner.folder, trainer):
        require_replaceable(folder)
    algorithm = planned(config, places)
    plan, processes = algorithm.plan, algorithm.processes()
    if memory is not None:
        algorithm.require_memory(memory)
    key_bytes = plan.parameters.key_bytes(len(plan.rotations())) // 2
    require_free_space(trainer.parent, key_bytes)
    print(
        f"the trainer will take about {plan.memory_bytes(processes) / 2**20:.0f} MiB of memory ({processes} processes) "
        f"and get at most {key_bytes / 2**20:.0f} MiB of keys and {plan.upload_bytes() / 2**20:.0f} MiB of data"
    )
    session = SecretSession(plan.parameters)
    replaced = _fingerprint_in(owner)
    with owners_folder(owner.folder) as out:
        secret = session.to_bytes(session.secret)
        with owner.writing(owner.secret_key, out) as file:
            file.write(secret)
        fingerprint = fingerprint_of(secret)
        write_plan(out, algorithm, fingerprint)
    with atomic_output(trainer, known_by="plan.json") as out:
        keys = out / "keys"
        keys.mkdir()
        session.save(session.seeded_relinearisation(), keys / "relinearisation.key")
        session.save(session.seeded_rotation(plan.rotations()), keys / "rotation.key")
        write_manifest(keys, fingerprint)
        write_plan(out, algorithm, fingerprint)
    if replaced:
        print(
            f"{owner.folder}: {fingerprint} took the place of {replaced}; what that key encrypted is lost",
            file=sys.stderr,
        )
    write_json(owner.folder / "keys.json", {"keys_seconds": round(watch.seconds(), 3), **_memory("keys")})


def _fingerprint_in(owner: OwnersFiles) -> str | None:
    if not (owner.folder / "plan.json").exists():
        return None
    with suppress(PpvitError):
        return read_plan(owner.folder)[1]
    return "a key"


def _memory(step: str) -> dict[str, int]:
    return {f"{step}_memory_bytes": peak_memory_bytes()}


def fingerprint_of(secret: bytes) -> str:
    """16 hexadecimal digits that tell one secret key from another and say nothing of it: a hash of 8192 trits."""
    return "he-" + hashlib.sha256(b"ppvit he secret key v1" + secret).hexdigest()[:16]


def open_session(owner: OwnersFiles, plan: Plan, fingerprint: str) -> SecretSession:
    """The arithmetic with the secret key.

    Raises:
        PpvitError: it is missing, damaged, or not the one that the plan was made with.
    """
    path = owner.place(owner.secret_key)
    key = Session(plan.parameters).load("SecretKey", path)
    if fingerprint_of(path.read_bytes()) != fingerprint:
        raise PpvitError(f"{path} is not the key {fingerprint} of {owner.folder / 'plan.json'}: keys were mixed up")
    return SecretSession(plan.parameters, key)


def encrypt(config: Config, places: Places, owner: OwnersFiles, trainer: Path) -> None:
    """Extract and whiten features, train the twin in the clear, and encrypt features and labels for the trainer.

    Raises:
        UsageError: settings that do not fit the features, or with which training diverges.
        PpvitError: keys missing, mixed up or made with other settings, the disk full.
    """
    load_libraries(config)
    watch = Stopwatch()
    algorithm, fingerprint = read_plan(owner.folder)
    plan = algorithm.plan
    if algorithm != planned(config, places):
        raise PpvitError(
            f"{owner.folder / 'plan.json'} was made with other settings or another data set; run ppvit he keys again"
        )
    session = open_session(owner, plan, fingerprint)
    if read_plan(trainer) != (algorithm, fingerprint):
        raise PpvitError(
            f"{trainer} belongs to another key or plan than {owner.folder}: keys were mixed up; run ppvit he keys again"
        )
    backbone = backbone_of(config, places.embedded)
    say(told(config, places, algorithm, session, backbone))
    raw_features, labels = extract(config, places.raw, "train", plan.images, backbone)
    whitening = whitening_for(algorithm, config.he, raw_features)
    features = whitening(raw_features)
    held_out, held_out_labels = held_out_images(config, places, whitening, labels)
    clear = algorithm.twin(features, labels)
    check_divergence(algorithm, clear, features, labels)
    require_free_space(trainer, plan.upload_bytes())
    for stale in ("weights", "refresh"):
        shutil.rmtree(trainer / stale, ignore_errors=True)
    with atomic_output(trainer / "data", known_by=MANIFEST) as out:
        encrypt_data(session, algorithm, features, labels, out)
        write_manifest(out, fingerprint)
    data = id_of_data(trainer / "data")
    write_kept(owner, Kept(whitening, clear.weights, features, labels, data, held_out, held_out_labels))
    measured = {
        "data": data,
        "patience": config.he.patience,
        "settings": settings_of(config),
        f"validation_{headline_of(labels).name}": _validate(algorithm, config.he, raw_features, labels),
        "max_scores": clear.largest_score,
        "encrypt_seconds": round(watch.seconds(), 3),
        "upload_bytes": folder_bytes(trainer / "data"),
        "key_bytes": folder_bytes(trainer / "keys"),
        **_memory("encrypt"),
    }
    write_json(owner.folder / "encrypt.json", measured)


def _validate(algorithm: Algorithm, settings: He, features: np.ndarray, labels: Labels) -> float | None:
    """Headline figure of the twin on held-out training images: what to compare settings by."""
    held_out = int(VALIDATION * len(labels))
    kept = len(labels) - held_out
    if min(held_out, kept - algorithm.plan.columns) < 1:
        return None
    if labels.ndim == 2 and np.array_equal(labels[kept:].min(0), labels[kept:].max(0)):
        return None  # no label tells the images apart
    whitening = whitening_for(algorithm, settings, features[:kept])
    clear = algorithm.with_images(kept).twin(whitening(features[:kept]), labels[:kept])
    return figure(whitening(features[kept:]) @ clear.weights.T, labels[kept:])


@dataclass(frozen=True)
class _Encryption:
    """The share of one process: every processes-th ciphertext from ``number`` on."""

    session: SecretSession
    slots: Callable[[], Iterator[tuple[str, Slots]]]
    out: Path
    number: int
    processes: int

    def write(self, _: None, report: Report) -> None:
        for name, slots in islice(self.slots(), self.number, None, self.processes):
            self.session.save(self.session.encrypt_seeded(slots), self.out / name)
            report(1)


def encrypt_data(session: SecretSession, algorithm: Algorithm, features: Floats, labels: Labels, out: Path) -> None:
    """Write every ciphertext of features, (n, d), and labels; on all processors."""
    count = process_count(algorithm.plan.images)

    def slots() -> Iterator[tuple[str, Slots]]:
        return algorithm.upload_slots(features, labels)

    with (
        Forks(lambda number: _Encryption(session, slots, out, number, count), count) as forks,
        tqdm(total=sum(1 for _ in algorithm.upload_names()), desc="encrypt", unit="ciphertext", file=sys.stderr) as bar,
    ):
        forks.each("write", None, bar.update)


def refresh(owner: OwnersFiles, trainer: Path, check: Callable[[], None] = lambda: None) -> int:
    """Answer the trainer in refresh mode until it is done.

    Args:
        owner: where the owner keeps things.
        trainer: the trainer's folder.
        check: called while the owner waits; raises where the trainer will ask no more.

    Returns:
        The number of answers.
    """
    algorithm, fingerprint = read_plan(owner.folder)
    plan = algorithm.plan
    if plan.mode != "refresh" or plan.iterations == 1:
        return 0  # the trainer never asks
    session = open_session(owner, plan, fingerprint)
    ends = ender(owner, trainer, algorithm)
    return answer_trainer(
        trainer, session, fingerprint, lambda: read_sent(owner.folder, trainer), plan.blocks, ends, check
    )


def decrypt(owner: OwnersFiles, trainer: Path, features: Floats) -> Floats:
    """Decrypt the weights that came back: float64, (C, d), on whitened features.

    Args:
        owner: where the owner keeps things.
        trainer: the trainer's folder.
        features: that were encrypted, (n, d).

    Raises:
        PpvitError: missing, altered, of another key or other data, or of impossible size.
    """
    algorithm, fingerprint = read_plan(owner.folder)
    plan, weights = algorithm.plan, trainer / "weights"
    session = open_session(owner, plan, fingerprint)
    names = [weights_name(block) for block in range(plan.blocks)]
    expected = dict.fromkeys(names, plan.parameters.file_bytes("Ciphertext"))
    manifest = read_manifest(weights, "train", fingerprint, {**expected, TRAINING: TRAINING_BYTES})
    require_of(read_sent(owner.folder, trainer), weights, manifest)
    session.try_ciphertexts(weights / name for name in names)
    return decrypt_weights(session, algorithm, weights, features)


def decrypt_weights(session: SecretSession, algorithm: Algorithm, folder: Path, features: Floats) -> Floats:
    """Weights, float64 (C, d), from a folder of ciphertexts under whatever key the session holds."""
    ciphertexts = [session.load("Ciphertext", folder / weights_name(block)) for block in range(algorithm.plan.blocks)]
    try:
        slots = [session.decrypt(each) for each in ciphertexts]
    except (ValueError, RuntimeError) as error:  # SEAL's, of a ciphertext with an impossible scale
        raise PpvitError(f"{folder} cannot be decrypted ({error}); train again: ppvit he train") from None
    return algorithm.weights_of(slots, features)


def folder_bytes(folder: Path) -> int:
    """Size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())
