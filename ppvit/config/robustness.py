"""Parameters of the attacks on accuracy: ``robustness`` at the trainer, ``threats`` at the owner."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ppvit.config.section import Auto, AutoOr, Section

AUTO_STEPS = 20  # the most that robustness.steps=auto takes


class Robustness(Section):
    """accuracy under adversarial perturbations of the images, measured by the trainer"""

    attack: Literal["pgd", "quick", "full"] = "quick"
    """pgd: PGD alone; quick: PGD, APGD-CE, APGD-T; full: AutoAttack, for figures to publish, takes far longer"""
    norm: Literal["linf", "l2"] = "linf"
    """how a perturbation is measured: linf, its largest value; l2, its Euclidean length over all pixels and colours"""
    epsilon: float = Field(8.0, gt=0, le=100_000)
    """largest perturbation, in grey levels (0..255) of the plain image, whatever the cipher; 128 is usual for l2"""
    step_size: float = Field(2.0, gt=0, le=100_000)
    """step of PGD in grey levels, a quarter of epsilon as a rule; the curve scales it with epsilon"""
    steps: Annotated[int | Auto, AutoOr(4, 10_000)] = "auto"
    """gradient steps of PGD, in the attack and in the curve; auto takes 20, or as images=auto, 5 at least"""
    epsilons: list[Annotated[float, Field(gt=0, le=100_000)]] = Field(
        [2.0, 4.0, 8.0, 16.0, 32.0], min_length=1, max_length=100
    )
    """sizes at which the curve of accuracy against epsilon is measured; the largest should leave nothing"""
    images: Annotated[int | Auto, AutoOr(1, 10_000_000)] = "auto"
    """test images that are attacked; auto: 32, fewer where that takes longer than training, 1000 with attack=full"""
    seed: int = Field(0, ge=0, lt=2**32)
    """decides which images are attacked, and the random starts"""

    @model_validator(mode="after")
    def _within_range(self) -> Robustness:
        largest = max(self.epsilons)
        for name, value in (("epsilon", self.epsilon), ("epsilons", largest)):
            if self.norm == "linf" and value > 255:
                raise ValueError(f"robustness.{name} {value:g} is beyond the 255 grey levels of a pixel; choose less")
        steps = AUTO_STEPS if self.steps == "auto" else self.steps
        if steps * self.step_size < self.epsilon:
            raise ValueError(
                f"robustness.step_size {self.step_size:g} is too short: {steps} steps of it do not reach "
                f"robustness.epsilon {self.epsilon:g}; set robustness.step_size={self.epsilon / 4:g}"
            )
        if largest < self.epsilon:
            wider = ",".join(f"{factor * self.epsilon:g}" for factor in (0.25, 0.5, 1, 2, 4))
            raise ValueError(
                f"robustness.epsilons end at {largest:g}, below robustness.epsilon {self.epsilon:g}; set "
                f"robustness.epsilons=[{wider}]"
            )
        return self


class Threats(Section):
    """robustness against attackers with and without the key, measured by the owner; uses section robustness too"""

    images: Annotated[int | Auto, AutoOr(1, 10_000_000)] = "auto"
    """test images that are attacked, in the order of robustness; auto: 16 or fewer, 1000 with robustness.attack=full"""
    surrogates: int = Field(3, ge=3, le=100)
    """models, at least 3, that the grey-box attacker makes under keys of his own, each with a head of its own"""
    surrogate_images: Annotated[int | Auto, AutoOr(1, 10_000_000)] = "auto"
    """plain training images that each surrogate learns from; auto takes 300, or fewer as images=auto"""
    queries: Annotated[int | Auto, AutoOr(1, 1_000_000)] = "auto"
    """how often the black-box attacker asks for the classes of an image; auto: 100 or fewer, 5000 with attack=full"""
    seed: int = Field(0, ge=0, lt=2**32)
    """decides which images the surrogates learn from"""
