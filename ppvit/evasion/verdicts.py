"""Summarises the results of `robustness` and `threats`: names of attacks, intervals, a sentence, table rows.

For those who measure, for those who check what others measured, and for the report; light to load, unlike the attacks.
"""

from __future__ import annotations

from typing import Any

from ppvit.config import Robustness
from ppvit.core.errors import UsageError

MASKING = {
    "masking_falls_with_epsilon": "a larger epsilon hurts less",
    "masking_vanishes": "the largest epsilon leaves more than nothing",
    "masking_falls_with_steps": "more steps help the defender",
    "masking_planted_found": "an attack misses a planted adversarial image",
}
"""Checks of :mod:`ppvit.evasion.masking`, and what it means that one fails."""


SEVERAL_LABELS = (
    "images carry several labels, and the attacks look for images that are given another class; fine-tuning with "
    "finetune.adversarial tells the accuracy by label under PGD on images held out"
)
"""Why nothing of a multi-label model is measured under attack."""


FIRST_LOOK_IMAGES = 4, 32
PUBLISHED_IMAGES = 1000


def image_bounds(settings: Robustness) -> tuple[int, int]:
    """How few and how many test images `robustness` may attack, where there are so many."""
    if settings.images != "auto":
        return settings.images, settings.images
    return (PUBLISHED_IMAGES, PUBLISHED_IMAGES) if settings.attack == "full" else FIRST_LOOK_IMAGES


def verdict(values: dict[str, Any], keyed: bool) -> str:
    """One line: the figure to quote, what the key adds, and what not to believe."""
    accuracies = {
        name: values[f"{name}_accuracy_percent"] for name in ATTACKERS if f"{name}_accuracy_percent" in values
    }
    strongest = min(accuracies, key=accuracies.__getitem__)
    interval = f"{values['interval_low_percent']:.0f} to {values['interval_high_percent']:.0f} %"
    line = (
        f"{values['headline_accuracy_percent']:.1f} % of {values['images']} images withstand {values['norm']} "
        f"{values['epsilon']:g} under the strongest attacker, {strongest.upper()} (95 % interval {interval})"
    )
    failed = [says for name, says in _CHECKS.items() if not values.get(name, True)]
    if failed:
        line = f"Not to be believed: {line}, but {'; '.join(failed)}; gradients may be masked"
    if not keyed:
        return f"{line}. There is no key, so K2 is K1."
    if "k2_accuracy_percent" in values:
        line += f"; without the key, K2 {values['k2_accuracy_percent']:.1f} % ({_recovery(values)})"
    naive = values["naive_accuracy_percent"]
    return f"{line}. {naive:.1f} % under attack through a wrong key is obfuscation, not robustness."


ATTACKERS = {
    "k1": "K1, knows the key",
    "k2": "K2, holds the weights and recovers the key",
    "k3": "K3, has models under other keys",
    "k4": "K4, asks for classes only",
}


_CHECKS = {
    "masking_white_box_strongest": "who knows the key does worse than who has other models",
    "masking_square_no_better": "who knows the key does worse than who only asks",
} | MASKING


def threat_rows(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """One row an attacker for the report: who, accuracy under attack, and how."""
    surrogates, accurate = values.get("k3_surrogates"), values.get("k3_surrogate_accuracy_percent")
    how = {
        "k1": "gradients through the cipher",
        "k2": _recovery(values),
        "k3": f"{surrogates} surrogates, {accurate} % accurate themselves",
        "k4": f"{values.get('k4_queries')} queries an image",
        "naive": "gradients through a wrong key: obfuscation, not robustness",
    }
    shown = {**ATTACKERS, "naive": "not to be believed"}
    return [
        (who, f"{values[f'{name}_accuracy_percent']:.2f} %" if f"{name}_accuracy_percent" in values else "–", how[name])
        for name, who in shown.items()
    ]


def _recovery(values: dict[str, Any]) -> str:
    if "k2_key_recovered_percent" not in values:
        return "no key to recover" if "k2_accuracy_percent" in values else "no attack of the audit gives this key back"
    source = {"weights": "the weights", "known_plaintext": "known pairs"}[values["k2_attack"]]
    return f"{values['k2_key_recovered_percent']:.0f} % of the key from {source}"


def attack_names(attack: str, classes: int) -> list[str]:
    """The attacks behind a value of ``robustness.attack``, in the order of the cascade.

    The targeted loss of APGD compares four logits, so FAB takes its place where there are fewer.

    Args:
        attack: ``pgd``, ``quick`` or ``full``.
        classes: C.

    Raises:
        UsageError: there is no second class to be mistaken for.
    """
    if classes < 2:
        raise UsageError(f"robustness needs 2 classes or more and the model has {classes}; choose another data set")
    gradient = {2: ["apgd-ce", "fab"], 3: ["apgd-ce", "fab-t"]}.get(classes, ["apgd-ce", "apgd-t"])
    if attack == "pgd":
        return ["pgd"]
    if attack == "quick":
        return ["pgd", *gradient]
    return [*gradient, "square"] if classes < 4 else [*gradient, "fab-t", "square"]


def in_words(attacks: list[str], steps: int) -> str:
    """The attacks as a reader knows them: PGD-20, APGD-CE and APGD-T."""
    names = [f"PGD-{steps}" if attack == "pgd" else attack.upper() for attack in attacks]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def trainers_verdict(values: dict[str, Any], settings: Robustness, attacks: list[str], images: int) -> str:
    """One line: the figure, of which attacks, and whether to believe it."""
    low, high = values["interval_low_percent"], values["interval_high_percent"]
    steps = values.get("pgd_steps", settings.steps)
    figure = (
        f"{values['headline_accuracy_percent']:.1f} % of {images} images withstand {settings.norm} "
        f"{settings.epsilon:g} under {in_words(attacks, steps)} (95 % interval {low:.0f} to {high:.0f} %)"
    )
    failed = [says for name, says in MASKING.items() if not values.get(name, True)]
    if failed:
        return f"Not to be believed: {figure}, but {'; '.join(failed)}. Gradients may be masked."
    return f"{figure}; no sign of masked gradients."
