"""Augmentations of single images, which leave their targets alone."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ppvit.training.augmentation.base import AUGMENTATIONS, Augmentation, of_pixels, per_image, random_sets


@AUGMENTATIONS.register(place=2)
class EraseBlocks(Augmentation):
    """A random set of whole blocks becomes mid-grey, u = 0 (after random erasing, Zhong et al., arXiv 1708.04896).

    So it is in a share ``erase_probability`` of the images; the number of blocks is uniform from 1 to
    ``erase_fraction`` of all. Mid-grey, 127.5, is no byte: 127 or 128 would be the other one where it is inverted.
    """

    name = "erase_blocks"
    reads = ("erase_fraction", "erase_probability")
    needs = ("linear", "keeps_blocks")
    by_block = True

    def draw(self, random: np.random.Generator, images: int) -> np.ndarray:
        """The blocks to erase, bool (images, N)."""
        most = max(1, round(self.settings.erase_fraction * self.blocks))
        chosen = random.random(images) < self.settings.erase_probability
        return random_sets(random, chosen * random.integers(1, most + 1, images), self.blocks)

    def apply(self, inputs: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.masked_fill(of_pixels(drawn, inputs), 0.0), targets


@AUGMENTATIONS.register(place=2)
class Contrast(Augmentation):
    """Distances from mid-grey are multiplied by a factor that is uniform from 1 - ``contrast`` to 1 + ``contrast``.

    Nothing is clipped, since a rotation does not keep the range: values may lie beyond black and white.
    """

    name = "contrast"
    reads = ("contrast",)
    needs = ("linear",)
    keeps_range = False

    def draw(self, random: np.random.Generator, images: int) -> np.ndarray:
        """Factors, float64 (images,)."""
        return random.uniform(1 - self.settings.contrast, 1 + self.settings.contrast, images)

    def apply(self, inputs: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return per_image(drawn, inputs) * inputs, targets


@AUGMENTATIONS.register(place=2)
class Brightness(Augmentation):
    """All values of an image are shifted alike, uniformly up to ``brightness`` of the range, and clipped to it."""

    name = "brightness"
    reads = ("brightness",)
    needs = ("permutes",)

    def draw(self, random: np.random.Generator, images: int) -> np.ndarray:
        """Shifts of u, whose range is 2 wide, float64 (images,)."""
        return random.uniform(-2 * self.settings.brightness, 2 * self.settings.brightness, images)

    def apply(self, inputs: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return (inputs + per_image(drawn, inputs)).clamp(-1.0, 1.0), targets
