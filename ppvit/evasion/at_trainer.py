"""Accuracy under adversarial perturbation, measured by the trainer: no key, no plain image.

A cipher that moves and inverts values is an isometry: a perturbation of the ciphertext is one of the plain image, and
of its size. Attacking ciphertext is then attacking plain pixels with the key in hand, and the stage `threats` compares
that attacker with those who lack it. Under any other cipher the trainer cannot measure, and the result says so.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ppvit.config import Robustness
from ppvit.core.errors import UsageError
from ppvit.core.measures import wilson_percent
from ppvit.data.labels import ClassNumbers, TaskName
from ppvit.evasion import masking
from ppvit.evasion.autoattack import APGD_STEPS, require_package
from ppvit.evasion.ball import GREY_LEVEL, Ball
from ppvit.evasion.cascade import Adversary, cascade, classified_correctly, share_right_percent
from ppvit.evasion.curve import accuracy_against_epsilon, accuracy_against_steps
from ppvit.evasion.isometry import plain_ball
from ppvit.evasion.progress import Progress
from ppvit.evasion.sample import Sample, percent
from ppvit.evasion.verdicts import SEVERAL_LABELS, attack_names, trainers_verdict
from ppvit.models.tasks import task_of

__all__ = ["attacks_and_adversary", "evaluate"]


def evaluate(
    settings: Robustness,
    model: nn.Module,
    sample: Sample,
    classes: int,
    record: dict[str, Any],
    progress: Progress,
    task: TaskName = ClassNumbers.task,
    apgd_steps: int = APGD_STEPS,
    refusal: str = "",
) -> tuple[dict[str, Any], dict[float, float]]:
    """The figures, and the curve of accuracy in percent against epsilon in grey levels.

    Args:
        settings: the ``robustness`` section, with numbers in place of ``auto``.
        model: inputs of ``sample`` to logits, on its device; no parameter requires grad.
        sample: ciphertext and labels.
        classes: C.
        record: what the model's record says of the cipher.
        progress: what an interrupted run found.
        task: of the model; of a multi-label one the first and the last figure are measured only.
        apgd_steps: of APGD.
        refusal: why nothing is attacked, where nothing shall be.

    Returns:
        ``clean_accuracy_percent``; ``<attack>_accuracy_percent`` against this attack and all before it;
        ``headline_accuracy_percent``, the last of them, with its 95 % interval; the checks of
        :mod:`ppvit.evasion.masking`; ``verdict``. Where the cipher keeps no distances, the first and last only.
    """
    public = {"images": len(sample), "seed": settings.seed, "norm": settings.norm, "epsilon": settings.epsilon}
    if task != ClassNumbers.task:
        clean = share_right_percent(model, sample, task_of(task))
        why = f"Not measured by the trainer: {SEVERAL_LABELS}."
        return {"clean_accuracy_percent": clean, **public, "verdict": why}, {0.0: clean}
    attack_names(settings.attack, classes)  # refuses a single class, whatever the cipher
    values: dict[str, Any] = {
        "clean_accuracy_percent": percent(classified_correctly(model, sample.images, sample.labels))
    }
    nothing = {0.0: values["clean_accuracy_percent"]}
    if refusal:
        return {**values, **public, "verdict": f"Not measured by the trainer: {refusal}."}, nothing
    try:
        attacks, adversary = attacks_and_adversary(settings, classes, record, apgd_steps)
    except UsageError as why:
        told = f"Not measured by the trainer: {why}. results/threats.json has the owner's figures."
        return {**values, **public, "verdict": told}, nothing
    found = cascade(attacks, adversary, model, sample, remember=progress.remember)
    values |= {f"{attack.replace('-', '_')}_accuracy_percent": percent(found[attack]) for attack in attacks}
    headline = found[attacks[-1]]
    low, high = wilson_percent(int(headline.sum()), len(headline))
    factors = {epsilon: epsilon / settings.epsilon for epsilon in settings.epsilons}
    known = values.get("pgd_accuracy_percent")
    curve = accuracy_against_epsilon(adversary, model, sample, factors, progress.remember, known)
    curve = dict(sorted({0.0: values["clean_accuracy_percent"], **curve}.items()))
    steps = accuracy_against_steps(adversary, model, sample, progress.remember, known)
    checks = {
        "masking_falls_with_epsilon": masking.falls(curve, len(sample)),
        "masking_vanishes": masking.vanishes(curve, len(sample)),
        "masking_falls_with_steps": masking.falls(steps, len(sample)),
        "masking_planted_found": masking.finds_planted(attacks, adversary, tuple(sample.images.shape[1:])),
    }
    if attacks[-1] == "square":
        masking.require_square_adds_nothing(found[attacks[-2]], found["square"])
    values |= {
        "attacks": ", ".join(attacks),
        "pgd_steps": adversary.steps,
        **({"apgd_steps": apgd_steps} if attacks != ["pgd"] else {}),
        "headline_accuracy_percent": percent(headline),
        "interval_low_percent": round(low, 2),
        "interval_high_percent": round(high, 2),
        **{f"pgd_{count}_steps_accuracy_percent": accuracy for count, accuracy in steps.items()},
        **checks,
    }
    return {**values, **public, "verdict": trainers_verdict(values, settings, attacks, len(sample))}, curve


def attacks_and_adversary(
    settings: Robustness, classes: int, record: dict[str, Any], apgd_steps: int = APGD_STEPS
) -> tuple[list[str], Adversary]:
    """Names and strength of the attacks on ciphertext.

    Under ``orthogonal`` ciphertext has no box, without which AutoAttack does not work, so that only PGD is left.

    Raises:
        UsageError: the cipher keeps no distances, or there are fewer than two classes.
        PpvitError: AutoAttack is needed and not installed.
    """
    ball: Ball = plain_ball(settings.norm, settings.epsilon, record, "robustness")
    attacks = attack_names(settings.attack, classes) if ball.box else ["pgd"]
    if attacks != ["pgd"]:
        require_package()
    step = settings.step_size * GREY_LEVEL
    return attacks, Adversary(ball, step, classes, settings.seed, int(settings.steps), apgd_steps=apgd_steps)
