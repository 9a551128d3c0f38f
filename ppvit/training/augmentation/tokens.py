"""Leaving patches out behind their embedding, where any cipher is only an order of tokens."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from ppvit.core.errors import UsageError
from ppvit.training.augmentation.base import AUGMENTATIONS, Augmentation, random_sets


class KeptTokens(nn.Module):
    """In place of timm's ``patch_drop``: in training only the kept patches go on, (n, P + N, D) to (n, P + k, D).

    timm's own draws from torch's global generator, so that processes would differ from one.

    Args:
        prefix: P, class token and others before the patches, which stay.
        indices: return the kept patches too, as EVA wants it for its rotary positions.

    Attributes:
        kept: numbers of the kept patches, int64 (n, k); None keeps all. A multiple of n images repeats them.
    """

    def __init__(self, prefix: int, indices: bool) -> None:
        super().__init__()
        self._prefix, self._indices = prefix, indices
        self.kept: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        kept = self.kept if self.training else None
        if kept is not None:
            kept = kept.repeat(len(tokens) // len(kept), 1)
            before, patches = tokens[:, : self._prefix], tokens[:, self._prefix :]
            left = patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))
            tokens = torch.cat([before, left], dim=1)
        return (tokens, kept) if self._indices else tokens


@AUGMENTATIONS.register(place=3)
class DropTokens(Augmentation):
    """The network sees a random share of the patches of every image (patch dropout, Liu et al., arXiv 2208.07220).

    Patches are left out behind the embedding and their positions, so it commutes with every cipher and needs a Vision
    Transformer. In evaluation, and for an attack against training, all are there.
    """

    name = "drop_tokens"
    reads = ("drop_fraction",)
    by_block = True

    def attach(self, model: nn.Module) -> None:
        if not isinstance(model, VisionTransformer | Eva):
            raise UsageError(
                f"augment.names: 'drop_tokens' leaves patches of a Vision Transformer out, and {type(model).__name__} "
                "is none whose patches can be left out; take it out of augment.names"
            )
        self._layer = KeptTokens(model.num_prefix_tokens, isinstance(model, Eva))
        self._model = cast(Any, model)
        self._before = self._model.patch_drop
        self._model.patch_drop = self._layer
        self.blocks = cast(int, self._model.patch_embed.num_patches)

    def detach(self) -> None:
        if self._before is None:  # in EVA, where torch would go on to list it among the modules
            del self._model.patch_drop
        self._model.patch_drop = self._before

    def draw(self, random: np.random.Generator, images: int) -> np.ndarray:
        """The patches that stay, bool (images, N), equally many of each image."""
        left = max(1, round((1 - self.settings.drop_fraction) * self.blocks))
        return random_sets(random, np.full(images, left), self.blocks)

    def apply(self, inputs: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        self._layer.kept = drawn.nonzero()[:, 1].view(len(drawn), -1)
        return inputs, targets
