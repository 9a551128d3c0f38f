"""What an augmentation of ciphertext is: how it draws, what it does, and what must hold of the cipher.

E is a cipher under one key and u = x / 127.5 - 1 a plain image as models take it. An augmentation commutes with E where
``E(aug(u)) = aug'(E(u))`` with an aug' that needs no key. Training the adapted model on aug'(E(u)) is then training the
plain model on aug(u). Which augmentations commute follows from a few facts about the cipher, which manifests of shards
say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ppvit.config import Augment
from ppvit.core.registry import Registry

AUGMENTATIONS: Registry[type[Augmentation]] = Registry("ppvit.training.augmentation", "augment.names")
"""All augmentations by name. One more is a file in this folder under ``@AUGMENTATIONS.register()``."""

FACTS = {
    "linear": "it is not linear in pixel values",
    "permutes": "it does more than move values to other places",
    "keeps_blocks": "what becomes of a block depends on more than that block",
    "one_key": "every image has a key of its own",
}
"""Facts that an augmentation may need, :attr:`ppvit.ciphers.Cipher.facts`, and what is so where one does not hold."""


class Augmentation(ABC):
    """A random change of training images, as the model takes them, and of what they should be taken for.

    Args:
        settings: the section ``augment``.
        blocks: N, of an image.

    Attributes:
        reads: parameters of the section that this augmentation reads.
        needs: facts that must hold of the cipher; no others are needed.
        pairs: whether it mixes every image with its neighbour in the order of the epoch, and the targets with them.
        by_block: whether what is drawn is of the blocks, (images, N): a key that moves blocks moves it along.
        keeps_range: whether pixels stay between black and white, as an attack against training takes for granted.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    pairs: ClassVar[bool] = False
    by_block: ClassVar[bool] = False
    keeps_range: ClassVar[bool] = True

    def __init__(self, settings: Augment, blocks: int) -> None:
        self.settings, self.blocks = settings, blocks

    @abstractmethod
    def draw(self, random: np.random.Generator, images: int) -> np.ndarray:
        """What is drawn for so many images, (images, ...)."""

    @abstractmethod
    def apply(self, inputs: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Change a batch.

        Args:
            inputs: u, (n, 3, H, W), or tokens (n, N, T).
            targets: class numbers, int64 (n,), or probabilities, float (n, C); the latter where anything mixes images.
            drawn: rows of :meth:`draw`, one an image; where ``pairs``, neighbours have the same.

        Returns:
            The changed inputs and targets, of the same shapes.
        """

    def attach(self, model: nn.Module) -> None:  # noqa: B027 - most change images alone
        """Prepare a timm model, for what happens inside of it.

        Raises:
            UsageError: the model has not what is needed.
        """

    def detach(self) -> None:  # noqa: B027
        """Put the model back as it was."""


def lacking(augmentation: type[Augmentation], facts: dict[str, Any]) -> list[str]:
    """Names of the facts that an augmentation needs and that do not hold; it commutes with a cipher that lacks none."""
    return [fact for fact in augmentation.needs if not facts[fact]]


def partners(values: Tensor) -> Tensor:
    """Neighbours exchanged, 0 with 1, 2 with 3; the last of an odd number stays alone: (n, ...) to the same."""
    numbers = torch.arange(len(values), device=values.device) ^ 1
    return values[numbers.clamp_max(len(values) - 1)]


def per_image(numbers: Tensor, values: Tensor) -> Tensor:
    """One number an image, (n,), in the type of ``values`` and so that it multiplies them, (n, 1, ...)."""
    return numbers.to(values).view(-1, *(1,) * (values.ndim - 1))


def random_sets(random: np.random.Generator, sizes: np.ndarray, members: int) -> np.ndarray:
    """Uniformly random sets, bool (n, members), of the sizes (n,)."""
    ranks = random.random((len(sizes), members)).argsort(axis=1)
    return np.asarray(ranks < sizes[:, None])


def of_pixels(blocks: Tensor, images: Tensor) -> Tensor:
    """Blocks, bool (n, N) in row-major order, as the pixels in them: bool (n, 1, H, W)."""
    side = round(blocks.shape[1] ** 0.5)
    pixels = images.shape[-1] // side
    square = blocks.view(-1, 1, side, side)
    return square.repeat_interleave(pixels, 2).repeat_interleave(pixels, 3)
