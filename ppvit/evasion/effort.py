"""How many images and steps `robustness` and `threats` take where that is ``auto``, and what they will take.

What is counted are forward passes of the model; a gradient step takes two. Attacks work on the images that those before
them left, which nobody knows beforehand, so a usual share is assumed: hardly any image withstands PGD unless the model
was trained to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ppvit.config import Robustness, Threats
from ppvit.core.effort import SHARES, budget, estimate
from ppvit.evasion.autoattack import APGD_STEPS, SQUARE_QUERIES, TARGETS
from ppvit.evasion.verdicts import PUBLISHED_IMAGES, attack_names

WITHSTAND = {False: 1 / 16, True: 1 / 2}  # share of the images that PGD leaves, by whether training was adversarial
_WAYS = 3  # numbers of steps that masking is looked for with: a quarter, all, twice as many


@dataclass(frozen=True)
class Effort:
    """Sizes of a measurement.

    Attributes:
        images: under attack.
        steps: of PGD.
        attack: ``pgd``, ``quick`` or ``full``.
        queries, surrogate_images: as of section ``threats``.
        apgd_steps: of APGD, 100 as published unless everything is small.
    """

    images: int
    steps: int
    attack: str
    queries: int = 100
    surrogate_images: int = 300

    @property
    def apgd_steps(self) -> int:
        return APGD_STEPS if self.attack == "full" else min(APGD_STEPS, 5 * self.steps)

    def settings(self, asked: Robustness) -> Robustness:
        """The section with these numbers in place of ``auto``; few steps are longer, 2.5 epsilon together (Madry)."""
        step = asked.step_size
        if asked.steps == "auto":
            step = max(step, 2.5 * asked.epsilon / self.steps)
        numbers = {"images": self.images, "steps": self.steps, "attack": self.attack, "step_size": step}
        return asked.model_copy(update=numbers)

    def within(self, available: int) -> Effort:
        """With no more images than there are."""
        return replace(self, images=min(self.images, available))

    def cascade(self, classes: int, withstand: float) -> float:
        """Passes of an image under one attack after the other."""
        targets, iterations = min(TARGETS, classes - 1), self.apgd_steps
        passes = {
            "pgd": 2 * self.steps,
            "apgd-ce": 2 * iterations,
            "apgd-t": 2 * iterations * targets,
            "fab": (1 + classes) * iterations,
            "fab-t": 3 * iterations * targets,
            "square": SQUARE_QUERIES,
        }
        first, *others = attack_names(self.attack, classes)
        return passes[first] + withstand * sum(passes[each] for each in others)

    def robustness(self, classes: int, withstand: float, epsilons: int) -> float:
        """Passes of all that `robustness` does."""
        return self.images * (1 + self.cascade(classes, withstand) + self._curves(epsilons))

    def threats(self, classes: int, withstand: float, surrogates: int, known: int, epsilons: int = 0) -> float:
        """Passes of all that `threats` does.

        Args:
            classes: C.
            withstand: share of the images.
            surrogates: of section ``threats``.
            known: training images.
            epsilons: of the curve, where the checks of `robustness` are made here.
        """
        transfer = surrogates * (2 + 2 * self.steps)
        each = 2 * self.cascade(classes, withstand) + transfer + self.queries + 2 * self.steps
        each += self._curves(epsilons) if epsilons else 0
        return self.images * each + surrogates * min(known, self.surrogate_images)

    def _curves(self, epsilons: int) -> float:
        """Passes of an image for accuracy against epsilon and against steps; what both repeat is found once."""
        return (epsilons + _WAYS) + 2 * self.steps * (epsilons - 1 + 1 / 4 + 2)


# from the most that `auto` takes, which is a first look, down to the least that says anything
_ROBUSTNESS = ((32, 20), (24, 20), (16, 20), (16, 10), (12, 10), (8, 10), (8, 5), (6, 5), (4, 5))
_THREATS = (
    *((16, 20, 100, 300), (12, 20, 100, 200), (8, 20, 100, 100), (8, 10, 50, 100), (6, 10, 50, 64)),
    *((4, 10, 50, 64), (4, 5, 20, 32), (4, 5, 10, 16)),
)


def robustness_efforts(settings: Robustness) -> list[Effort]:
    """Efforts that these parameters leave open, the largest first; one where nothing is ``auto``."""
    if settings.attack == "full" or settings.images != "auto":  # to publish, or as somebody asked
        return [_fixed(Effort(PUBLISHED_IMAGES, _ROBUSTNESS[0][1], settings.attack), settings)]
    return _ladder([_fixed(Effort(*rung, settings.attack), settings) for rung in _ROBUSTNESS], settings)


def threats_efforts(settings: Robustness, threats: Threats) -> list[Effort]:
    """The same for `threats`."""
    images, queries, known = threats.images, threats.queries, threats.surrogate_images

    def asked(effort: Effort) -> Effort:
        effort = _fixed(effort, settings.model_copy(update={"images": images}))
        effort = effort if queries == "auto" else replace(effort, queries=queries)
        return effort if known == "auto" else replace(effort, surrogate_images=known)

    _, steps, usual, learned = _THREATS[0]
    if settings.attack == "full":
        return [asked(Effort(PUBLISHED_IMAGES, steps, settings.attack, SQUARE_QUERIES, learned))]
    if images != "auto":
        return [asked(Effort(images, steps, settings.attack, usual, learned))]
    rungs = [Effort(count, taken, settings.attack, *others) for count, taken, *others in _THREATS]
    return _ladder([asked(rung) for rung in rungs], settings)


def _ladder(efforts: list[Effort], settings: Robustness) -> list[Effort]:
    """With PGD alone as the last step, where more was asked for."""
    return efforts if settings.attack == "pgd" else [*efforts, replace(efforts[-1], attack="pgd")]


def _fixed(effort: Effort, settings: Robustness) -> Effort:
    """With what was asked for in place; steps always reach epsilon."""
    reach = math.ceil(settings.epsilon / settings.step_size)
    steps = max(effort.steps, reach) if settings.steps == "auto" else settings.steps
    return replace(effort, steps=steps, images=effort.images if settings.images == "auto" else settings.images)


@dataclass(frozen=True)
class Chosen:
    """An effort and what it takes.

    Attributes:
        effort: the largest that fits; where training was so short that none does, the smallest.
        operations: that it takes.
        fits: whether it takes no more than its share of training.
    """

    effort: Effort
    operations: float
    fits: bool


def chosen_effort(stage: str, efforts: dict[Effort, float], training: float | None) -> Chosen:
    """The largest effort within the budget; the smallest, however large the model, that training outweighs.

    Args:
        stage: ``robustness`` or ``threats``.
        efforts: and the operations of each, the largest first.
        training: operations of the training, where they are known.
    """
    if len(efforts) == 1:
        ((effort, operations),) = efforts.items()
        return Chosen(effort, operations, True)
    most = budget(stage, training)
    for effort, operations in efforts.items():
        if operations <= most:
            return Chosen(effort, operations, True)
    return Chosen(effort, operations, training is None or operations <= SHARES[stage] * training)


def told(stage: str, chosen: Chosen, seconds: float, training: float | None, automatic: bool) -> str:
    """The line that is printed before work begins.

    Args:
        stage: ``robustness`` or ``threats``.
        chosen: the effort.
        seconds: that it will take here.
        training: operations of the training, where they are known.
        automatic: whether any of it was ``auto``.
    """
    effort = chosen.effort
    queries = f", {effort.queries:,} queries" if stage == "threats" else ""
    line = f"{stage}: {effort.images:,} images, {effort.steps} steps of PGD, attack {effort.attack}{queries}"
    line += f": {estimate(chosen.operations, training, seconds)}"
    if not automatic or effort.attack == "full":
        return line
    return f"{line}; auto chose a first look, figures to publish: -S robustness.attack=full"


def refusal(stage: str, chosen: Chosen) -> str:
    """Why nothing is attacked where :attr:`Chosen.fits` is false."""
    return (
        f"training was so short that attacks on {chosen.effort.images} images would take longer, and a model that is "
        f"hardly trained withstands nothing; train longer (finetune.epochs), or set {stage}.images to attack it"
    )
