"""Adapting a pretrained Vision Transformer to a key: nothing is trained and nothing is lost.

Source: Nagamori, Shiota, Kiya, "Efficient fine-tuning with domain adaptation", arXiv 2401.05126, Sec. III; with
normalisation folded first. The adapted model takes encrypted images scaled to [-1, 1]
(:func:`ppvit.models.model_input`) and returns what the plain model returns for the plain images, up to float summation
order.

Why [-1, 1] and not raw 0..255 pixels: that scaling is the same for all colours and turns inversion (255 - v) into a
sign. Every cipher step is then an orthogonal map of the input, so that training the patch embedding as well goes
exactly as on plain images, and its weights keep the size that optimisers expect (raw pixels make them 127.5 times
smaller).

A ResNet or PyramidNet mixes neighbouring pixels of different blocks, so that no weights of it undo a cipher; only its
normalisation is put in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from timm.models import ResNet, VisionTransformer
from torch import Tensor, nn

from ppvit.adaptation.embedding import (
    encrypt_embedding,
    fold_normalization,
    read_embedding,
    write_embedding,
)
from ppvit.adaptation.positions import position_offset, position_table
from ppvit.ciphers import Cipher
from ppvit.core.errors import PpvitError, UsageError
from ppvit.models import Backbone, model_input
from ppvit.models.mixing import mixing_weights
from ppvit.models.projections import PatchProjection
from ppvit.models.refusals import why_not
from ppvit.models.stems import (
    PADDED,
    install_stem,
    normalize_input,
    patch_projection,
    patch_side,
    projection_name,
    stem_of,
    token_order,
)

# largest accepted differences of logits up to 1, in proportion for larger ones; measured are 1e-13 in float64, and 1e-7
# in networks that compute in float32 whatever their type, such as DeepSeek's
TOLERANCE_FLOAT64 = 1e-6
TOLERANCE_FLOAT32 = 1e-3
CHECKED_IMAGES = 4  # of the data set: unlike noise, they have blocks far from the middle, which rounding moves most


def require_adaptable(model: nn.Module, cipher: Cipher) -> None:
    """Refuse a model in which the cipher cannot be undone.

    Raises:
        UsageError: the cipher has no affine map, the patch embedding is no non-overlapping convolution of the block's
            size (such as a ResNet, with any key).
    """
    if isinstance(model, PADDED):
        if not cipher.keyed:
            return
        raise UsageError(
            f"a {'ResNet' if isinstance(model, ResNet) else 'PyramidNet'} has overlapping kernels, so it cannot be "
            f"adapted to cipher '{cipher.name}'; set "
            "cipher.name=none, or adapt.enabled=false for the unadapted baseline, or choose a plain timm ViT"
        )
    affine = cipher.affine_map()
    if affine is None:
        why = "every image has a key of its own" if cipher.image_keys else "it is no affine map of a block's values"
        raise UsageError(
            f"no exact adaptation exists for cipher '{cipher.name}', because {why}; set adapt.enabled=false to "
            "fine-tune the unadapted model"
        )
    reason = why_not(model)
    if reason is not None:
        raise UsageError(
            f"{type(model).__name__} cannot be adapted to cipher '{cipher.name}': {reason}; choose a plain timm ViT, "
            "or another model of docs/backbones.md"
        )
    side = patch_side(cast(PatchProjection, patch_projection(model)))
    if side != cipher.block_size:
        raise UsageError(
            f"the model's patches have {side} pixels a side; set cipher.block_size to that, not {cipher.block_size}"
        )
    table = position_table(model)
    if table is not None and len(table) != cipher.blocks:
        raise UsageError(
            f"the model is for images of {len(table)} patches, these have {cipher.blocks}; set dataset.image_size to "
            "what the model is for"
        )


def adapt_model(
    backbone: Backbone, cipher: Cipher, enabled: bool = True, images: np.ndarray | None = None
) -> dict[str, float]:
    """Adapt ``backbone.model`` in place and compare it with the plain model.

    Args:
        backbone: takes normalised plain images; afterwards encrypted ones scaled to [-1, 1].
        cipher: with the key in place.
        enabled: False only folds the normalisation: the unadapted baseline.
        images: plain images, uint8, (n, H, W, 3), to compare on beside an image of noise where the cipher rounds its
            ciphertext, which costs more on photographs than on noise.

    Returns:
        ``checked_images``, 1 or n + 1, and the largest differences of logits over all of them:
        ``max_logit_difference_float64`` and ``..._float32`` between plain model on plain images and this model on
        encrypted ones, and for ciphers that round their ciphertext ``..._stored`` in float64 on it as stored, with
        ``clipped_percent`` of its values where it is stored as whole numbers; nothing for ciphers that make tokens,
        which leave nothing to compare.

    Raises:
        UsageError: the model is not adaptable to this cipher.
        PpvitError: the difference is beyond tolerance (only when enabled), or logits are not numbers.
    """
    if enabled:
        require_adaptable(backbone.model, cipher)
    if cipher.makes_tokens:
        make_token_model(backbone.model, cipher)
        return {}
    if isinstance(backbone.model, PADDED):
        change = partial(normalize_input, mean=backbone.mean, std=backbone.std)
    else:
        plain = fold_normalization(read_embedding(backbone.model), backbone.mean, backbone.std)
        affine = cipher.affine_map() if enabled else None
        adapted = plain if affine is None else encrypt_embedding(plain, affine)
        change = partial(write_embedding, embedding=adapted)
    differences, scale = _compare(backbone, cipher, change, images)
    if not all(map(math.isfinite, differences.values())):
        raise PpvitError(
            f"the logits of {backbone.architecture} are not numbers: its weights are damaged; fetch model.checkpoint "
            "again"
        )
    if enabled and (
        differences["max_logit_difference_float64"] > TOLERANCE_FLOAT64 * scale
        or differences["max_logit_difference_float32"] > TOLERANCE_FLOAT32 * scale
    ):
        raise PpvitError(
            f"the adapted {backbone.architecture} differs from the plain one by "
            f"{differences['max_logit_difference_float64']:.2g} (float64): something in it depends on patches in "
            "a way that adaptation does not reach; set adapt.enabled=false"
        )
    return differences


def way_of(model: nn.Module) -> str:
    """Where an adapted model has the order of the blocks, and who can load it: the end of a sentence about it."""
    if token_order(model) is not None:
        where = f"in '{projection_name(model)}.token_order'"
    elif mixing_weights(model):
        where = "in its weights between patches"
    elif position_table(model) is not None:
        where = "in its position embedding"
    else:
        where = "nowhere, since it stays as it is"
    plain = "plain timm loads it as well, rightly for images of this size alone"
    loads = plain if stem_of(model) is None else "only ppvit loads it, plain timm stops"
    return f"{where}; {loads}"


def make_token_model(model: nn.Module, cipher: Cipher) -> None:
    """Turn a Vision Transformer into one for a cipher's tokens: a new projection, and no patch positions.

    The order of the tokens is random in every image, so position embeddings of patches could only mislead. The encoder
    keeps its pretrained weights; the new projection must be trained (``finetune.method`` full or lora_patch).

    Raises:
        UsageError: it is no Vision Transformer with one learned position embedding.
    """
    if not isinstance(model, VisionTransformer) or model.pos_embed is None:
        raise UsageError(f"cipher '{cipher.name}' needs a plain timm ViT behind its tokens, not {type(model).__name__}")
    torch.manual_seed(0)
    count, width = cipher.shape
    install_stem(model, {"tokens": count, "token_width": width})
    with torch.no_grad():
        model.pos_embed[0, position_offset(model) :].zero_()


def _compare(
    backbone: Backbone, cipher: Cipher, change: Callable[[nn.Module], None], given: np.ndarray | None
) -> tuple[dict[str, float], float]:
    """Let ``change`` adapt the model and measure; the differences, and the largest logit, at least 1."""
    model = backbone.model
    size = cipher.image_size
    # no two blocks of noise are alike, so a wrong place of any block or value shows
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    rounds = not cipher.image_keys and cipher.encrypt_exactly(images).dtype != cipher.dtype
    if rounds and given is not None:  # which costs more on photographs; without, they show nothing beyond noise
        images = np.concatenate([images, given])
    stored = cipher.encrypt(images, np.arange(len(images)))
    exact = stored if cipher.image_keys else cipher.encrypt_exactly(images)
    plain, encrypted, rounded = (_channels_first(batch).double() for batch in (images, exact, stored))
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    normalized = (plain / 255 - mean) / std
    plain32 = _logits(model, normalized.float())
    plain64 = _logits(model.double(), normalized)
    change(model)  # in float64
    adapted64 = _logits(model, model_input(encrypted))
    differences: dict[str, float] = {"checked_images": len(images)}
    differences["max_logit_difference_float64"] = (adapted64 - plain64).abs().max().item()
    if rounds:  # what storing the ciphertext costs, beside adaptation
        differences["max_logit_difference_stored"] = (_logits(model, model_input(rounded)) - plain64).abs().max().item()
        if cipher.dtype.kind == "u":
            bounds = np.iinfo(cipher.dtype)
            outside = (np.round(exact) < bounds.min) | (np.round(exact) > bounds.max)
            differences["clipped_percent"] = 100 * float(outside.mean())
    adapted32 = _logits(model.float(), model_input(encrypted.float()))
    differences["max_logit_difference_float32"] = (adapted32 - plain32).abs().max().item()
    return differences, max(1.0, plain64.abs().max().item())


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():  # one by one: large pictures take much memory in float64
        return torch.cat([model(image) for image in images.split(1)])
