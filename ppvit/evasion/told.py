"""What is said of attacks on accuracy, by those who measure and by those who check what was measured: names, intervals.

Light to load, unlike the attacks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ppvit.config import Robustness
from ppvit.core.errors import UsageError
from ppvit.evasion.verdicts import MASKING


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


def interval_percent(hits: np.ndarray) -> tuple[float, float]:
    """95 % interval of :func:`percent` over samples of this size (Wilson, JASA 1927), in percent."""
    from scipy.stats import binomtest  # slow to load

    interval = binomtest(int(np.sum(hits)), len(hits)).proportion_ci(0.95, method="wilson")
    return 100.0 * float(interval.low), 100.0 * float(interval.high)


def trainers_verdict(values: dict[str, Any], settings: Robustness, attacks: list[str], images: int) -> str:
    """One line: the figure, of which attacks, and whether to believe it."""
    low, high = values["interval_low_percent"], values["interval_high_percent"]
    figure = (
        f"{values['headline_accuracy_percent']:.1f} % of {images} images withstand {settings.norm} "
        f"{settings.epsilon:g} under {in_words(attacks, settings.steps)} (95 % interval {low:.0f} to {high:.0f} %)"
    )
    failed = [says for name, says in MASKING.items() if not values.get(name, True)]
    if failed:
        return f"Not to be believed: {figure}, but {'; '.join(failed)}. Gradients may be masked."
    return f"{figure}; no sign of masked gradients."
