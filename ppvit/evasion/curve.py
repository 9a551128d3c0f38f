"""Accuracy against the size of the perturbation, and against the number of steps, under PGD."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from torch import nn

from ppvit.evasion.cascade import Adversary, Remember, cascade, under
from ppvit.evasion.sample import Sample, percent


def accuracy_against_epsilon(
    adversary: Adversary,
    model: nn.Module,
    sample: Sample,
    factors: dict[float, float],
    remember: Remember,
    known: float | None = None,
) -> dict[float, float]:
    """Accuracy in percent at every epsilon, 0 included.

    Args:
        adversary: at the factor 1.
        model, sample: as of :func:`ppvit.evasion.cascade.cascade`.
        factors: epsilon in grey levels, and how many times the adversary's it is.
        remember: keeps findings.
        known: accuracy at the factor 1, where it was measured before.
    """
    accuracies: dict[float, float] = {}
    for epsilon, factor in factors.items():
        if factor == 1 and known is not None:
            accuracies[epsilon] = known
            continue
        found = cascade(
            ["pgd"], adversary.scaled(factor), model, sample, remember=under(f"epsilon {epsilon}", remember)
        )
        accuracies |= {0.0: percent(found["clean"]), epsilon: percent(found["pgd"])}
    return dict(sorted(accuracies.items()))


def accuracy_against_steps(
    adversary: Adversary, model: nn.Module, sample: Sample, remember: Remember, known: float | None = None
) -> dict[float, float]:
    """Accuracy in percent after a quarter of the steps, all, and twice as many; ``known``, that after all."""
    accuracies: dict[float, float] = {}
    for steps in (adversary.steps // 4, adversary.steps, 2 * adversary.steps):
        if steps == adversary.steps and known is not None:
            accuracies[steps] = known
            continue
        kept = under(f"steps {steps}", remember)
        found = cascade(["pgd"], replace(adversary, steps=steps), model, sample, remember=kept)
        accuracies[steps] = percent(found["pgd"])
    return accuracies


def write_curve(path: Path, accuracies: dict[float, float]) -> None:
    """The curve as a table for ``dvc plots``."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("epsilon", "accuracy_percent"))
        writer.writerows(accuracies.items())
