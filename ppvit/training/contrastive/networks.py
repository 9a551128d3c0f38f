"""A network and the heads behind its features, which pre-training without labels needs and then drops."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ppvit.config import Pretrain
from ppvit.core.errors import PpvitError
from ppvit.models import model_input
from ppvit.models.networks import head_names


def lightly(module: str) -> ModuleType:
    """A module of lightly, which is an extra; those that are asked for here need no Lightning.

    Raises:
        PpvitError: it is not installed.
    """
    try:
        return importlib.import_module(f"lightly.{module}")
    except ImportError:
        raise PpvitError(
            "pretrain.method other than supervised needs lightly; pip install 'ppvit[ssl]', or set "
            "pretrain.method=supervised"
        ) from None


class Encoder(nn.Module):
    """A timm network up to its features, a projector behind it, and where there is one a predictor.

    Args:
        backbone: any network of timm's form; its head stays as it is.
        projector: (n, D) to (n, P).
        predictor: (n, P) to (n, P); None for none.

    Attributes:
        guesses: linear heads for pseudo-labels; none at first.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.projector, self.predictor = backbone, projector, predictor
        self.guesses = nn.ModuleList()
        for name in head_names(backbone):
            backbone.get_submodule(name).requires_grad_(False)

    def features(self, inputs: Tensor) -> Tensor:
        """What the network's head would see, float32 (n, D), of inputs as the network takes them."""
        return features_of(self.backbone, inputs)

    def project(self, inputs: Tensor) -> Tensor:
        """Projections, float32 (n, P)."""
        projected: Tensor = self.projector(self.features(inputs))
        return projected.float()

    def forward(self, inputs: Tensor) -> Tensor:
        """Predictions where there is a predictor, else projections, float32 (n, P)."""
        projected = self.project(inputs)
        return projected if self.predictor is None else self.predictor(projected).float()


def features_of(backbone: nn.Module, inputs: Tensor) -> Tensor:
    """What a timm network's head sees, float32 (n, D)."""
    network: Any = backbone
    features: Tensor = network.forward_head(network.forward_features(inputs), pre_logits=True)
    return features.float()


def make_encoder(backbone: nn.Module, settings: Pretrain, image: Tensor) -> Encoder:
    """The network with the heads of a method.

    BYOL: projector and predictor of two layers with BN behind the first (Grill et al., arXiv 2006.07733). SimCLR: two
    layers without BN, as in solo-learn. ACL and DynACL: three layers with BN behind each, as in ACL's public code.
    AdvCL: two layers. lightly leaves out the bias in front of a BN, which cancels it.

    Args:
        backbone: see :class:`Encoder`.
        settings: ``method``, ``hidden`` and ``projection`` are used.
        image: one input, (1, 3, H, W), by which the width of the features is found.

    Raises:
        PpvitError: lightly is not installed; the network gives no vector of features.
    """
    heads = lightly("models.modules.heads")
    with torch.no_grad():
        features = features_of(backbone.eval(), image)
    if features.ndim != 2:
        raise PpvitError(
            f"{type(backbone).__name__} gives features of {features.ndim} dimensions, not one vector an image; choose "
            "another model.name"
        )
    width, hidden, out = features.shape[1], settings.hidden, settings.projection
    if settings.method == "byol":
        return Encoder(
            backbone, heads.BYOLProjectionHead(width, hidden, out), heads.BYOLPredictionHead(out, hidden, out)
        )
    layers, normalized = (3, True) if settings.method in ("acl", "dynacl") else (2, False)
    head = heads.SimCLRProjectionHead(width, hidden, out, num_layers=layers, batch_norm=normalized)
    return Encoder(backbone, head)


def views_of(images: Tensor) -> list[Tensor]:
    """The views of a batch as the network takes them, (n, 3, H, W) each.

    Args:
        images: (n, views, 3, H, W), 0..255.
    """
    return [model_input(view) for view in images.unbind(1)]
