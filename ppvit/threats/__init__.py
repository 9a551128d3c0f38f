"""Robustness of a keyed model is that against the strongest attacker, not against one who happens to use a wrong key.

Measured by the owner, who can play all of them; epsilon is on plain pixels for each:

- K1 knows the key, and differentiates through the cipher;
- K2 holds the weights, recovers the key from them (or from known pairs) and goes on as K1;
- K3 holds the public checkpoint, and transfers images from models made under other keys (union over all of them);
- K4 holds nothing, and asks for classes (Square attack, Andriushchenko et al., arXiv 1912.00049).

The `naive` figure attacks through a wrong key. It is what a keyed defence looks like when nobody attacks it, and is
there as a warning.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvit.adversarial import Ball
from ppvit.adversarial.ball import GREY_LEVEL
from ppvit.attackers import verdict
from ppvit.checkpoint import scratch_folder
from ppvit.ciphers import Cipher
from ppvit.config import Config, Robustness
from ppvit.encrypt import PlainImages
from ppvit.errors import UsageError
from ppvit.evaluate import device
from ppvit.files import sha256_of
from ppvit.models import model_input
from ppvit.owner import load_cipher
from ppvit.results import Stopwatch, write_result
from ppvit.robustness import masking
from ppvit.robustness.autoattack import attack_names, require_package
from ppvit.robustness.cascade import Adversary, cascade
from ppvit.robustness.curve import accuracy_against_epsilon, accuracy_against_steps
from ppvit.robustness.progress import Progress
from ppvit.robustness.sample import Sample, chosen, interval_percent, percent
from ppvit.threats.ciphered import rounds, through_cipher, through_map
from ppvit.threats.recovery import Recovered, recover
from ppvit.threats.surrogate import own_images, train_surrogate
from ppvit.tuners import finetuned_id, load_finetuned, read_finetuned_record
from ppvit.verify import require_own, wrong_key

__all__ = ["run"]


def run(config: Config, raw: Path, embedded: Path, adapted: Path, finetuned: Path, result: Path) -> None:
    """Attack the fine-tuned model as attackers K1 to K4; a killed run goes on where it was.

    Args:
        config: ``threats`` and ``robustness`` are used, and what made the model.
        raw: folder that `download` wrote.
        embedded: weights of the embedded model, which are public.
        adapted, finetuned: folders of models.
        result: JSON. ``k1_accuracy_percent`` .. ``k4_accuracy_percent``, ``headline_accuracy_percent``, the smallest of
            them, with its 95 % interval; ``naive_accuracy_percent``; what K2 and K3 achieved on the way; ``verdict``.
            Under a cipher that nothing can be differentiated through, the verdict only.

    Raises:
        UsageError: fewer than two classes, or an epsilon that cannot be measured under this cipher.
        PpvitError: an input is missing, damaged or of another key; AutoAttack is not installed or doubts its figures.
    """
    watch = Stopwatch()
    cipher = load_cipher(config)
    record = read_finetuned_record(finetuned)
    require_own(record, config, cipher, finetuned)
    classes = record["num_classes"]
    attacks = attack_names(config.robustness.attack, classes)
    require_package("the threats (K4 asks as Square does)", otherwise="")
    model = load_finetuned(adapted, finetuned, classes).to(device()).eval().requires_grad_(False)
    plain = {split: PlainImages(raw, split, config.dataset, config.encrypt) for split in ("train", "test")}
    order = chosen(len(plain["test"]), config.threats.images, config.robustness.seed)
    sample = Sample(*_read(plain["test"], order))
    public = {
        "images": len(sample),
        "seed": config.robustness.seed,
        "attacks": ", ".join(attacks),
        "norm": config.robustness.norm,
        "epsilon": config.robustness.epsilon,
        "finetuned_id": finetuned_id(finetuned),
    }
    try:
        owner = through_cipher(model, cipher)
    except UsageError as refusal:
        write_result(result, {**public, "verdict": f"Not measured: {refusal}."}, watch)
        return
    require_measurable(config, owner)
    ball = Ball.of_grey_levels(config.robustness.norm, config.robustness.epsilon)
    step = config.robustness.step_size * GREY_LEVEL
    adversary = Adversary(ball, step, classes, config.robustness.seed, queries=config.threats.queries)

    progress = Progress("threats", _determines(config, plain, adapted, finetuned), scratch_folder())

    found = cascade(attacks, adversary, owner, sample, remember=progress.under("k1"))
    standing = {"k1": found[attacks[-1]]}
    values: dict[str, Any] = {"clean_accuracy_percent": percent(found["clean"])}
    recovered = recover(config, cipher, plain["train"], embedded, adapted) if cipher.keyed else None
    if not cipher.keyed:
        standing["k2"] = standing["k1"]  # nothing to recover
    elif recovered is not None:
        believed = through_map(model, recovered.key, cipher.image_size, cipher.block_size)
        k2 = cascade(attacks, adversary, believed, sample, judge=owner, remember=progress.under("k2"))
        standing["k2"] = k2[attacks[-1]]
        values |= _recovery_values(recovered)
    standing["k3"], values["k3_surrogate_accuracy_percent"] = transferred(
        config, embedded, plain["train"], adversary, owner, sample, progress
    )
    standing["k4"] = cascade(["square"], adversary, owner, sample, remember=progress.under("k4"))["square"]
    values |= {"k3_surrogates": config.threats.surrogates, "k4_queries": config.threats.queries}
    if cipher.keyed:
        stranger = through_cipher(model, load_cipher(config, wrong_key(0)))
        naive = cascade(["pgd"], adversary, stranger, sample, judge=owner, remember=progress.under("naive"))
        values["naive_accuracy_percent"] = percent(naive["pgd"])
    values |= summary(standing)
    if rounds(owner):
        values |= straight_through_checks(config.robustness, adversary, owner, sample, progress)
    write_result(result, {**values, **public, "verdict": verdict({**values, **public}, cipher.keyed)}, watch)
    progress.remove()


def _determines(config: Config, plain: dict[str, PlainImages], adapted: Path, finetuned: Path) -> dict[str, Any]:
    return {
        "config": config.model_dump(mode="json"),  # with the key's id
        "plain": {split: images.manifest["shards"][split] for split, images in plain.items()},
        "models": {
            str(path.relative_to(folder)): sha256_of(path)
            for folder in (adapted, finetuned)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        "device": str(device()),
    }


def straight_through_checks(
    settings: Robustness, adversary: Adversary, owner: nn.Module, sample: Sample, progress: Progress
) -> dict[str, bool]:
    """Signs of masked gradients behind a cipher that has none of its own, where the trainer cannot look for them."""
    factors = {epsilon: epsilon / settings.epsilon for epsilon in settings.epsilons}
    curve = accuracy_against_epsilon(adversary, owner, sample, factors, progress.remember)
    steps = accuracy_against_steps(adversary, owner, sample, progress.remember)
    return {
        "masking_falls_with_epsilon": masking.falls(curve, len(sample)),
        "masking_vanishes": masking.vanishes(curve, len(sample)),
        "masking_falls_with_steps": masking.falls(steps, len(sample)),
    }


def require_measurable(config: Config, owner: nn.Module) -> None:
    """Refuse what rounding to whole grey levels would falsify.

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
    """What withstands the images of every surrogate, bool (n,), and the surrogates' own mean accuracy in percent."""
    settings = config.threats
    standing, accuracies = np.ones(len(sample), bool), []
    for number in range(settings.surrogates):
        other: Cipher = load_cipher(config, wrong_key(number + 1))
        picked = own_images(len(train), settings.surrogate_images, settings.seed, number)
        surrogate = train_surrogate(config, embedded, other, *_read(train, picked), adversary.classes, device())
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
    low, high = interval_percent(standing[strongest])
    images = len(standing["k1"])
    return {
        **{f"{name}_accuracy_percent": accuracy for name, accuracy in accuracies.items()},
        "headline_accuracy_percent": accuracies[strongest],
        "interval_low_percent": round(low, 2),
        "interval_high_percent": round(high, 2),
        "masking_white_box_strongest": masking.at_least_as_strong(accuracies["k1"], accuracies["k3"], images),
        "masking_square_no_better": masking.at_least_as_strong(accuracies["k1"], accuracies["k4"], images),
    }


def _recovery_values(recovered: Recovered) -> dict[str, Any]:
    return {
        "k2_attack": recovered.attack,
        "k2_key_recovered_percent": round(recovered.percent, 3),
        "k2_key_seconds": round(recovered.seconds, 4),
    }


def _read(plain: PlainImages, order: np.ndarray) -> tuple[Tensor, Tensor]:
    images = np.concatenate([plain.read(index, index + 1) for index in order])
    return model_input(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(plain.labels[order])
