"""What the owner, who has the key, measures of a model under adversarial images beside the attacks themselves.

Images made on models under other keys (surrogates), signs of masked gradients behind the cipher, and the summary.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvit.ciphers import Cipher
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config, Robustness
from ppvit.core.device import device
from ppvit.core.errors import UsageError
from ppvit.core.measures import wilson_percent
from ppvit.data.plain import PlainImages
from ppvit.evaluation.owner_checks import wrong_key
from ppvit.evasion import masking
from ppvit.evasion.cascade import Adversary, cascade
from ppvit.evasion.ciphered import rounds
from ppvit.evasion.curve import accuracy_against_epsilon, accuracy_against_steps
from ppvit.evasion.progress import Progress
from ppvit.evasion.recovery import Recovered
from ppvit.evasion.sample import Sample, percent
from ppvit.evasion.surrogate import own_images, train_surrogate
from ppvit.models import backbone_of, model_input


def straight_through_checks(
    settings: Robustness, adversary: Adversary, owner: nn.Module, sample: Sample, progress: Progress
) -> dict[str, bool]:
    """Checks for masked gradients behind a cipher without a gradient, which the trainer cannot make."""
    factors = {epsilon: epsilon / settings.epsilon for epsilon in settings.epsilons}
    curve = accuracy_against_epsilon(adversary, owner, sample, factors, progress.remember)
    steps = accuracy_against_steps(adversary, owner, sample, progress.remember)
    return {
        "masking_falls_with_epsilon": masking.falls(curve, len(sample)),
        "masking_vanishes": masking.vanishes(curve, len(sample)),
        "masking_falls_with_steps": masking.falls(steps, len(sample)),
    }


def require_measurable(config: Config, owner: nn.Module) -> None:
    """Refuse sizes of perturbations that rounding to whole grey levels would change.

    Raises:
        UsageError: L2, or a fraction of a grey level, under a cipher that has no meaning between grey levels.
    """
    settings = config.robustness
    broken = next((epsilon for epsilon in (settings.epsilon, *settings.epsilons) if epsilon % 1), None)
    if rounds(owner) and (settings.norm != "linf" or broken):
        raise UsageError(
            f"robustness.epsilon {broken or settings.epsilon:g} ({settings.norm}) cannot be measured under cipher "
            f"'{config.cipher.name}', which takes whole grey levels only; set robustness.norm=linf and whole numbers"
        )


def transferred(
    config: Config,
    embedded: Path,
    train: PlainImages,
    adversary: Adversary,
    owner: nn.Module,
    sample: Sample,
    progress: Progress,
) -> tuple[np.ndarray, float]:
    """Which images withstand adversarial images made on each of the surrogates, bool (n,); and the surrogates' own mean
    accuracy in percent."""
    settings = config.threats
    public = backbone_of(config, embedded)
    standing, accuracies = np.ones(len(sample), bool), []
    for number in range(settings.surrogates):
        other: Cipher = load_cipher(config, wrong_key(number + 1))
        picked = own_images(len(train), int(settings.surrogate_images), settings.seed, number)
        surrogate = train_surrogate(config, public, other, *read_pixels(train, picked), adversary.classes, device())
        progress.watch(surrogate)
        accuracies.append(percent(cascade([], adversary, surrogate, sample)["clean"]))
        # each surrogate draws starts of its own
        own = replace(adversary, seed=adversary.seed + number)
        kept = progress.under(f"k3 {number}")
        standing = standing & cascade(["pgd"], own, surrogate, sample, judge=owner, remember=kept)["pgd"]
    return standing, round(float(np.mean(accuracies)), 2)


def summary(standing: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy under every attacker, the smallest as the headline, and whether knowledge pays as it must.

    Args:
        standing: which images withstand each attacker, bool (n,).
    """
    accuracies = {name: percent(hits) for name, hits in standing.items()}
    strongest = min(accuracies, key=accuracies.__getitem__)
    low, high = wilson_percent(int(standing[strongest].sum()), len(standing[strongest]))
    images = len(standing["k1"])
    return {
        **{f"{name}_accuracy_percent": accuracy for name, accuracy in accuracies.items()},
        "headline_accuracy_percent": accuracies[strongest],
        "interval_low_percent": round(low, 2),
        "interval_high_percent": round(high, 2),
        "masking_white_box_strongest": masking.at_least_as_strong(accuracies["k1"], accuracies["k3"], images),
        "masking_square_no_better": masking.at_least_as_strong(accuracies["k1"], accuracies["k4"], images),
    }


def recovery_values(recovered: Recovered) -> dict[str, Any]:
    """The results that tell how the key was recovered."""
    return {
        "k2_attack": recovered.attack,
        "k2_key_recovered_percent": round(recovered.percent, 3),
        "k2_key_seconds": round(recovered.seconds, 4),
    }


def read_pixels(plain: PlainImages, order: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images by number as a model takes them, float32 (n, 3, H, W) in [-1, 1], and their labels, int64 (n,)."""
    images = np.concatenate([plain.read(index, index + 1) for index in order])
    return model_input(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(plain.labels[order])
