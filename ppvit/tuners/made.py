"""What an adapted and a fine-tuned model were made with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ppvit.core.provenance import Made
from ppvit.data.labels import ClassNumbers
from ppvit.models import load_model, read_record
from ppvit.models.mixing import mixing_axes
from ppvit.models.stems import projection_name
from ppvit.models.tensors import read_some, tensor_names
from ppvit.tuners.records import read_finetuned_record


def made_models(adapted: Path, finetuned: Path) -> tuple[Made, Made]:
    """The fine-tuned and the adapted model, for :func:`ppvit.core.provenance.require_made_alike`.

    Raises:
        PpvitError: one of them is missing or damaged.
    """
    tuned = read_finetuned_record(finetuned)
    base = read_record(adapted, "adapt")
    if "blocks_sha256" in tuned:  # the model of `he` was trained on no adapted one
        base = {**base, "blocks_sha256": blocks_sha256(adapted)}
    tuned = {"task": ClassNumbers.task, **tuned}  # which is not written
    return Made(finetuned, tuned, "finetune"), Made(adapted, base, "adapt")


def blocks_sha256(adapted: Path) -> str:
    """SHA-256 of the weights in an adapted model's blocks, in hex: which checkpoint it is, whatever the key.

    A key changes the first layer and the order of position embeddings, and in the blocks only what weighs patches in an
    MLP-Mixer, which is left out. A model without tensors named ``blocks.``, such as a Swin Transformer, counts as a
    whole but for its patch projection.

    Raises:
        PpvitError: the weights are missing or damaged.
    """
    path = adapted / "model.safetensors"
    names = [name for name in sorted(tensor_names(path, "adapt")) if not mixing_axes(name)]
    blocks = [each for each in names if each.startswith("blocks.")]
    if not blocks:
        first = projection_name(load_model(adapted, "adapt"))
        blocks = [each for each in names if not first or not each.startswith(f"{first}.")]
    digest = hashlib.sha256()
    for name in blocks:
        tensor = read_some(path, [name], "adapt")[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
