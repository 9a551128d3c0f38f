"""ResNets for images of 32 pixels: timm has the network, but no stem that small images survive.

Source: He et al., "Deep residual learning for image recognition", arXiv 1512.03385; the stem for small images (a 3 x 3
convolution of stride 1, no pooling) as in Chen et al., arXiv 2002.05709, appendix B.9. Weights have torchvision's and
timm's names. They are registered with timm wherever ``ppvit.models`` is imported; no weights come with them.
"""

from __future__ import annotations

from typing import Any, cast

from timm.models import ResNet, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock
from torch import nn

__all__ = ["CifarResNet"]  # timm adds the models' names

SOLO_LEARN_PADDING = 2  # of the first convolution in solo-learn, whose feature maps are 34 px wide for images of 32

_COMMON = {"input_size": (3, 32, 32), "first_conv": "conv1", "classifier": "fc"}
_CIFAR10 = {"num_classes": 10, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
_CIFAR100 = {"num_classes": 100, "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}

default_cfgs = generate_default_cfgs(
    {
        f"{name}.{normalization}": _COMMON | values
        for name in ("resnet18_cifar", "resnet10_micro_cifar")
        for normalization, values in (("cifar10", _CIFAR10), ("cifar100", _CIFAR100))
    }
)


class CifarResNet(ResNet):
    """timm's ResNet with a 3 x 3 first convolution of stride 1 and without max-pooling: 32 px end as 4 x 4.

    Args:
        stem_padding: zeros around the image in front of the first convolution, a side.
        arguments: of ``timm.models.ResNet``; those of other stems have no effect.
    """

    def __init__(self, stem_padding: int = 1, **arguments: Any) -> None:
        super().__init__(**arguments)
        first = nn.Conv2d(3, cast(int, self.conv1.out_channels), 3, padding=stem_padding, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        layers: Any = self  # timm declares other kinds of layers here
        layers.conv1, layers.maxpool = first, nn.Identity()
        for stage in layers.feature_info:
            stage["reduction"] = max(1, stage["reduction"] // 4)


@register_model
def resnet18_cifar(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-18 for small images; ``.cifar10`` and ``.cifar100`` behind the name choose the normalisation."""
    sizes: dict[str, Any] = {"block": BasicBlock, "layers": (2, 2, 2, 2)}
    return build_model_with_cfg(CifarResNet, "resnet18_cifar", pretrained, **(sizes | arguments))


@register_model
def resnet10_micro_cifar(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """One block a stage and a quarter of the width: 0.3 million parameters, for trials on a CPU."""
    sizes: dict[str, Any] = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}
    return build_model_with_cfg(CifarResNet, "resnet10_micro_cifar", pretrained, **(sizes | arguments))
