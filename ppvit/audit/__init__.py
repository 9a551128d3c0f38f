"""The audit: what could whoever trains, or steals the shards, recover? It plays that party and measures.

The attacker holds what the trainer holds, the public checkpoint and a few plain images with their ciphertexts. Key
and plain images serve to hand out those few and to score; no attack sees more than :class:`ppvit.audit.view.View`.

To add an attack: a file with ``attack(view) -> Iterator[Finding]``, a line in ``ATTACKS``, and its name in
``ppvit.config.Audit.attacks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.audit import known_plaintext, weights
from ppvit.audit.gather import Truth, gather
from ppvit.audit.score import key_recovered_percent, mean_ssim, psnr_db
from ppvit.audit.verdict import Scored, overall, sentence
from ppvit.audit.view import Finding, View, decrypt
from ppvit.config import Config
from ppvit.files import atomic_output, write_json
from ppvit.results import Stopwatch, write_result
from ppvit.show import image_grid

__all__ = ["ATTACKS", "audit", "run"]

ATTACKS: dict[str, Callable[[View], Iterator[Finding]]] = {
    "weights": weights.attack,
    "known_plaintext": known_plaintext.attack,
}
TITLES = ["plain", "encrypted", "recovered"]
PICTURED = 4  # images in every picture
GUESSED_IMAGES = 8  # parts of the images under attack, each decrypted with a random key of its own, for ssim_of_guess
GUESSED_KEYS = 100  # the best of so many is key_percent_of_guess


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
        pictures: folder to write, ``<attack>.png`` each and ``verdicts.json``; plain images, for the owner only.
        result: JSON to write; its names are those of :func:`audit`.

    Raises:
        UsageError: the splits hold fewer images than the parameters ask for, or no attack knows this cipher.
        PpvitError: an input is missing, damaged, or was made with other parameters.
    """
    watch = Stopwatch()
    view, truth = gather(config, raw, encrypted, embedded, adapted, finetuned)
    with atomic_output(pictures, directory=True) as folder:
        values = audit(view, truth, config.audit.attacks, folder)
        write_result(result, values, watch)


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
        and ``_wall_seconds``, and the first three for variants of it such as ``weights_finetuned``;
        ``ssim_of_guess`` and ``ssim_of_ciphertext``, what a random key and no attack at all score;
        ``key_percent_of_guess``, the best of 100 random keys; and ``verdict``.
    """
    keyed = view.space.keyed
    values: dict[str, Any] = {
        "audited_images": len(truth.plain),
        "known_plaintext_pairs": view.known_pairs[-1],
        "key_percent_of_guess": round(_guess_key_percent(view, truth), 3),
        "ssim_of_guess": round(_guess_ssim(view, truth), 4),
        "ssim_of_ciphertext": round(mean_ssim(view.encrypted, truth.plain), 4),
    }
    baseline = max(values["ssim_of_guess"], values["ssim_of_ciphertext"])
    everything: list[Scored] = []
    sentences: dict[str, str] = {}
    for attack in attacks:
        for finding, seconds in _timed(ATTACKS[attack](view)):
            scores = _scores(finding, view, truth)
            luck = values["key_percent_of_guess"]
            key_share, ssim = scores["key_recovered_percent"], scores["ssim"]
            scored = Scored(attack, finding.needs, key_share, luck, ssim, baseline, seconds)
            everything.append(scored)
            if finding.variant:
                values |= {f"{attack}_{finding.variant}_{name}": value for name, value in scores.items()}
            if finding.headline:
                values |= {f"{attack}_{name}": value for name, value in scores.items()}
                values[f"{attack}_wall_seconds"] = round(seconds, 4)
                sentences[attack] = sentence(scored, keyed)
                shown = [images[:PICTURED] for images in (truth.plain, view.encrypted, finding.images)]
                image_grid(shown, TITLES).save(pictures / f"{attack}.png")
    write_json(pictures / "verdicts.json", sentences)  # beside the metrics: texts would fill DVC's tables
    return {**values, "verdict": overall(everything, keyed)}


def _timed(findings: Iterator[Finding]) -> Iterator[tuple[Finding, float]]:
    watch = Stopwatch()
    for finding in findings:
        yield finding, watch.seconds()
        watch = Stopwatch()  # scoring, which happens at the yield, is not the attacker's time


def _scores(finding: Finding, view: View, truth: Truth) -> dict[str, float | None]:
    share = None if finding.key is None else key_recovered_percent(finding.key, truth.key, view.space)
    return {
        "key_recovered_percent": None if share is None else round(share, 3),
        "ssim": round(mean_ssim(finding.images, truth.plain), 4),
        "psnr_db": round(psnr_db(finding.images, truth.plain), 2),
    }


def _guess_key_percent(view: View, truth: Truth) -> float:
    rng = np.random.default_rng(view.seed)
    guesses = (view.space.guess(rng) for _ in range(GUESSED_KEYS))
    return max(key_recovered_percent(guess, truth.key, view.space) or 0.0 for guess in guesses)


def _guess_ssim(view: View, truth: Truth) -> float:
    rng = np.random.default_rng(view.seed)
    # few images a guess and several guesses: keys differ more than images do
    batches = np.array_split(np.arange(len(truth.plain)), min(GUESSED_IMAGES, len(truth.plain)))
    guesses = [decrypt(view.encrypted[batch], view.space.guess(rng), view.block_size) for batch in batches]
    return mean_ssim(np.concatenate(guesses), truth.plain)
