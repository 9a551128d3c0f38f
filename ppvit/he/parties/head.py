"""Owner: the decrypted head as a plain model for plain images, and how good it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from ppvit.config import Config
from ppvit.core.errors import PpvitError
from ppvit.core.files import atomic_output
from ppvit.core.measures import Headline
from ppvit.core.results import Stopwatch, peak_memory_bytes, write_result
from ppvit.data.labels import TaskName
from ppvit.data.plain import BATCH
from ppvit.he.algorithms import Floats
from ppvit.he.parties import owner as owners
from ppvit.he.parties.features import backbone_of, extract, load_libraries, require_same_settings
from ppvit.he.parties.folders import OwnersFiles, read_plan
from ppvit.he.parties.kept import Kept, read_kept
from ppvit.he.parties.measured import TRAINING, read_owners_measured, read_sent, read_training
from ppvit.he.parties.score import figure, headline_of, logistic_regression, reference_figure
from ppvit.he.parties.stopping import read_stopped
from ppvit.places import Places

if TYPE_CHECKING:  # torch takes seconds to load, and pixels and keys do not need it
    from ppvit.models import Backbone

STEPS = ("keys", "encrypt", "train", "decrypt")
_RANDOM = ("max_weight_error", "upload_bytes", "key_bytes", "download_bytes")  # change with every encryption
EXPECTED_ERROR = 5e-3  # of a weight: the noise of the scheme stays below
_SAME = 0.05  # of a whitened feature, whose deviation is 1: another machine's arithmetic stays far below


def run(config: Config, places: Places, owner: OwnersFiles, trainer: Path) -> None:
    """Decrypt the head, fold the whitening into it, measure it on test images, and write it.

    ``accuracy_percent`` clips test features as training did; ``folded_accuracy_percent`` is that of the plain linear
    head, which does not clip; where images carry several labels both are ``auroc``. ``wall_seconds`` is the sum of what
    keys, encryption, training and this step took, and ``peak_memory_bytes`` the largest of theirs; loading of libraries
    is in none. ``ciphertexts`` is how many were uploaded, ``ciphertext_bytes`` what all of them would take whole, as
    papers count; ``upload_bytes`` is less, as a fresh ciphertext travels as half and a seed. ``iterations`` made the
    weights; ``trained_iterations`` were done, more where the owner stopped early.

    Args:
        config: of the run.
        places: ``raw`` and ``embedded`` are read; ``he`` (``head.safetensors``: ``weight`` (C, D), ``bias`` (C,); with
            features of a ViT also the whole model, as `finetune.method: linear` would write it for plain images) and
            the result are written.
        owner: where the owner keeps things.
        trainer: the trainer's folder.

    Raises:
        PpvitError: see :func:`ppvit.he.parties.owner.decrypt`; settings, images or a backbone with which features are
            others than at `encrypt`.
    """
    load_libraries(config)
    watch = Stopwatch()
    algorithm, _ = read_plan(owner.folder)
    plan = algorithm.plan
    kept = read_kept(owner, plan, read_sent(owner.folder, trainer))
    whitening = kept.whitening
    measured, settings = read_owners_measured(owner.folder)
    require_same_settings(config, settings)
    weights = owners.decrypt(owner, trainer, kept.features)
    stopped = read_stopped(owner.folder, trainer / "weights")
    done = algorithm.with_iterations(stopped.after).plan if stopped else plan
    training = read_training(trainer / "weights" / TRAINING, done.key_switches())
    twin_weights = kept.twin_weights
    if stopped:
        twin_weights = algorithm.with_iterations(stopped.iterations).twin(kept.features, kept.labels).weights
    error = _weight_error(weights, twin_weights)
    backbone = backbone_of(config, places.embedded)
    features, labels = extract(config, places.raw, "test", np.iinfo(np.int64).max, backbone)
    classes = labels.max() + 1 if labels.ndim == 1 else labels.shape[1]
    if features.shape[1] != whitening.matrix.shape[1] or classes > plan.classes:
        raise PpvitError(
            f"{places.raw} has {features.shape[1]} features and {classes} classes or more, training had "
            f"{whitening.matrix.shape[1]} and {plan.classes}: it is another data set; decrypt with the one of encrypt"
        )
    _require_same_features(config, places, kept, backbone)
    white = whitening(features)
    weight, bias = whitening.fold(weights)
    in_the_clear = Stopwatch()
    reference = logistic_regression(kept.features[:, :-1], kept.labels)
    fit_seconds = in_the_clear.seconds()
    headline = headline_of(labels)
    scored = {
        "": white @ weights.T,
        "folded_": features @ weight.T + bias,
        "twin_": white @ twin_weights.T,
    }
    largest = 100.0 * float(np.bincount(labels).max()) / len(labels) if labels.ndim == 1 else 0.5
    count = sum(1 for _ in algorithm.upload_names())
    values = {
        **{f"{which}{headline.name}": figure(scores, labels) for which, scores in scored.items()},
        f"logistic_regression_{headline.name}": reference_figure(reference, white[:, :-1], labels),
        "logistic_regression_seconds": round(fit_seconds, 3),
        headline.chance: largest,
        "max_weight_error": error,
        **{
            name: measured[name]
            for name in (f"validation_{headline.name}", "max_scores", "keys_seconds", "encrypt_seconds")
        },
        "train_seconds": training.train_seconds,
        **{name: measured[name] for name in ("upload_bytes", "key_bytes")},
        "download_bytes": owners.folder_bytes(trainer / "weights"),
        "key_switches": training.key_switches,
        "trainer_memory_bytes": training.memory_bytes,
        "train_images": plan.images,
        "columns": plan.columns,
        "iterations": stopped.iterations if stopped else plan.iterations,
        "trained_iterations": done.iterations,
        "ciphertexts": count,
        "ciphertext_bytes": count * plan.parameters.modulus_bytes(),
        "algorithm": algorithm.name,
        "loss": plan.loss,
        "mode": plan.mode,
        "features": config.he.features,
        "ring": plan.parameters.ring,
        "modulus_bits": sum(plan.parameters.prime_bits),
        "multiplicative_depth": plan.parameters.top_level,
    }
    with atomic_output(places.he, known_by="head.safetensors") as folder:
        if backbone is not None:
            from ppvit.he.parties.model import save_model_with_head

            task: TaskName = "multiclass" if labels.ndim == 1 else "multilabel"
            save_model_with_head(folder, backbone, weight, bias, config.dataset.image_size, task)
        save_file({"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}, folder / "head.safetensors")
    decrypt_seconds = round(watch.seconds(), 3)
    memory = (
        measured["keys_memory_bytes"],
        measured["encrypt_memory_bytes"],
        training.memory_bytes,
        peak_memory_bytes(),
    )
    values |= {"decrypt_seconds": decrypt_seconds, "peak_memory_bytes": max(memory)}
    values["wall_seconds"] = round(sum(values[f"{step}_seconds"] for step in STEPS), 3)
    write_result(places.result("he"), values, watch, _RANDOM)
    print(_figures(values, headline))


def _figures(values: dict[str, Any], headline: Headline) -> str:
    """What was measured, in a line."""
    return (
        f"he: {headline.words} {headline.of(values)} of a head trained on {values['train_images']:,} encrypted images, "
        f"{headline.of(values, 'logistic_regression_')} of one trained in the clear (chance "
        f"{headline.text(values[headline.chance])}); {values['upload_bytes'] / 2**20:,.0f} MiB of data and "
        f"{values['key_bytes'] / 2**20:,.0f} MiB of keys went to the trainer"
    )


def _require_same_features(config: Config, places: Places, kept: Kept, backbone: Backbone | None) -> None:
    """Refuse images or a backbone that give the first training images other features than `encrypt` had.

    Raises:
        PpvitError: names what was read.
    """
    first = min(len(kept.labels), BATCH)
    features, labels = extract(config, places.raw, "train", first, backbone)
    same = np.array_equal(labels, kept.labels[:first])
    if not same or np.abs(kept.whitening(features) - kept.features[:first]).max() > _SAME:
        weights = "" if backbone is None else f", or {places.embedded} another backbone"
        raise PpvitError(
            f"{places.raw} is another data set{weights} than at ppvit he encrypt: its features are not those that "
            "kept.safetensors has; decrypt with those of encrypt, or encrypt and train again"
        )


def _weight_error(weights: Floats, expected: Floats) -> float:
    """Largest difference to the twin's weights; warns where it is more than noise.

    Raises:
        PpvitError: weights that are no numbers.
    """
    if not np.isfinite(weights).all():
        raise PpvitError(
            "the decrypted weights are not numbers: training was damaged or dishonest; train again: ppvit he train"
        )
    error = float(np.abs(weights - expected).max())
    if error > EXPECTED_ERROR:
        print(
            f"warning: max_weight_error {error:.3g}: the head differs from that of the same training in the clear by "
            f"more than the {EXPECTED_ERROR:g} that noise explains; noise of scores near the limit, or a damaged or "
            "dishonest training",
            file=sys.stderr,
        )
    return error
