"""Two or more batch normalisations in the place of one, for images of different distributions.

Sources: Xie et al., "Adversarial examples improve image recognition", arXiv 1911.09665 (AdvProp); ACL, Jiang et al.,
arXiv 2010.13337, with one for clean and one for adversarial images; TWINS, Liu et al., arXiv 2303.11135, with one of
frozen and one of adaptive statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class PairedNorm(nn.Module):
    """Batch normalisations by name, of which one computes.

    Args:
        norm: the one whose place they take, and of which all start as copies.
        names: of theirs.

    Attributes:
        active: the name of the one that computes.
    """

    def __init__(self, norm: _BatchNorm, names: tuple[str, ...]) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({name: copy.deepcopy(norm) for name in names})
        self.active = names[0]

    def forward(self, features: Tensor) -> Tensor:
        normalized: Tensor = self.norms[self.active](features)
        return normalized


def pair_norms(model: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """Put a :class:`PairedNorm` in the place of every batch normalisation of a model; the first name is active."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(module, nn.ModuleDict):
                setattr(module, name, PairedNorm(child, names))
    return model


def keep_norm(model: nn.Module, kept: str) -> nn.Module:
    """Undo :func:`pair_norms`: of every pair the normalisation of this name stays."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, PairedNorm):
                setattr(module, name, child.norms[kept])
    return model


@contextmanager
def through(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """While this lasts, the normalisations of this name compute."""
    pairs = [module for module in model.modules() if isinstance(module, PairedNorm)]
    before = [pair.active for pair in pairs]
    for pair in pairs:
        pair.active = name
    try:
        yield model
    finally:
        for pair, active in zip(pairs, before, strict=True):
            pair.active = active
