"""Balls around an image in which an attacker may move it, cut with the box of valid pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
GREY_LEVEL = 1 / 127.5  # one grey level in the model's input, see ppvit.models.model_input
TOLERANCE = 1e-5  # what float32 may add to a distance in the model's input; 0.001 grey levels


@dataclass(frozen=True)
class Ball:
    """All inputs within ``epsilon`` of a given one, and in [-1, 1].

    Attributes:
        norm: ``linf``, the largest difference of any value; ``l2``, the Euclidean norm over all values of an image.
        epsilon: radius in units of the model's input, where black is -1 and white is 1.
        box: whether values stay in [-1, 1]; False where valid images do not fill an axis-parallel box, as under an
            orthogonal matrix. The attacker is then stronger than one who must send valid pixels.

    Inputs are (n, ...), float32 or float64; the first dimension counts images.
    """

    norm: Norm
    epsilon: float
    box: bool = True

    @classmethod
    def of_grey_levels(cls, norm: Norm, epsilon: float, box: bool = True) -> Ball:
        """A ball whose radius is given on the scale of 0..255: 8 is the customary Linf 8/255, 128 about L2 0.5."""
        return cls(norm, epsilon * GREY_LEVEL, box)

    def project(self, images: Tensor, origin: Tensor) -> Tensor:
        """Bring ``images`` into the ball around ``origin``, then into the box.

        The box never leads out of the ball, because ``origin`` lies in it. In L2 the result is in both, though not
        their nearest point.
        """
        difference = images - origin
        if self.norm == "linf":
            difference = difference.clamp(-self.epsilon, self.epsilon)
        else:
            length = _length(difference)
            difference = difference * (self.epsilon / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1.0)
        return self.into_box(origin + difference)

    def into_box(self, images: Tensor) -> Tensor:
        """Clip to valid pixels, where the ball has a box."""
        return images.clamp(-1.0, 1.0) if self.box else images

    def step(self, gradient: Tensor) -> Tensor:
        """The direction of length 1 in which a linear loss rises fastest: sign(g) for Linf, g / |g| for L2."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / _length(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)

    def draw(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Differences, uniform in the ball without its box, of the shape of ``images``."""
        device, dtype = images.device, images.dtype
        if self.norm == "linf":
            return (2 * torch.rand(images.shape, generator=generator, device=device, dtype=dtype) - 1) * self.epsilon
        direction = torch.randn(images.shape, generator=generator, device=device, dtype=dtype)
        shape = (len(images),) + (1,) * (images.ndim - 1)
        share = torch.rand(shape, generator=generator, device=device, dtype=dtype) ** (1 / images[0].numel())
        return self.epsilon * share * self.step(direction)

    def random_start(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Points drawn in the balls around ``images``, clipped to the box."""
        return self.project(images + self.draw(images, generator), images)

    @property
    def tolerance(self) -> float:
        """How far outside of the ball rounding in float32 may leave an image; relative to a radius beyond 1."""
        return TOLERANCE * max(1.0, self.epsilon)

    def radius(self, images: Tensor, origin: Tensor) -> Tensor:
        """Distance of every image from its origin, (n,), in float64."""
        difference = (images.double() - origin.double()).flatten(1)
        return difference.abs().amax(1) if self.norm == "linf" else torch.linalg.vector_norm(difference, dim=1)


def _length(differences: Tensor) -> Tensor:
    """Euclidean norm of every image, (n, 1, ...), so that it divides the images.

    Summed in float64: over the values of an image of 384 px, float32 is off by more than a ball may be exceeded.
    """
    length: Tensor = torch.linalg.vector_norm(differences.flatten(1), dim=1, dtype=torch.float64)
    return length.to(differences.dtype).reshape((-1,) + (1,) * (differences.ndim - 1))
