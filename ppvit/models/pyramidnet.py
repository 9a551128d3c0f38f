"""PyramidNets with ShakeDrop for images of 32 pixels: the network behind LE and ELE in the published tables.

Sources: Han, Kim and Kim, "Deep pyramidal residual networks", arXiv 1610.02915 (basic blocks, additive widening);
Yamada et al., "ShakeDrop regularization for deep residual learning", arXiv 1802.02375; details such as the bias of the
stem, second-hand, as our specification of baselines quotes the code of Madono et al., arXiv 2001.07761. timm has no
such network. It is registered with timm wherever ``ppvit.models`` is imported; no weights come with it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["PyramidNet", "ShakeDrop"]  # timm adds the model's name

_STEM = 16  # channels behind the first convolution
_STAGES = 3

default_cfgs = generate_default_cfgs(
    {
        "pyramidnet": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "mean": (0.0, 0.0, 0.0),  # pixels in [0, 1] as they are, as in Madono's code
            "std": (1.0, 1.0, 1.0),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


class ShakeDrop(nn.Module):
    """Disturb a branch in training: ``x`` with probability 1 - p, else ``a x`` forwards and ``b g`` backwards.

    Source: Yamada et al., Eq. 5 and 6, with a uniform in [-1, 1] and b in [0, 1], drawn for every image, and one choice
    between the two for the whole batch. Evaluation gives the expected value, (1 - p) x.

    Attributes:
        probability: p.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, features: Tensor) -> Tensor:
        """(n, C, h, w) to the same."""
        if self.probability == 0:
            return features
        if not self.training:
            return (1 - self.probability) * features
        if torch.rand(()).item() >= self.probability:  # drawn on the CPU: a GPU need not be waited for
            return features
        shape = (len(features), 1, 1, 1)
        forwards, backwards = (torch.rand(shape, device=features.device, dtype=features.dtype) for _ in range(2))
        shaken: Tensor = _Shake.apply(features, 2 * forwards - 1, backwards)
        return shaken

    def extra_repr(self) -> str:
        return f"{self.probability:g}"


class _Shake(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, forwards: Tensor, backwards: Tensor) -> Tensor:
        ctx.save_for_backward(backwards)
        return features * forwards

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (backwards,) = ctx.saved_tensors
        return gradient * backwards, None, None


class PyramidUnit(nn.Module):
    """BN, 3 x 3, BN, ReLU, 3 x 3, BN beside a shortcut, whose new channels are zeros.

    Args:
        inputs, outputs: channels.
        stride: 2 halves the map, rounding up; the shortcut then averages 2 x 2.
        shake_drop: p of its branch.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shake_drop: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shake = ShakeDrop(shake_drop)
        self.shortcut = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.added = outputs - inputs

    def forward(self, features: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        branch = self.conv2(functional.relu(self.bn2(self.conv1(self.bn1(features)))))
        passed = functional.pad(self.shortcut(features), (0, 0, 0, 0, 0, self.added))
        shaken: Tensor = self.shake(self.bn3(branch)) + passed
        return shaken


class PyramidNet(nn.Module):
    """A PyramidNet of basic blocks, with the interface of timm's networks.

    Unit i of n has 16 + ceil(alpha i / n) channels, i from 1.

    Args:
        depth: 6 k + 2 convolutions and linear layers: k units in each of three stages.
        alpha: channels that are added over all units.
        shake_drop: p of the last unit; that of unit i is i / n of it.
        num_classes: 0 for no head.

    Raises:
        AssertionError: ``depth`` is not 6 k + 2.
    """

    def __init__(
        self, depth: int = 110, alpha: int = 270, shake_drop: float = 0.5, num_classes: int = 10, in_chans: int = 3
    ) -> None:
        super().__init__()
        assert depth in range(8, 2**16, 6), f"depth {depth} is not 6 k + 2, such as 20 or 110"
        units = (depth - 2) // 2
        widths = [_STEM + math.ceil(alpha * unit / units) for unit in range(units + 1)]
        self.num_classes, self.num_features = num_classes, widths[-1]
        self.head_hidden_size = self.num_features
        self.conv1: nn.Module = nn.Conv2d(in_chans, _STEM, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.stages = nn.Sequential()
        for first in range(0, units, units // _STAGES):
            stage = nn.Sequential()
            for unit in range(first, first + units // _STAGES):
                stride = 2 if unit == first > 0 else 1
                stage.append(PyramidUnit(widths[unit], widths[unit + 1], stride, shake_drop * (unit + 1) / units))
            self.stages.append(stage)
        self.bn2 = nn.BatchNorm2d(self.num_features)
        self.fc: nn.Module = nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head of ``num_classes``, its bias zero; pooling is always the mean."""
        self.num_classes = num_classes
        first = self.bn1.weight
        self.fc = nn.Linear(self.num_features, num_classes).to(first) if num_classes else nn.Identity()
        if isinstance(self.fc, nn.Linear):
            nn.init.zeros_(self.fc.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) to (n, num_features, H / 4, W / 4)."""
        features: Tensor = functional.relu(self.bn2(self.stages(self.bn1(self.conv1(images)))))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits (n, num_classes), or to their means over the map."""
        means = features.mean((2, 3))
        logits: Tensor = means if pre_logits else self.fc(means)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) to logits (n, num_classes)."""
        return self.forward_head(self.forward_features(images))


@register_model
def pyramidnet(pretrained: bool = False, **arguments: Any) -> PyramidNet:
    """A PyramidNet of any depth and alpha; ``model.name`` pyramidnet_110_270 means depth 110, alpha 270."""
    return build_model_with_cfg(PyramidNet, "pyramidnet", pretrained, **arguments)
