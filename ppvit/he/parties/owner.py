"""Owner: keys, encryption of features and labels, decryption of the head; the secret key never leaves this half.

Folders: ``owner`` holds ``secret.key``, the whitening and the twin's weights; ``trainer`` is all that the trainer gets.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.config import Config, He
from ppvit.core.errors import PpvitError
from ppvit.core.files import atomic_output, read_json, require_free_space, write_json
from ppvit.core.results import Stopwatch, peak_memory_bytes
from ppvit.data.plain import PlainImages
from ppvit.he.algorithms import AnyPlan, algorithm_of, load_plan, write_plan
from ppvit.he.ckks.memory import available_bytes
from ppvit.he.ckks.session import SecretSession, Session
from ppvit.he.parties.divergence import check as check_divergence
from ppvit.he.parties.features import Whitening, backbone_of, extract, fit_whitening, settings_of, unchanged
from ppvit.he.parties.folders import open_private, read_manifest, require_replaceable, weights_name, write_manifest
from ppvit.he.parties.forks import Forks, process_count
from ppvit.he.parties.refresh import answer_trainer
from ppvit.he.tiles.plan import make_plan
from ppvit.he.volley_revolver import algorithm as published
from ppvit.places import Places

VALIDATION = 0.2  # share of the training images on which settings may be compared; never the test images


def plan_of(config: Config, places: Places) -> AnyPlan:
    """The run's layout, from the parameters and the sizes of the data set.

    Raises:
        UsageError: beyond the bounds, or no parameter set has 128 bits of security.
    """
    settings = config.he
    plain = PlainImages(places.raw, "train", config.dataset, config.encrypt)
    images, classes = min(settings.train_images, len(plain)), len(plain.manifest["classes"])
    if settings.algorithm == "volley_revolver":
        one, _ = extract(config, places.raw, "train", 1, backbone_of(config, places.embedded))
        return published.make_plan(images, one.shape[1] + 1, classes, settings.iterations)
    return make_plan(
        images,
        components_of(settings, images) + 1,
        classes,
        settings.iterations,
        settings.mode,
        settings.learning_rate,
        settings.l2,
        settings.batch_images,
        settings.loss,
    )


def components_of(settings: He, images: int) -> int:
    """Principal components k: as set, or min(63, n/2); see :func:`whitening_for` where there are fewer features."""
    return settings.components or max(1, min(63, images // 2))


def make_keys(config: Config, places: Places, owner: Path, trainer: Path, train_here: bool = False) -> None:
    """Draw a secret key for ``owner`` and make the evaluation keys for ``trainer``; each folder replaced whole.

    Args:
        config, places: see :func:`plan_of`.
        owner, trainer: folders of the parties.
        train_here: the trainer is this machine, so its memory is checked.

    Raises:
        UsageError: see :func:`plan_of`; a folder is not one of ours.
        PpvitError: the disk has no room for the keys, or this machine's memory none for a trainer that is here.
    """
    watch = Stopwatch()
    for folder in (owner, trainer):
        require_replaceable(folder)
    plan = plan_of(config, places)
    processes = algorithm_of(plan).processes(plan)
    if train_here:
        algorithm_of(plan).require_memory(plan, available_bytes(), processes)
    key_bytes = plan.parameters.key_bytes(len(plan.rotations())) // 2
    require_free_space(trainer.parent, key_bytes)
    print(
        f"the trainer will take about {plan.memory_bytes(processes) / 2**20:.0f} MiB of memory ({processes} processes) "
        f"and get at most {key_bytes / 2**20:.0f} MiB of keys and {plan.upload_bytes() / 2**20:.0f} MiB of data"
    )
    session = SecretSession(plan.parameters)
    replaced = _fingerprint_in(owner)
    with atomic_output(owner, directory=True) as out:
        out.chmod(0o700)
        secret = out / "secret.key"
        open_private(secret).close()
        session.save(session.secret, secret)
        fingerprint = fingerprint_of(secret.read_bytes())
        write_plan(out, plan, fingerprint)
    with atomic_output(trainer, directory=True) as out:
        keys = out / "keys"
        keys.mkdir()
        session.save(session.seeded_relinearisation(), keys / "relinearisation.key")
        session.save(session.seeded_rotation(plan.rotations()), keys / "rotation.key")
        write_manifest(keys, fingerprint)
        write_plan(out, plan, fingerprint)
    if replaced:
        print(f"{owner}: {fingerprint} took the place of {replaced}; what that key encrypted is lost", file=sys.stderr)
    write_json(owner / "keys.json", {"keys_seconds": round(watch.seconds(), 3), **_memory("keys")})


def _fingerprint_in(owner: Path) -> str | None:
    if not (owner / "secret.key").exists():
        return None
    with suppress(PpvitError):
        return load_plan(owner)[1]
    return "a key"


def _memory(step: str) -> dict[str, int]:
    return {f"{step}_memory_bytes": peak_memory_bytes()}


def fingerprint_of(secret: bytes) -> str:
    """16 hexadecimal digits that tell one secret key from another and say nothing of it: a hash of 8192 trits."""
    return "he-" + hashlib.sha256(b"ppvit he secret key v1" + secret).hexdigest()[:16]


def open_session(owner: Path, plan: AnyPlan, fingerprint: str) -> SecretSession:
    """The arithmetic with the secret key.

    Raises:
        PpvitError: it is missing, damaged, or not the one that the plan was made with.
    """
    path = owner / "secret.key"
    key = Session(plan.parameters).load("SecretKey", path)
    if fingerprint_of(path.read_bytes()) != fingerprint:
        raise PpvitError(f"{path} is not the key {fingerprint} of {owner / 'plan.json'}: keys were mixed up")
    return SecretSession(plan.parameters, key)


def encrypt(config: Config, places: Places, owner: Path, trainer: Path) -> None:
    """Extract and whiten features, train the twin in the clear, and encrypt features and labels for the trainer.

    Raises:
        UsageError: parameters that do not fit the keys or the features, or with which training diverges.
        PpvitError: keys missing or mixed up, the disk full.
    """
    watch = Stopwatch()
    plan, fingerprint = load_plan(owner)
    if plan != plan_of(config, places):
        raise PpvitError(
            f"{owner / 'plan.json'} was made with other parameters or another data set; run ppvit he keys again"
        )
    session = open_session(owner, plan, fingerprint)
    if load_plan(trainer)[1] != fingerprint:
        raise PpvitError(f"{trainer} belongs to another key than {owner}: keys were mixed up; run ppvit he keys again")
    raw_features, labels = extract(config, places.raw, "train", plan.images, backbone_of(config, places.embedded))
    whitening = whitening_for(plan, config.he, raw_features)
    features = whitening(raw_features)
    clear = algorithm_of(plan).twin(plan, features, labels)
    check_divergence(plan, clear, features, labels)
    require_free_space(trainer, plan.upload_bytes())
    for stale in ("weights", "refresh"):
        shutil.rmtree(trainer / stale, ignore_errors=True)
    with atomic_output(trainer / "data", directory=True) as out:
        encrypt_data(session, plan, features, labels, out)
        write_manifest(out, fingerprint)
    owner.chmod(0o700)
    with open_private(owner / "head.npz") as file:
        np.savez(
            file,
            matrix=whitening.matrix,
            offset=whitening.offset,
            bound=whitening.bound,
            twin_weights=clear.weights,
            features=features,
            labels=labels,
        )
    measured = {
        "settings": settings_of(config),
        "validation_accuracy_percent": _validate(plan, config.he, raw_features, labels),
        "max_scores": clear.largest_score,
        "encrypt_seconds": round(watch.seconds(), 3),
        "upload_bytes": folder_bytes(trainer / "data"),
        "key_bytes": folder_bytes(trainer / "keys"),
        **_memory("encrypt"),
    }
    write_json(owner / "encrypt.json", measured)


def whitening_for(plan: AnyPlan, settings: He, features: np.ndarray) -> Whitening:
    """The map from raw features, float (n, D), to what the algorithm trains on; the published one takes them raw.

    A backbone with fewer features than the default number of components has zeros for the rest, as keys are made before
    any feature is known.
    """
    if isinstance(plan, published.Plan):
        return unchanged(features.shape[1])
    planned = plan.columns - 1
    return fit_whitening(features, settings.components or min(planned, features.shape[1])).padded(planned)


def _validate(plan: AnyPlan, settings: He, features: np.ndarray, labels: np.ndarray) -> float | None:
    """Accuracy of the twin on held-out training images: what to compare settings by."""
    held_out = int(VALIDATION * len(labels))
    kept = len(labels) - held_out
    if min(held_out, kept - plan.columns) < 1:
        return None
    whitening = whitening_for(plan, settings, features[:kept])
    clear = algorithm_of(plan).twin(plan.with_images(kept), whitening(features[:kept]), labels[:kept])
    return accuracy_percent(whitening(features[kept:]) @ clear.weights.T, labels[kept:])


def encrypt_data(session: SecretSession, plan: AnyPlan, features: np.ndarray, labels: np.ndarray, out: Path) -> None:
    """Write every ciphertext of features, float64 (n, d), and labels, int64 (n,); on all processors."""
    processes = process_count(plan.images)

    def work(number: int) -> Iterator[str]:
        for name, slots in islice(algorithm_of(plan).upload_slots(plan, features, labels), number, None, processes):
            session.save(session.encrypt_seeded(slots), out / name)
            yield name

    with Forks(lambda _: work, processes) as forks:
        forks.ask(range(processes))


def refresh(owner: Path, trainer: Path) -> int:
    """Answer the trainer in refresh mode until it is done; returns the number of answers."""
    plan, fingerprint = load_plan(owner)
    if plan.mode != "refresh" or plan.iterations == 1:
        return 0  # the trainer never asks
    return answer_trainer(trainer, open_session(owner, plan, fingerprint), fingerprint)


def decrypt(owner: Path, trainer: Path) -> np.ndarray:
    """Decrypt the weights that came back: float64, (C, d), on whitened features.

    Raises:
        PpvitError: missing, altered, of another key, or of impossible size.
    """
    plan, fingerprint = load_plan(owner)
    session = open_session(owner, plan, fingerprint)
    read_manifest(trainer / "weights", "train", fingerprint)
    return decrypt_weights(session, plan, trainer / "weights")


def decrypt_weights(session: SecretSession, plan: AnyPlan, folder: Path) -> np.ndarray:
    """Weights, float64 (C, d), from a folder of ciphertexts under whatever key the session holds."""
    ciphertexts = [session.load("Ciphertext", folder / weights_name(block)) for block in range(plan.blocks)]
    try:
        slots = [session.decrypt(each) for each in ciphertexts]
    except (ValueError, RuntimeError) as error:  # SEAL's, of a ciphertext with an impossible scale
        raise PpvitError(f"{folder} cannot be decrypted ({error}); train again: ppvit he train") from None
    return algorithm_of(plan).weights_of(plan, slots)


def load_whitening(owner: Path) -> tuple[Whitening, dict[str, Any]]:
    """The whitening, and everything that `encrypt` kept for comparison.

    Raises:
        PpvitError: it is missing.
    """
    path = owner / "head.npz"
    if not path.exists():
        raise PpvitError(f"{path} is missing; run ppvit he encrypt")
    try:
        with np.load(path) as kept:
            arrays = dict(kept)
        whitening = Whitening(arrays["matrix"], arrays["offset"], float(arrays["bound"]))
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise PpvitError(f"{path} is damaged ({error}); run ppvit he encrypt again") from None
    measured = {**read_json(owner / "keys.json", "he"), **read_json(owner / "encrypt.json", "he")}
    return whitening, {**arrays, **measured}


def accuracy_percent(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest score, of (n, C), is that of their class."""
    return 100.0 * float((scores.argmax(1) == labels).mean())


def folder_bytes(folder: Path) -> int:
    """Size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())
