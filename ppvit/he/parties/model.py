"""The decrypted head on its backbone, as `finetune.method: linear` would have written it for plain images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppvit.adaptation.embedding import fold_normalization, read_embedding, write_embedding
from ppvit.ciphers import make_cipher
from ppvit.core.files import write_json
from ppvit.data.labels import TaskName, recorded
from ppvit.he.algorithms import Floats
from ppvit.models import Backbone, save_model
from ppvit.models.networks import head_names
from ppvit.models.stems import patch_projection, patch_side


def save_model_with_head(
    folder: Path, backbone: Backbone, weight: Floats, bias: Floats, size: int, task: TaskName = "multiclass"
) -> None:
    """Add the whole model to a folder, for `evaluate` on plain images (``cipher.name: none``).

    Backbones without a patch convolution cannot take the scaling of pixels in, so for them the head stands alone.

    Args:
        folder: exists.
        backbone: changed in place.
        weight, bias: (C, D) and (C,).
        size: side of the images in pixels.
        task: of the images.
    """
    projection = patch_projection(backbone.model)
    if projection is None:
        return
    # what a model says that was adapted to no cipher: blocks are its patches
    plain = make_cipher("none", None, size, patch_side(projection))
    record = {"method": "linear", "num_classes": len(bias), **recorded(task), **plain.record}
    model = with_head(backbone, weight, bias)
    whole = Backbone(model, backbone.architecture, backbone.model_args, (0.5,) * 3, (0.5,) * 3)
    save_model(folder / "model", whole, record)
    for path in (folder / "model").iterdir():
        path.rename(folder / path.name)
    (folder / "model").rmdir()
    write_json(folder / "ppvit.json", record)


def with_head(backbone: Backbone, weight: Floats, bias: Floats) -> nn.Module:
    """The backbone with this linear head, its normalisation folded in: takes plain pixels scaled to [-1, 1]."""
    model: Any = backbone.model  # timm's have no types
    model.reset_classifier(len(bias))
    for name in head_names(model):  # of two, as distilled models have, timm takes the mean
        head = model.get_submodule(name)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))
    write_embedding(model, fold_normalization(read_embedding(model), backbone.mean, backbone.std))
    return backbone.model
