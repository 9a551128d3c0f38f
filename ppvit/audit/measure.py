"""Running attacks on what the attacker holds, and scoring what they find with what only the owner has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppvit.audit.attacks.feature_reconstruction import edge_correlation
from ppvit.audit.attacks.jigsaw import placement_scores
from ppvit.audit.base import ATTACKS
from ppvit.audit.collect import Truth
from ppvit.audit.rows import attack_rows, title
from ppvit.audit.score import key_recovered_percent, mean_ssim, psnr_db
from ppvit.audit.verdict import Scored, overall, sentence, strongest, views_raise
from ppvit.audit.view import Finding, View
from ppvit.ciphers import AffineMap
from ppvit.core.executor import Executor
from ppvit.core.files import write_json
from ppvit.core.progress import tqdm
from ppvit.core.results import Stopwatch
from ppvit.data.pictures import image_grid

TITLES = ["plain", "encrypted", "recovered"]
PICTURED = 4  # images in every picture
GUESSED_IMAGES = 8  # parts of the images under attack, each decrypted with a random key of its own, for ssim_of_guess
GUESSED_KEYS = 20  # the best of so many is key_percent_of_guess


def audit(view: View, truth: Truth, attacks: list[str], pictures: Path) -> dict[str, Any]:
    """Run attacks on a view and score them.

    Args:
        view: what the attacker holds.
        truth: what only the owner holds.
        attacks: names of attacks.
        pictures: an existing folder for ``<attack>.png`` and ``attacks.json``: rows, titles and a sentence an attack.

    Returns:
        For every attack ``<attack>_key_recovered_percent`` (0 is a guess, 100 all;
        :func:`ppvit.audit.score.key_recovered_percent`), ``_ssim`` and ``_psnr_db`` on unseen images,
        ``_wall_seconds``, and ``_strength_percent``, how far the best of its findings got from nothing (0) to all
        (100); all but the last also for variants such as ``weights_finetuned``; None for all of them where the attack
        cannot be made on this cipher. ``ssim_of_guess`` and ``ssim_of_ciphertext``, what a random key and no attack at
        all score; ``key_percent_of_guess``, the best of 20 random keys; key and SSIM of the strongest finding; and
        ``verdict``. Where training images have several views, ``views`` and ``<attack>_first_views_percent``, the
        strength without the others. Some attacks add figures of their own.
    """
    keyed = view.space.keyed
    values: dict[str, Any] = {
        "audited_images": len(truth.plain),
        "key_percent_of_guess": _rounded(_guess_key_percent(view, truth), 3),
        "ssim_of_guess": round(_guess_ssim(view, truth), 4),
        "ssim_of_ciphertext": round(mean_ssim(view.pictures, truth.plain), 4),
    }
    found: dict[str, list[Scored]] = {}
    sentences: dict[str, str] = {}
    # here one after the other, each with all threads; on a cluster side by side, with as many threads
    with Executor(1) as executor:
        made = executor.each(_findings, ((attack, view, torch.get_num_threads()) for attack in attacks))
        bar = tqdm(attacks, desc="audit", unit="attack", file=sys.stderr)
        for attack, timed in zip(bar, made, strict=True):
            found[attack], sentences[attack] = _score(attack, timed, view, truth, values, pictures)
    for attack, findings in found.items():
        percent = round(100 * max(scored.strength for scored in findings), 1) if findings else None
        values[f"{attack}_strength_percent"] = percent if keyed or not findings else 100.0
    everything = [scored for findings in found.values() for scored in findings]
    best = strongest(everything) if everything else None
    values["key_percent_of_strongest"] = best and best.key_recovered_percent
    values["ssim_of_strongest"] = best and best.ssim
    told = {"rows": attack_rows(values), "titles": {name: title(name) for name in attacks}, "sentences": sentences}
    write_json(pictures / "attacks.json", told)  # beside the metrics: texts would fill DVC's tables
    missing = [attack for attack, findings in found.items() if not findings]
    verdict = overall(everything, keyed, missing, view.space.example.published)
    if view.views > 1:
        first, told_of_views = views_raise(found, view.views)
        values |= {"views": view.views, **{f"{name}_first_views_percent": value for name, value in first.items()}}
        verdict = f"{verdict} {told_of_views}" if keyed else verdict
    return {**values, "verdict": verdict}


def _findings(attack: str, view: View, threads: int) -> list[tuple[Finding, float]]:
    """What an attack finds, and the seconds that each finding took."""
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)  # sums of floats depend on it
    watch, found = Stopwatch(), []
    for finding in ATTACKS[attack].find(view):
        found.append((finding, watch.seconds()))
        watch = Stopwatch()
    return found


def _score(
    attack: str,
    timed: list[tuple[Finding, float]],
    view: View,
    truth: Truth,
    values: dict[str, Any],
    pictures: Path,
) -> tuple[list[Scored], str]:
    """Scores of an attack, none where it cannot be made, and its sentence. Adds its figures to ``values``."""
    found: list[Scored] = []
    told = ""
    for finding, seconds in timed:
        if not finding.applies:
            values |= {f"{attack}_{name}": None for name in ("key_recovered_percent", "ssim", "psnr_db")}
            told = finding.says
            continue
        images, scores = _scores(finding, view, truth)
        found.append(_scored(attack, finding, scores, values))
        scores["wall_seconds"] = round(seconds, 4)
        if finding.variant:
            values |= {f"{attack}_{finding.variant}_{name}": value for name, value in scores.items()}
        if finding.headline:
            values |= {f"{attack}_{name}": value for name, value in scores.items()}
            told = sentence(found[-1], view.space.keyed)
        if finding.headline and not finding.says:
            shown = [each[: min(PICTURED, len(images))] for each in (truth.plain, view.pictures, images)]
            image_grid(shown, TITLES).save(pictures / f"{attack}.png", compress_level=1)  # noise stays as large
    return found, told


def _scores(finding: Finding, view: View, truth: Truth) -> tuple[np.ndarray, dict[str, Any]]:
    """The images as they are shown, and the figures: at their best over what the attacker cannot know."""
    plain = truth.plain[: len(finding.images)]
    images = finding.align(finding.images, plain) if finding.align else finding.images
    scores: dict[str, Any] = {
        "key_recovered_percent": _rounded(_key_percent(finding, view, truth), 3),
        "ssim": round(mean_ssim(images, plain), 4),
        "psnr_db": round(psnr_db(images, plain), 2),
    }
    if finding.outlines:
        scores["edge_correlation"] = round(edge_correlation(images, plain), 4)
    if finding.trivial is not None:
        scores["ssim_of_nothing"] = round(mean_ssim(finding.trivial, plain), 4)
    if finding.placement is not None and truth.key is not None:
        scores |= _placement_scores(finding.placement, bool(finding.free), truth.key)
    if finding.identifies and view.candidates is not None:
        right = [np.array_equal(one, other) for one, other in zip(images, plain, strict=True)]
        scores |= {"top1_percent": 100.0 * float(np.mean(right)), "chance_percent": 100.0 / len(view.candidates)}
    return images, scores | finding.scores


def _scored(attack: str, finding: Finding, scores: dict[str, Any], values: dict[str, Any]) -> Scored:
    return Scored(
        attack,
        finding.needs,
        scores["key_recovered_percent"],
        values["key_percent_of_guess"] or 0.0,
        scores["ssim"],
        max(values["ssim_of_guess"], values["ssim_of_ciphertext"], scores.get("ssim_of_nothing", 0.0)),
        scores.get("top1_percent"),
        scores.get("chance_percent", 0.0),
        finding.says,
        finding.strength,
        finding.free,
        finding.variant,
    )


def _key_percent(finding: Finding, view: View, truth: Truth) -> float | None:
    if finding.key is None or truth.key is None or not view.space.keyed:
        return None
    keys = finding.equivalents(finding.key) if finding.equivalents else [finding.key]
    return max(key_recovered_percent(key, truth.key, view.space) or 0.0 for key in keys)


def _placement_scores(placements: np.ndarray, turned: bool, key: AffineMap) -> dict[str, float]:
    truth, side = np.argsort(key.block_permutation), round(len(key.block_permutation) ** 0.5)
    scored = [placement_scores(each, truth, side, transforms=turned) for each in placements]
    return {name: round(float(np.mean([scores[name] for scores in scored])), 2) for name in scored[0]}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _guess_key_percent(view: View, truth: Truth) -> float | None:
    if truth.key is None or not view.space.keyed:
        return None
    rng = np.random.default_rng(view.seed)
    guesses = (view.space.guess(rng) for _ in range(GUESSED_KEYS))
    return max(key_recovered_percent(guess, truth.key, view.space) or 0.0 for guess in guesses)


def _guess_ssim(view: View, truth: Truth) -> float:
    if not view.space.example.invertible:
        return mean_ssim(view.pictures, truth.plain)
    rng = np.random.default_rng(view.seed)
    # few images a guess and several guesses: keys differ more than images do
    batches = np.array_split(np.arange(len(truth.plain)), min(GUESSED_IMAGES, len(truth.plain)))
    guesses = [view.space.own_cipher(rng).decrypt(view.encrypted[batch], batch) for batch in batches]
    return mean_ssim(np.concatenate(guesses), truth.plain)
