"""Adapting a pretrained Vision Transformer to a key: nothing is trained and nothing is lost.

Source: Nagamori, Shiota, Kiya, "Efficient fine-tuning with domain adaptation", arXiv 2401.05126, Sec. III; with
normalisation folded first. The adapted model takes encrypted images scaled to [-1, 1]
(:func:`ppvit.models.model_input`) and returns what the plain model returns for the plain images, up to float summation
order.

Why [-1, 1] and not raw 0..255 pixels: that scaling is the same for all colours and turns inversion (255 - v) into a
sign. Every cipher step is then an orthogonal map of the input, so that training the patch embedding as well goes
exactly as on plain images, and its weights keep the size that optimisers expect (raw pixels make them 127.5 times
smaller).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from ppvit.ciphers import AffineMap, Cipher
from ppvit.config import Config
from ppvit.errors import PpvitError, UsageError
from ppvit.models import Backbone, load_backbone, model_input, save_model
from ppvit.owner import load_cipher, public_record
from ppvit.results import Stopwatch, write_result

TOLERANCE_FLOAT64 = 1e-6  # largest accepted logit difference; measured ones are near 1e-13
TOLERANCE_FLOAT32 = 1e-3
CHECKED_IMAGES = 1  # of noise: no two blocks of it are alike, so a wrong place of any block or value shows


@dataclass
class Embedding:
    """The only tensors that adaptation changes, float64.

    Attributes:
        weight: patch embedding, (D, B), values of a patch flattened as C, h, w.
        bias: (D,).
        positions: position embedding of the patches, (N, D), or None where the model has none.
    """

    weight: Tensor
    bias: Tensor
    positions: Tensor | None


def require_adaptable(model: nn.Module, cipher: Cipher) -> None:
    """Refuse a model in which the cipher cannot be undone.

    Raises:
        UsageError: the patch embedding is no non-overlapping convolution of the block's size, or blocks are scrambled
            and the model knows positions by anything but one learned absolute embedding.
    """
    name = type(model).__name__
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    if not isinstance(projection, nn.Conv2d) or hasattr(model.patch_embed, "backbone"):
        raise UsageError(
            f"{name} has no patch convolution at its input, so it cannot be adapted; choose a plain timm ViT"
        )
    if projection.kernel_size != projection.stride or projection.padding != (0, 0) or projection.in_channels != 3:
        raise UsageError(f"{name} has overlapping patches, so it cannot be adapted; choose a plain timm ViT")
    if projection.kernel_size != (cipher.block_size, cipher.block_size):
        raise UsageError(
            f"the model's patches have {projection.kernel_size[0]} pixels a side; set cipher.block_size to that, not "
            f"{cipher.block_size}"
        )
    affine = cipher.affine_map()
    scrambled = affine is not None and np.any(affine.block_permutation != np.arange(len(affine.block_permutation)))
    absolute = (
        isinstance(model, VisionTransformer) and model.pos_embed is not None and getattr(model, "rope", None) is None
    )
    if scrambled and not absolute:
        raise UsageError(
            f"{name} knows patch positions by other means than one learned absolute embedding, so scrambled blocks "
            "cannot be undone; use cipher.name shuffle or np, or a plain timm ViT"
        )


def read_embedding(model: nn.Module) -> Embedding:
    """Copy the tensors that adaptation changes out of a model."""
    projection = model.patch_embed.proj
    weight = projection.weight.detach().double().flatten(1)
    bias = projection.bias.detach().double() if projection.bias is not None else weight.new_zeros(len(weight))
    positions = getattr(model, "pos_embed", None)
    if positions is not None:
        positions = positions.detach().double()[0, _position_offset(model) :]
    return Embedding(weight, bias, positions)


def write_embedding(model: nn.Module, embedding: Embedding) -> None:
    """Put an embedding into a model, in the model's dtype.

    Models whose convolution has no bias (CLIP's) take it through the position embedding, which is added right after.

    Raises:
        UsageError: the model has neither a bias nor a position embedding to take it.
    """
    projection = model.patch_embed.proj
    positions = embedding.positions
    with torch.no_grad():
        projection.weight.copy_(embedding.weight.view_as(projection.weight))
        if projection.bias is not None:
            projection.bias.copy_(embedding.bias)
        elif positions is not None and isinstance(getattr(model.patch_embed, "norm", None), nn.Identity):
            positions = positions + embedding.bias
        elif embedding.bias.abs().max() > 0:
            raise UsageError(
                f"{type(model).__name__} has no bias in its patch embedding to fold the normalisation into"
            )
        if positions is not None:
            model.pos_embed[0, _position_offset(model) :].copy_(positions)


def _position_offset(model: nn.Module) -> int:
    # with no_embed_class the position embedding covers patches only
    return 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 0)


def fold_normalization(embedding: Embedding, mean: tuple[float, ...], std: tuple[float, ...]) -> Embedding:
    """Move ``(x / 255 - mean) / std`` into the patch embedding, which then takes u = x / 127.5 - 1 instead.

    ``(x / 255 - m) / s = (u + 1 - 2 m) / (2 s)``, hence ``W' = W / (2 s_c)``, ``b' = b + sum W (1 - 2 m_c) / (2 s_c)``;
    for mean = std = 0.5 nothing changes. This must come before any cipher: pixel shuffling mixes colours, so that
    subtracting channel means afterwards is wrong whenever they differ.

    Args:
        embedding: for normalised input.
        mean, std: by channel, on a 0..1 scale.
    """
    values = embedding.weight.shape[1] // len(mean)
    means = torch.tensor(mean, dtype=torch.float64).repeat_interleave(values)
    stds = torch.tensor(std, dtype=torch.float64).repeat_interleave(values)
    bias = embedding.bias + embedding.weight @ ((1 - 2 * means) / (2 * stds))
    return Embedding(embedding.weight / (2 * stds), bias, embedding.positions)


def encrypt_embedding(embedding: Embedding, affine: AffineMap) -> Embedding:
    """The embedding that sees ciphertext as ``embedding`` sees plain pixels.

    ``W^[:, j] = s[j] W'[:, kp[j]]``, ``P^[t] = P[kb[t]]``; on [-1, 1] an inversion is a sign and needs no bias term.
    """
    sign = torch.as_tensor(affine.sign, dtype=torch.float64)
    weight = embedding.weight[:, torch.as_tensor(affine.value_permutation)] * sign
    positions = embedding.positions
    if positions is not None:
        positions = positions[torch.as_tensor(affine.block_permutation)]
    return Embedding(weight, embedding.bias, positions)


def decrypt_embedding(embedding: Embedding, affine: AffineMap) -> Embedding:
    """The inverse of :func:`encrypt_embedding`, for a model that comes back fine-tuned."""
    weight = embedding.weight * torch.as_tensor(affine.sign, dtype=torch.float64)
    positions = embedding.positions
    if positions is not None:
        positions = positions[torch.as_tensor(np.argsort(affine.block_permutation))]
    return Embedding(weight[:, torch.as_tensor(np.argsort(affine.value_permutation))], embedding.bias, positions)


def adapt_model(backbone: Backbone, cipher: Cipher, enabled: bool = True) -> dict[str, float]:
    """Adapt ``backbone.model`` in place and compare it with the plain model.

    Args:
        backbone: takes normalised plain images; afterwards encrypted ones scaled to [-1, 1].
        cipher: with the key in place.
        enabled: False only folds the normalisation: the unadapted baseline.

    Returns:
        ``max_logit_difference_float64`` and ``..._float32`` between plain model on plain images and this model on
        encrypted ones.

    Raises:
        UsageError: the model is not adaptable, or the cipher has no affine map.
        PpvitError: the difference is beyond tolerance (only when enabled).
    """
    if enabled:
        require_adaptable(backbone.model, cipher)
        if cipher.affine_map() is None:
            raise UsageError(f"no exact adaptation exists for cipher '{cipher.name}'; set adapt.enabled=false")
    plain = fold_normalization(read_embedding(backbone.model), backbone.mean, backbone.std)
    adapted = encrypt_embedding(plain, cipher.affine_map()) if enabled else plain
    differences = _compare(backbone, cipher, adapted)
    if enabled and (
        differences["max_logit_difference_float64"] > TOLERANCE_FLOAT64
        or differences["max_logit_difference_float32"] > TOLERANCE_FLOAT32
    ):
        raise PpvitError(
            f"the adapted {backbone.architecture} differs from the plain one by "
            f"{differences['max_logit_difference_float64']:.2g} (float64): something in it depends on patches in "
            "a way that adaptation does not reach; set adapt.enabled=false"
        )
    return differences


def _compare(backbone: Backbone, cipher: Cipher, adapted: Embedding) -> dict[str, float]:
    """Write ``adapted`` into the model and measure; noise images reach every pixel and every block alike."""
    model = backbone.model
    size = cipher.image_size
    images = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, size, size, 3), dtype=np.uint8)
    batches = (images, cipher.encrypt(images, np.arange(len(images))))
    plain, encrypted = (torch.from_numpy(batch).permute(0, 3, 1, 2).double() for batch in batches)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    normalized, scaled = (plain / 255 - mean) / std, model_input(encrypted)
    plain32 = _logits(model, normalized.float())
    plain64 = _logits(model.double(), normalized)
    write_embedding(model, adapted)
    adapted64 = _logits(model, scaled)
    adapted32 = _logits(model.float(), scaled.float())
    return {
        "max_logit_difference_float64": (adapted64 - plain64).abs().max().item(),
        "max_logit_difference_float32": (adapted32 - plain32).abs().max().item(),
    }


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def run(config: Config, embedded: Path, out: Path, result: Path) -> None:
    """Load the pretrained model, adapt it to the key, check it, and write it.

    Args:
        config: ``model``, ``cipher``, ``adapt`` and ``dataset.image_size`` are used.
        embedded: weights of the embedded model.
        out: folder of the adapted model.
        result: JSON of the measured differences.

    Raises:
        PpvitError: see :func:`adapt_model` and :func:`ppvit.models.load_backbone`.
    """
    watch = Stopwatch()
    cipher = load_cipher(config)
    backbone = load_backbone(config.model.name, Path(config.model.checkpoint), config.dataset.image_size, embedded)
    measured = adapt_model(backbone, cipher, config.adapt.enabled)
    record = {**public_record(config, cipher), "model": config.model.name, "adapted": config.adapt.enabled}
    save_model(out, backbone, record)
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    write_result(result, {**measured, "adapted": config.adapt.enabled, "parameters": parameters}, watch)
