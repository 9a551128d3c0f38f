"""Layers in front of a network that learn to undo a cipher, where no weights are known that do."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ppvit.ciphers import Cipher
from ppvit.config.sections import Model
from ppvit.core.errors import UsageError
from ppvit.models.adaptnet import add_adaptnet
from ppvit.models.projections import PatchProjection
from ppvit.models.stems import add_adaptive_matrix, patch_projection, patch_side


def add_learned_layers(model: nn.Module, settings: Model, cipher: Cipher) -> None:
    """Install what the section ``model`` asks for, before adaptation; its weights are always the same.

    Args:
        model: of timm; changed in place.
        settings: ``adaptive_matrix``, ``matrix_form`` and ``adaptnet`` are used.
        cipher: whose blocks the layers are for; its key is not used.

    Raises:
        UsageError: the network has no place for such a layer, or patches of another size.
    """
    torch.manual_seed(0)
    if settings.adaptnet != "none":
        add_adaptnet(model, settings.adaptnet, cipher.block_size, cipher.blocks)
    if settings.adaptive_matrix:
        add_adaptive_matrix(model, cipher.blocks, settings.matrix_form)
        side = patch_side(cast(PatchProjection, patch_projection(model)))
        if side != cipher.block_size:
            raise UsageError(
                f"model.adaptive_matrix mixes blocks of {cipher.block_size} pixels a side, and the model's patches "
                f"have {side}; set cipher.block_size to that, or model.adaptive_matrix=false"
            )
