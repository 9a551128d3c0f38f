"""What the owner needs to check a model that came back: wrong keys, and a model that takes plain images again."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ppvit.adaptation.embedding import decrypt_embedding, read_embedding, write_embedding
from ppvit.ciphers import Cipher, keys
from ppvit.ciphers.etc import orientations
from ppvit.data.plain import BATCH, PlainImages
from ppvit.models.adaptive import Penalised
from ppvit.models.stems import patch_projection, patch_side


def wrong_key(number: int) -> keys.Key:
    """A fixed key that is nobody's, so that reruns give the same figures."""
    return keys.Key(bytes([number % 256]) * keys.SECRET_BYTES)


def undo_adaptation(model: nn.Module, cipher: Cipher) -> None:
    """Turn a model for ciphertext into one for plain images, in place, on the CPU.

    Args:
        model: with a patch embedding.
        cipher: one that has a key has an affine map too.
    """
    model.cpu()
    affine = cipher.affine_map()
    if cipher.keyed and affine is not None:
        write_embedding(model, decrypt_embedding(read_embedding(model), affine))


def is_embedded_by_blocks(model: nn.Module, cipher: Cipher) -> bool:
    """Whether a model's first layer takes blocks of the cipher, so that :func:`undo_adaptation` can be asked for."""
    projection = patch_projection(model)
    return projection is not None and (not cipher.keyed or patch_side(projection) == cipher.block_size)


def learned_order_percent(model: nn.Module, cipher: Cipher) -> float | None:
    """How much of the order of the blocks a learned matrix over them has found, in percent.

    A new block counts if the block of the ciphertext that weighs most in it is the right one, up to a rotation or
    mirroring of the whole picture, which the network cannot tell from the right order.

    Returns:
        None where there is no such matrix, or the order is not that of one key for all images.
    """
    layer = next((module for module in model.modules() if isinstance(module, Penalised)), None)
    weights, affine = None if layer is None else layer.order(), cipher.affine_map()
    if weights is None or affine is None or not cipher.scrambles or len(weights) != cipher.blocks:
        return None
    heaviest = weights.detach().abs().argmax(0).cpu().numpy()  # of new block j
    right = np.argsort(affine.block_permutation)  # the block of the ciphertext that is plain block j
    turns = orientations(math.isqrt(cipher.blocks))
    return 100 * max(float((heaviest == right[turn]).mean()) for turn in turns)


def plain_batches(plain: PlainImages, cipher: Cipher | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (n, 3, H, W), encrypted where a cipher is given (or its tokens), and targets, as
    :func:`ppvit.data.batches.load_batches` gives them."""
    for start in range(0, len(plain), BATCH):
        stop = min(start + BATCH, len(plain))
        images = plain.read(start, stop)
        if cipher is not None:
            images = cipher.encrypt(images, plain.ids(start, stop))
        encrypted = torch.from_numpy(images)
        encrypted = encrypted.permute(0, 3, 1, 2) if encrypted.ndim == 4 else encrypted
        yield encrypted, torch.from_numpy(plain.labelling.targets(plain.labels[start:stop]))
