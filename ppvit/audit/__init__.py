"""The audit: what could whoever trains, or steals the shards, recover? It plays that party and measures.

The attacker holds what the trainer holds, the public checkpoint and a few plain images with their ciphertexts. Key
and plain images serve to hand out those few and to score; no attack sees more than :class:`ppvit.audit.view.View`.

To add an attack: a file with ``attack(view) -> Iterator[Finding]``, its module in ``ATTACKS``, and its name in
``ppvit.config.AttackName``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.audit import (
    brute_force,
    chosen_plaintext,
    feature_reconstruction,
    inverse_network,
    jigsaw,
    known_plaintext,
    matching,
    min_difference,
    pooled,
    weights,
)
from ppvit.audit.gather import Truth, gather
from ppvit.audit.score import key_recovered_percent, mean_ssim, psnr_db
from ppvit.audit.verdict import Scored, overall, sentence
from ppvit.audit.view import Finding, View
from ppvit.ciphers import AffineMap
from ppvit.config import Config
from ppvit.files import atomic_output, write_json
from ppvit.results import Stopwatch, write_result
from ppvit.show import image_grid
from ppvit.tuners import finetuned_id

__all__ = ["ATTACKS", "audit", "run"]

_MODULES = (weights, known_plaintext, chosen_plaintext, pooled, jigsaw, feature_reconstruction, min_difference)
_MODULES += (inverse_network, matching, brute_force)
ATTACKS: dict[str, Callable[[View], Iterator[Finding]]] = {
    module.__name__.rpartition(".")[2]: module.attack for module in _MODULES
}
TITLES = ["plain", "encrypted", "recovered"]
PICTURED = 4  # images in every picture
GUESSED_IMAGES = 8  # parts of the images under attack, each decrypted with a random key of its own, for ssim_of_guess
GUESSED_KEYS = 20  # the best of so many is key_percent_of_guess


def run(
    config: Config,
    raw: Path,
    encrypted: Path,
    embedded: Path,
    adapted: Path,
    finetuned: Path,
    pictures: Path,
    result: Path,
) -> None:
    """Attack the images and models of a run, and write what was recovered.

    Args:
        config: ``audit`` is used, and what made the inputs: ``dataset``, ``encrypt``, ``cipher``, ``model``.
        raw: folder that `download` wrote; read for the known pairs and for scoring.
        encrypted: folder of shards.
        embedded: weights of the embedded model, which are public.
        adapted, finetuned: folders of models, as the trainer has them.
        pictures: folder to write, ``<attack>.png`` for each that tried to make pictures, and ``verdicts.json``; plain
            images, for the owner only.
        result: JSON to write; its names are those of :func:`audit`.

    Raises:
        UsageError: the splits hold fewer images than the parameters ask for, or no attack knows this cipher.
        PpvitError: an input is missing, damaged, or was made with other parameters.
    """
    watch = Stopwatch()
    view, truth = gather(config, raw, encrypted, embedded, adapted, finetuned)
    with atomic_output(pictures, directory=True) as folder:
        values = audit(view, truth, config.audit.attacks, folder)
        write_result(result, {**values, "finetuned_id": finetuned_id(finetuned)}, watch)


def audit(view: View, truth: Truth, attacks: list[str], pictures: Path) -> dict[str, Any]:
    """Run attacks on a view and score them.

    Args:
        view: what the attacker holds.
        truth: what only the owner holds.
        attacks: names from ``ATTACKS``.
        pictures: an existing folder for ``<attack>.png`` and ``verdicts.json``, one sentence an attack.

    Returns:
        For every attack ``<attack>_key_recovered_percent`` (0 is a guess, 100 all;
        :func:`ppvit.audit.score.key_recovered_percent`), ``_ssim`` and ``_psnr_db`` on unseen images,
        ``_wall_seconds``, and ``_strength_percent``, how far the best of its findings got from nothing (0) to all
        (100); all but the last also for variants such as ``weights_finetuned``;
        ``ssim_of_guess`` and ``ssim_of_ciphertext``, what a random key and no attack at all score;
        ``key_percent_of_guess``, the best of 20 random keys; and ``verdict``. Some attacks add figures of their own.
    """
    keyed = view.space.keyed
    values: dict[str, Any] = {
        "audited_images": len(truth.plain),
        "key_percent_of_guess": _rounded(_guess_key_percent(view, truth), 3),
        "ssim_of_guess": round(_guess_ssim(view, truth), 4),
        "ssim_of_ciphertext": round(mean_ssim(view.pictures, truth.plain), 4),
    }
    everything: list[Scored] = []
    sentences: dict[str, str] = {}
    for attack in attacks:
        for finding, seconds in _timed(ATTACKS[attack](view)):
            images, scores = _scores(finding, view, truth)
            scored = _scored(attack, finding, scores, seconds, values)
            everything.append(scored)
            scores["wall_seconds"] = round(seconds, 4)
            if finding.variant:
                values |= {f"{attack}_{finding.variant}_{name}": value for name, value in scores.items()}
            if finding.headline:
                values |= {f"{attack}_{name}": value for name, value in scores.items()}
                sentences[attack] = sentence(scored, keyed)
            if finding.headline and not finding.says:
                shown = [each[: min(PICTURED, len(images))] for each in (truth.plain, view.pictures, images)]
                image_grid(shown, TITLES).save(pictures / f"{attack}.png")
    write_json(pictures / "verdicts.json", sentences)  # beside the metrics: texts would fill DVC's tables
    for attack in attacks:
        strongest = max(scored.strength for scored in everything if scored.attack == attack)
        values[f"{attack}_strength_percent"] = round(100 * strongest, 1) if keyed else 100.0
    return {**values, "verdict": overall(everything, keyed)}


def _timed(findings: Iterator[Finding]) -> Iterator[tuple[Finding, float]]:
    watch = Stopwatch()
    for finding in findings:
        yield finding, watch.seconds()
        watch = Stopwatch()  # scoring, which happens at the yield, is not the attacker's time


def _scores(finding: Finding, view: View, truth: Truth) -> tuple[np.ndarray, dict[str, float | None]]:
    """The images as they are shown, and the figures: at their best over what the attacker cannot know."""
    plain = truth.plain[: len(finding.images)]
    images = finding.align(finding.images, plain) if finding.align else finding.images
    scores: dict[str, float | None] = {
        "key_recovered_percent": _rounded(_key_percent(finding, view, truth), 3),
        "ssim": round(mean_ssim(images, plain), 4),
        "psnr_db": round(psnr_db(images, plain), 2),
    }
    if finding.outlines:
        scores["edge_correlation"] = round(feature_reconstruction.edge_correlation(images, plain), 4)
    if finding.trivial is not None:
        scores["ssim_of_nothing"] = round(mean_ssim(finding.trivial, plain), 4)
    if finding.placement is not None and truth.key is not None:
        scores |= _placement_scores(finding, truth.key)
    if finding.identifies:
        right = [np.array_equal(one, other) for one, other in zip(images, plain, strict=True)]
        scores |= {"top1_percent": 100.0 * float(np.mean(right)), "chance_percent": 100.0 / len(view.candidates)}
    return images, scores | finding.scores


def _scored(
    attack: str, finding: Finding, scores: dict[str, float | None], seconds: float, values: dict[str, Any]
) -> Scored:
    return Scored(
        attack,
        finding.needs,
        scores["key_recovered_percent"],
        values["key_percent_of_guess"] or 0.0,
        scores["ssim"],
        max(values["ssim_of_guess"], values["ssim_of_ciphertext"], scores.get("ssim_of_nothing", 0.0)),
        seconds,
        scores.get("top1_percent"),
        scores.get("chance_percent", 0.0),
        finding.says,
        finding.strength,
        finding.free,
    )


def _key_percent(finding: Finding, view: View, truth: Truth) -> float | None:
    if finding.key is None or truth.key is None or not view.space.keyed:
        return None
    keys = finding.equivalents(finding.key) if finding.equivalents else [finding.key]
    return max(key_recovered_percent(key, truth.key, view.space) for key in keys)


def _placement_scores(finding: Finding, key: AffineMap) -> dict[str, float]:
    truth, side = np.argsort(key.block_permutation), round(len(key.block_permutation) ** 0.5)
    scored = [jigsaw.placement_scores(each, truth, side, transforms=bool(finding.free)) for each in finding.placement]
    return {name: round(float(np.mean([scores[name] for scores in scored])), 2) for name in scored[0]}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _guess_key_percent(view: View, truth: Truth) -> float | None:
    if truth.key is None or not view.space.keyed:
        return None
    rng = np.random.default_rng(view.seed)
    guesses = (view.space.guess(rng) for _ in range(GUESSED_KEYS))
    return max(key_recovered_percent(guess, truth.key, view.space) for guess in guesses)


def _guess_ssim(view: View, truth: Truth) -> float:
    if not view.space.example.invertible:
        return mean_ssim(view.pictures, truth.plain)
    rng = np.random.default_rng(view.seed)
    # few images a guess and several guesses: keys differ more than images do
    batches = np.array_split(np.arange(len(truth.plain)), min(GUESSED_IMAGES, len(truth.plain)))
    guesses = [view.space.own_cipher(rng).decrypt(view.encrypted[batch], batch) for batch in batches]
    return mean_ssim(np.concatenate(guesses), truth.plain)
