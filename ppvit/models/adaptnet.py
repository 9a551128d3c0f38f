"""AdaptNets: learned layers in front of a network that bring scrambled blocks of pixels into a form it can use.

Sources: Tanaka, "Learnable image encryption", 2018 (one sub-network for all blocks); Madono, Tanaka, Onishi and Ogawa,
"Block-wise scrambled image recognition using adaptation network", arXiv 2001.07761 (one for every block, and a learned
matrix for their order). Details second-hand, as our specification of baselines quotes the authors' code. Theirs is for
blocks of 4 x 4 pixels and 256 features; for other blocks we take 16 p^2 features, which are 256 there.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppvit.core.errors import PpvitError, UsageError
from ppvit.models.adaptive import Penalised, l12

Kind = Literal["le", "ele"]

CHANNELS = 16  # of the picture that an AdaptNet makes
_POWER_EPSILON = 1e-12  # of torch's spectral norm
_START_ITERATIONS = 15  # of the power method before training, as in torch


class AdaptNet(Penalised):
    """What both have in common: (n, 3, H, W) to (n, 16, H, W), block by block.

    Args:
        block_size: p, the side of a block in pixels.
        blocks: N, of an image.

    Raises:
        ValueError: so many blocks are no square.
    """

    kind: Kind

    def __init__(self, block_size: int, blocks: int) -> None:
        super().__init__()
        if math.isqrt(blocks) ** 2 != blocks:
            raise ValueError(f"{blocks} blocks are no square")
        self.block_size, self.blocks = block_size, blocks
        self.features = CHANNELS * block_size**2

    def _cut(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) to (n, N, 3 p^2), blocks in row-major order, each flattened as C, h, w."""
        side = math.isqrt(self.blocks) * self.block_size
        if images.shape[2:] != (side, side):
            raise PpvitError(
                f"the model's AdaptNet is for images of {side} pixels, these have {images.shape[-1]}; make it again: "
                "dvc repro --force adapt"
            )
        return functional.unfold(images, self.block_size, stride=self.block_size).transpose(1, 2)

    def _put_back(self, features: Tensor) -> Tensor:
        """(n, N, F) to (n, 16, H, W): pixel shuffle, every block at its place."""
        side = math.isqrt(self.blocks)
        maps = features.transpose(1, 2).reshape(len(features), self.features, side, side)
        return functional.pixel_shuffle(maps, self.block_size)

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}, blocks={self.blocks}"


class LeAdaptNet(AdaptNet):
    """One sub-network for all blocks: p x p convolution without bias, BN, LeakyReLU of slope 0.1.

    BN sees one block position of the batch at a time, as in the original: statistics differ by position in training,
    and the running ones move N times in a forward pass.
    """

    kind = "le"

    def __init__(self, block_size: int, blocks: int) -> None:
        super().__init__(block_size, blocks)
        self.weight = nn.Parameter(torch.empty(self.features, 3 * block_size**2))  # no layer that adapters attach to
        _start(self.weight)
        self.bn = nn.BatchNorm1d(self.features)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) to (n, 16, H, W)."""
        each = functional.linear(self._cut(images), self.weight).unbind(1)
        features = torch.stack([normalized(self.bn, block) for block in each], 1)
        return self._put_back(functional.leaky_relu(features, 0.1))


class EleAdaptNet(AdaptNet):
    """A sub-network for every block, and a learned matrix over the blocks: what Madono et al. made for `ele`.

    A sub-network: p x p convolution without bias under spectral norm, BN of its own, LeakyReLU of slope 0.2. The
    features (F, N) are multiplied by U (N, N) on the right. ``penalties`` has

    - ``permutation``: ``(1 / N^2) (sum over rows of |u|_1 - |u|_2, and the same over columns)``, zero where every row
      and column of U has one entry or none;
    - ``smoothness``: squared forward differences of the first three of the 16 channels, summed and divided by
      16 (H - 1) W and by n.

    U starts Kaiming-uniform, +-1 / sqrt(N), and nothing keeps it from shrinking.
    """

    kind = "ele"
    terms = ("permutation", "smoothness")
    left: Tensor
    right: Tensor

    def __init__(self, block_size: int, blocks: int) -> None:
        super().__init__(block_size, blocks)
        values = 3 * block_size**2
        self.weight = nn.Parameter(torch.empty(blocks, self.features, values))
        _start(self.weight)
        self.register_buffer("left", functional.normalize(torch.randn(blocks, self.features), dim=1))
        self.register_buffer("right", functional.normalize(torch.randn(blocks, values), dim=1))
        self.bn = nn.BatchNorm1d(blocks * self.features)
        self.matrix = nn.Parameter(torch.empty(blocks, blocks).uniform_(-1, 1) / math.sqrt(blocks))
        self._iterate(_START_ITERATIONS)

    @torch.no_grad()
    def _iterate(self, times: int) -> None:
        """The power method, for the largest singular value of every sub-network's weights."""
        for _ in range(times):
            left = (self.weight * self.right[:, None]).sum(2)  # no product that autocast would round
            self.left.copy_(functional.normalize(left, dim=1, eps=_POWER_EPSILON))
            right = (self.weight * self.left[:, :, None]).sum(1)
            self.right.copy_(functional.normalize(right, dim=1, eps=_POWER_EPSILON))

    def normalized_weight(self) -> Tensor:
        """Weights (N, F, 3 p^2) over their largest singular values (Miyato et al., arXiv 1802.05957, Eq. 8)."""
        outer = self.left[:, :, None] * self.right[:, None]
        norms = (self.weight * outer).sum((1, 2))
        return self.weight / norms[:, None, None]

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) to (n, 16, H, W)."""
        if self.training and self.weight.requires_grad:  # frozen ones keep their norms
            self._iterate(1)
        features = torch.einsum("btv,tfv->btf", self._cut(images), self.normalized_weight())
        features = normalized(self.bn, features.flatten(1)).view_as(features)
        features = functional.leaky_relu(features, 0.2)
        picture = self._put_back(torch.einsum("btf,ts->bsf", features, self.matrix))
        if self.asked:
            self.penalties = {"permutation": l12(self.matrix), "smoothness": smoothness(picture)}
        return picture

    def order(self) -> Tensor:
        return self.matrix


def _start(weight: Tensor) -> None:
    """As torch starts convolutions: uniform, +-1 / sqrt(inputs)."""
    bound = 1 / math.sqrt(weight.shape[-1])
    nn.init.uniform_(weight, -bound, bound)


def smoothness(picture: Tensor) -> Tensor:
    """``L_s`` of (n, C, H, W), see :class:`EleAdaptNet`; float32."""
    count, channels, height, width = picture.shape
    seen = picture[:, :3].float()
    down = (seen[:, :, 1:, :-1] - seen[:, :, :-1, :-1]).square().sum()
    across = (seen[:, :, :-1, 1:] - seen[:, :, :-1, :-1]).square().sum()
    return (down + across) / ((height - 1) * width * channels * count)


def normalized(bn: nn.BatchNorm1d, features: Tensor) -> Tensor:
    """``bn(features)``; a batch of one image has no statistics, so that in training the running ones stand in."""
    if bn.training and len(features) == 1:
        return functional.batch_norm(features, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps)
    return cast(Tensor, bn(features))


def make_adaptnet(kind: Kind, block_size: int, blocks: int) -> AdaptNet:
    """An AdaptNet with weights of its own."""
    return LeAdaptNet(block_size, blocks) if kind == "le" else EleAdaptNet(block_size, blocks)


def add_adaptnet(model: nn.Module, kind: Kind, block_size: int, blocks: int) -> None:
    """Put an AdaptNet in front of the first convolution, which is made anew for 16 channels.

    Args:
        model: a PyramidNet, or a ResNet whose first layer is one convolution; changed in place.
        kind, block_size, blocks: see :class:`AdaptNet`.

    Raises:
        UsageError: it is another network.
    """
    first = getattr(model, "conv1", None)
    if not isinstance(first, nn.Conv2d):
        raise UsageError(
            f"model.adaptnet is for PyramidNets and ResNets, {type(model).__name__} is none; set it to none or choose "
            "model.name=pyramidnet_<depth>_<alpha>"
        )
    size, stride, padding = cast(Any, (first.kernel_size, first.stride, first.padding))
    second = nn.Conv2d(CHANNELS, first.out_channels, size, stride, padding, bias=first.bias is not None)
    second.to(first.weight)
    nn.init.kaiming_normal_(second.weight, mode="fan_out", nonlinearity="relu")
    front = make_adaptnet(kind, block_size, blocks).to(first.weight)
    model.conv1 = nn.Sequential(front, second).train(model.training)  # in training ELE's norms move with every pass


def adaptnet_of(model: nn.Module) -> AdaptNet | None:
    """The AdaptNet of a model, if it has one."""
    return next((module for module in model.modules() if isinstance(module, AdaptNet)), None)
