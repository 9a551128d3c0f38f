"""The grey-box attacker's own model: everything public, a key and images of its own, and a head trained on them.

The attacker has the public checkpoint, knows the cipher and how models are adapted to it, and does what the owner did
under another key. Exact adaptation makes that the same function of plain images whatever the key, so surrogates would
differ in nothing: each therefore learns its head from images of its own. The encoder stays as published, so that a
surrogate trains in a second; an attacker with more time would fine-tune it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ppvit.adaptation.adapt import adapt_model
from ppvit.adaptation.learned import add_learned_layers
from ppvit.ciphers import Cipher
from ppvit.config import Config
from ppvit.evasion.ciphered import through_cipher
from ppvit.models import Backbone

_BATCH = 64
_DECAY = 1e-3  # on the weights of the head
_ITERATIONS = 100


def train_surrogate(
    config: Config, public: Backbone, cipher: Cipher, images: Tensor, labels: Tensor, classes: int, device: torch.device
) -> nn.Module:
    """A surrogate as seen from plain pixels.

    Args:
        config: ``model`` and ``adapt`` are used.
        public: the checkpoint, from :func:`ppvit.models.backbone_of`; it stays as it is.
        cipher: under the attacker's own key.
        images, labels: the attacker's plain images, float32 (n, 3, H, W) in [-1, 1]; int64 (n,).
        classes: C.
        device: where it runs.

    Returns:
        (n, 3, H, W) in [-1, 1] to logits (n, C), in eval mode, frozen.
    """
    backbone = deepcopy(public)
    add_learned_layers(backbone.model, config.model, cipher)
    adapt_model(backbone, cipher, config.adapt.enabled)
    model: Any = backbone.model  # any timm model
    model.reset_classifier(0)  # the head is the identity: logits are features
    model.to(device).eval().requires_grad_(False)
    seen = through_cipher(model, cipher)
    with torch.no_grad():
        parts = [seen(images[start : start + _BATCH].to(device)) for start in range(0, len(images), _BATCH)]
    return nn.Sequential(seen, train_head(torch.cat(parts), labels.to(device), classes)).eval().requires_grad_(False)


def train_head(features: Tensor, labels: Tensor, classes: int) -> nn.Module:
    """Multinomial logistic regression on standardised features, (n, D), by L-BFGS: it has one optimum and no chance."""
    mean, deviation = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    head = nn.Linear(features.shape[1], classes).to(features)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(head((features - mean) / deviation), labels)
        value = value + _DECAY * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():  # standardisation folded in
        head.weight.div_(deviation)
        head.bias.sub_(head.weight @ mean)
    return head


def own_images(available: int, count: int, seed: int, number: int) -> np.ndarray:
    """Which training images surrogate ``number`` learns from: another choice for each, intp."""
    return np.random.default_rng((seed, number)).permutation(available)[:count]
