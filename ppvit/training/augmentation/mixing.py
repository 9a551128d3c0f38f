"""Augmentations that make one image of two, and one target of theirs."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ppvit.training.augmentation.base import (
    AUGMENTATIONS,
    Augmentation,
    of_pixels,
    partners,
    per_image,
    random_sets,
)


@AUGMENTATIONS.register(place=1)
class Mixup(Augmentation):
    """Two images become their mixtures l a + (1 - l) b and l b + (1 - l) a, as do targets (arXiv 1710.09412).

    l is Beta(``mixup_alpha``, ``mixup_alpha``) distributed and drawn for every pair. What is mixed is u, in floating
    point: bytes would be rounded, under a signed cipher to the other side.

    Source: Zhang et al., "mixup: beyond empirical risk minimization".
    """

    name = "mixup"
    reads = ("mixup_alpha",)
    needs = ("linear", "one_key")
    pairs = True

    def draw(self, random: np.random.Generator, images: int) -> np.ndarray:
        """l, float64 (images,)."""
        return random.beta(self.settings.mixup_alpha, self.settings.mixup_alpha, images)

    def apply(self, inputs: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return _mixed(inputs, per_image(drawn, inputs)), _mixed(targets, per_image(drawn, targets))


@AUGMENTATIONS.register(place=1)
class CutmixBlocks(Augmentation):
    """Two images exchange a random set of whole blocks, and that share of their targets (after arXiv 1905.04899).

    The share that an image keeps is Beta(``cutmix_alpha``, ``cutmix_alpha``) distributed, rounded to whole blocks. The
    blocks are scattered, and no rectangle as in CutMix: a rectangle of ciphertext is a scattered set of plain blocks,
    and always one of the same few.

    Source: Yun et al., "CutMix".
    """

    name = "cutmix_blocks"
    reads = ("cutmix_alpha",)
    needs = ("keeps_blocks", "one_key")
    pairs = True
    by_block = True

    def draw(self, random: np.random.Generator, images: int) -> np.ndarray:
        """The blocks that come from the other image, bool (images, N)."""
        kept = random.beta(self.settings.cutmix_alpha, self.settings.cutmix_alpha, images)
        return random_sets(random, np.round((1 - kept) * self.blocks), self.blocks)

    def apply(self, inputs: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        kept = 1 - drawn.to(targets.dtype).mean(1)
        changed = partners(inputs).where(of_pixels(drawn, inputs), inputs)
        return changed, _mixed(targets, per_image(kept, targets))


def _mixed(values: Tensor, share: Tensor) -> Tensor:
    return share * values + (1 - share) * partners(values)
