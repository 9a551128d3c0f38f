"""How long the audit's inverse network trains where ``audit.training_steps`` is ``auto``, and what that takes.

It is the one attack whose cost is a matter of choice; the others take seconds, or what they need.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ppvit.audit.attacks.inverse_network import PIXELS_AT_ONCE, WIDTH, Refine, fold_of, pairs_of_step, pairs_to_solve
from ppvit.audit.solvers.linear_inverse import RIDGES
from ppvit.core.device import device
from ppvit.core.effort import budget, estimate
from ppvit.core.results import Stopwatch

STEPS = (100, 50, 25, 10, 5)  # a first look, and less where training was short


@dataclass(frozen=True)
class Geometry:
    """Of the images.

    Attributes:
        image_size, block_size: sides in pixels.
    """

    image_size: int
    block_size: int

    def step(self) -> float:
        """Operations of a step of both networks, the one from pairs and the one without."""
        generator, linear = self._refine(), self._linear()
        unpaired = max(2, PIXELS_AT_ONCE // self.image_size**2)
        passes = pairs_of_step(self.image_size) * (3 * generator + linear)  # its linear part is not trained
        return passes + unpaired * 3 * (generator + linear + 3 * self._critic())

    def operations(self, steps: int) -> float:
        """Operations of the attack with that many steps."""
        return self.solve(steps) + steps * self.step()

    def solve(self, steps: int) -> float:
        """Operations of solving for the linear part where it is one for all blocks: twice, with and without mixing."""
        (blocks, width), pairs = self._blocks(), pairs_to_solve(self.image_size, steps)
        values, fitted = width // 2, pairs * 3 // 4
        equations = 2.0 * fitted * blocks * width * (width + values)
        tried = 2 / 3 * width**3 + 2.0 * width**2 * values + 2.0 * (pairs - fitted) * blocks * width * values
        return 2 * (2.0 * pairs * blocks**2 * width + equations + len(RIDGES) * tried)

    def _blocks(self) -> tuple[int, int]:
        """N, and the numbers of a block as its two nibbles."""
        return (self.image_size // self.block_size) ** 2, 2 * 3 * self.block_size**2

    def _linear(self) -> float:
        blocks, width = self._blocks()
        return 2.0 * blocks * width * (blocks + width // 2)

    def _refine(self) -> float:
        fold = fold_of(self.image_size)
        side, squared, width = self.image_size // fold, fold**2, WIDTH if fold == 1 else 2 * WIDTH
        return 2.0 * 9 * side**2 * (9 * squared * width + 4 * width**2 + 3 * squared * width)

    def _critic(self) -> float:
        fold = fold_of(self.image_size)
        side, channels, operations = self.image_size // fold, 3 * fold**2, 0.0
        for width in (WIDTH, 2 * WIDTH, 2 * WIDTH):
            side //= 2
            operations += 2.0 * 16 * side**2 * channels * width
            channels = width
        return operations

    def speed(self) -> float:
        """Operations a second of this network here; the first pass is not counted."""
        network = Refine(self.image_size).to(device())
        images = torch.zeros((pairs_of_step(self.image_size), 3, self.image_size, self.image_size), device=device())
        encrypted = images.permute(0, 2, 3, 1)
        with torch.no_grad():
            network(images[:1], encrypted[:1]).cpu()
            watch = Stopwatch()
            network(images, encrypted).cpu()
        return len(images) * self._refine() / watch.seconds()


def chosen_steps(geometry: Geometry, training: float) -> int:
    """The most steps within the audit's share of ``training``, in operations; never less than a few."""
    most = budget("audit", training)
    return next((steps for steps in STEPS if geometry.operations(steps) <= most), STEPS[-1])


def told(steps: int, geometry: Geometry, training: float | None, automatic: bool) -> str:
    """The line that is printed before work begins."""
    operations = geometry.operations(steps)
    line = f"audit: {steps:,} training steps of the inverse network: "
    line += estimate(operations, training, operations / geometry.speed())
    return line + ("; auto chose a first look, to publish: -S audit.training_steps=1000" if automatic else "")
