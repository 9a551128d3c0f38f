"""One attack after the other, each on the images that withstood those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ppvit.core.errors import PpvitError
from ppvit.core.sharing import by_all, from_main, join
from ppvit.evasion.autoattack import APGD_STEPS, SQUARE_QUERIES, perturb
from ppvit.evasion.ball import TOLERANCE, Ball
from ppvit.evasion.passes import UNIT, units_at_once
from ppvit.evasion.pgd import PgdAttack
from ppvit.evasion.sample import Sample
from ppvit.models.tasks import Task


@dataclass(frozen=True)
class Adversary:
    """How strong every attack is.

    Attributes:
        ball: how far an image may move, in the model's input.
        step_size: of PGD, in the same units.
        classes: C.
        seed: of all random starts.
        steps: of PGD.
        queries: of Square.
        apgd_steps: of APGD and FAB.
    """

    ball: Ball
    step_size: float
    classes: int
    seed: int
    steps: int
    queries: int = SQUARE_QUERIES
    apgd_steps: int = APGD_STEPS

    def perturb(self, attack: str, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images of ``pgd``, or of an attack of :mod:`ppvit.evasion.autoattack`, within the ball.

        Args:
            attack: its name.
            model: differentiable, except for ``square``; frozen by the caller or here.
            images, labels: as of :class:`Sample`, on the model's device.

        Raises:
            PpvitError: a gradient is no number, or an image left the ball.
        """
        if attack == "pgd":
            pgd = PgdAttack(self.ball, self.steps, self.step_size, start="uniform", inner_loss="ce")
            return pgd.perturb(model, images, labels, starts=self._starts(images))
        strength = (self.ball, self.classes, self.seed, self.queries, self.apgd_steps)
        moved = perturb(model, attack, images, labels, *strength)
        excess = (self.ball.radius(moved, images) - self.ball.epsilon).max().item()
        # not <=, so that a value that is no number is caught too
        if not (excess <= self.ball.tolerance and moved.abs().max().item() <= 1 + TOLERANCE):
            raise PpvitError(
                f"{attack} moved an image out of the ball or the range of pixels; this is a defect, report it"
            )
        return moved

    def _starts(self, images: Tensor) -> Tensor:
        """Random points in the balls; every unit of images draws the same, with whatever others it is attacked."""
        seeded = (torch.Generator(images.device).manual_seed(self.seed) for _ in range(0, len(images), UNIT))
        units = zip(images.split(UNIT), seeded, strict=True)
        return torch.cat([self.ball.random_start(unit, generator) for unit, generator in units])

    def scaled(self, factor: float) -> Adversary:
        """The same in a ball so many times as wide, with steps to match."""
        ball = replace(self.ball, epsilon=factor * self.ball.epsilon)
        return replace(self, ball=ball, step_size=factor * self.step_size)


Finds = dict[str, Callable[[], list[bool]]]
"""ways to find something out, by the name under which it is remembered"""
Remember = Callable[[Finds], list[list[bool]]]
"""what each of them finds, in their order; processes that share the work all get it"""


def find_now(finds: Finds) -> list[list[bool]]:
    """What each finds, which nobody remembers."""
    return list(by_all(list(finds.values()), lambda own: (find() for find in own)))


def under(prefix: str, remember: Remember) -> Remember:
    """``remember`` with a prefix before every name, so that findings of several evaluations stay apart."""
    return lambda finds: remember({f"{prefix} {name}": find for name, find in finds.items()})


def classified_correctly(model: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Which images the model gives their true class, bool (n,).

    Raises:
        PpvitError: a logit is no number.
    """
    answers = (logits.argmax(1) for logits in _logits(model, images))
    return (torch.cat(list(answers)) == labels).numpy()


def share_right_percent(model: nn.Module, sample: Sample, task: Task) -> float:
    """Share of right answers: of the images, or multi-label, of images times labels.

    Raises:
        PpvitError: a logit is no number.
    """
    return 100 * float(task.right(torch.cat(list(_logits(model, sample.images))), sample.labels)) / len(sample)


def _logits(model: nn.Module, images: Tensor) -> Iterator[Tensor]:
    device = _device(model)
    size = UNIT if device.type == "cpu" else 8 * UNIT
    for start in range(0, len(images), size):
        with torch.no_grad():
            logits = model(images[start : start + size].to(device))
        if not torch.isfinite(logits).all():
            raise PpvitError(
                "the fine-tuned model's logits are not numbers: its weights are damaged, or training diverged; "
                "fetch them again, or dvc repro finetune with a lower finetune.learning_rate"
            )
        yield logits.cpu()


def cascade(
    attacks: list[str],
    adversary: Adversary,
    model: nn.Module,
    sample: Sample,
    judge: nn.Module | None = None,
    remember: Remember = find_now,
) -> dict[str, np.ndarray]:
    """Run attacks in order, each on the images that the model still classifies correctly.

    Args:
        attacks: their names.
        adversary: their strength.
        model: what the attacker differentiates or asks.
        sample: the images under attack.
        judge: the model that an image must fool; by default ``model``.
        remember: keeps the finding of every unit of images, see :class:`ppvit.evasion.progress.Progress`.

    Returns:
        ``clean`` and every attack: which images withstand it and all before it, bool (n,).
    """
    judge = judge or model
    standing = from_main(classified_correctly(judge, sample.images, sample.labels))
    rank, world = join()
    found = {"clean": standing}
    for attack in attacks:
        standing = standing.copy()
        left = np.flatnonzero(standing)
        units = [left[start : start + UNIT] for start in range(0, len(left), UNIT)]
        # the other attacks draw for all images together, so that a unit has to stay alone
        together = units_at_once(model, sample.images) if attack == "pgd" else 1
        find = partial(_withstood, attack, adversary, model, judge, sample)
        withstood = _Ahead(find, units[rank::world], together)  # those that this process gets to find out
        finds: Finds = {f"{attack} {n * UNIT}": partial(withstood, n // world) for n in range(len(units))}
        for chosen, findings in zip(units, remember(finds), strict=True):
            standing[chosen] = findings
        found[attack] = standing
    return found


def _withstood(
    attack: str, adversary: Adversary, model: nn.Module, judge: nn.Module, sample: Sample, chosen: np.ndarray
) -> list[bool]:
    images, labels = sample.images[chosen], sample.labels[chosen]
    device = _device(model)
    moved = adversary.perturb(attack, model, images.to(device), labels.to(device))
    return [bool(right) for right in classified_correctly(judge, moved, labels)]


class _Ahead:
    """What was found of a unit of images; those after it are attacked with it, as far as they fit."""

    def __init__(self, find: Callable[[np.ndarray], list[bool]], units: list[np.ndarray], together: int) -> None:
        self._find, self._units, self._together = find, units, together
        self._found: dict[int, list[bool]] = {}

    def __call__(self, number: int) -> list[bool]:
        if number not in self._found:
            units = self._units[number : number + self._together]
            right = iter(self._find(np.concatenate(units)))
            self._found = {number + place: [next(right) for _ in unit] for place, unit in enumerate(units)}
        return self._found[number]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
