"""A model of ciphertext as seen from plain pixels, so that gradients flow back to them.

Where the cipher is one affine map, that is an exact, differentiable layer. Nibbles and value tables have no gradient:
there the true cipher computes forward and something smooth stands in for it backward (BPDA: Athalye, Carlini and
Wagner, ICML 2018, Sec. 4.1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ppvit.adaptation.embedding import decrypt_embedding, read_embedding, write_embedding
from ppvit.ciphers import AffineMap, Cipher
from ppvit.ciphers.gather import FlatMap
from ppvit.core.errors import UsageError
from ppvit.data.plain import image_id
from ppvit.models import model_input

Encrypt = Callable[[np.ndarray], np.ndarray]
QUERY = image_id("query", 0)  # ciphers with a key for every image encrypt all queries under that of this one


def through_cipher(model: nn.Module, cipher: Cipher) -> nn.Module:
    """``model`` behind ``cipher``: plain images in [-1, 1], (n, 3, H, W), to logits (n, C).

    Raises:
        UsageError: the cipher makes tokens, to which no straight-through gradient is known.
    """
    affine = cipher.image_map(QUERY)
    if affine is not None:
        return through_map(model, affine, cipher.image_size, cipher.block_size)
    if cipher.makes_tokens:
        raise UsageError(
            f"cipher '{cipher.name}' makes tokens instead of pixels and is not differentiable, and no straight-through "
            "gradient is known for it; choose another cipher to measure robustness"
        )
    return StraightThrough(model, cipher.encrypt)


def through_map(model: nn.Module, affine: AffineMap, image_size: int, block_size: int) -> nn.Module:
    """``model`` behind an affine map, the owner's or one that an attacker believes in."""
    if not affine.nibbles:
        return ThroughMap(model, affine, block_size)
    flat = FlatMap.of(affine, image_size, block_size)
    return StraightThrough(model, flat.encrypt, whole_bytes(model, affine))


def rounds(model: nn.Module) -> bool:
    """Whether pixels are rounded to whole grey levels on their way through, as only then the cipher is defined."""
    return isinstance(model, StraightThrough)


class ThroughMap(nn.Module):
    """A model behind an affine map of bytes: exact and differentiable.

    On [-1, 1] inversion is a sign, so ``y_t = M (s * x_{kb[t]}[kp_t])`` needs no offset. Pixels are not rounded.

    Args:
        model: of ciphertext in [-1, 1].
        affine: the map, without nibbles.
        block_size: p.
    """

    def __init__(self, model: nn.Module, affine: AffineMap, block_size: int) -> None:
        super().__init__()
        self.model, self.block_size = model, block_size
        device = next(model.parameters()).device
        self._blocks = torch.as_tensor(affine.block_permutation, device=device)
        self._values = torch.as_tensor(np.atleast_2d(affine.value_permutation), device=device)  # (1 or N, V)
        self._sign = torch.as_tensor(affine.sign, device=device, dtype=torch.float32)
        self._matrix = None if affine.matrix is None else torch.as_tensor(affine.matrix, device=device).float()

    def encrypt(self, images: Tensor) -> Tensor:
        """Ciphertext, (n, 3, H, W), of plain images, both in [-1, 1]."""
        count, channels, height, width = images.shape
        p = self.block_size
        grid = images.reshape(count, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        blocks = grid.reshape(count, (height // p) * (width // p), -1)[:, self._blocks]  # (n, N, V)
        moved = torch.take_along_dim(blocks, self._values.expand(blocks.shape[1:])[None], 2) * self._sign
        if self._matrix is not None:
            moved = moved @ self._matrix.T
        grid = moved.reshape(count, height // p, width // p, channels, p, p).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(images.shape)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.encrypt(images))
        return logits


class StraightThrough(nn.Module):
    """A model behind a cipher without a gradient: forward the true cipher of rounded pixels, backward a stand-in.

    Args:
        model: of ciphertext in [-1, 1].
        encrypt: uint8 (n, H, W, 3) to the same.
        stand_in: a model of plain images whose gradient is used; None takes the cipher for the identity backward.
    """

    def __init__(self, model: nn.Module, encrypt: Encrypt, stand_in: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.stand_in, self._encrypt = model, stand_in, encrypt

    def forward(self, images: Tensor) -> Tensor:
        pixels = torch.round(images.detach() * 127.5 + 127.5).clamp(0, 255).byte()
        encrypted = torch.from_numpy(self._encrypt(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()))
        ciphertext = model_input(encrypted.permute(0, 3, 1, 2)).to(images.device)
        logits: Tensor
        if not images.requires_grad:
            logits = self.model(ciphertext)
        elif self.stand_in is None:
            logits = self.model(ciphertext + images - images.detach())
        else:
            smooth = self.stand_in(images)
            logits = smooth + (self.model(ciphertext) - smooth).detach()
        return logits


def whole_bytes(model: nn.Module, affine: AffineMap) -> nn.Module:
    """A model of plain bytes that resembles ``model``, which takes encrypted nibbles; low nibbles are left out.

    With ``x = 16 h + l`` the high nibble moves by 1/16 of the byte on average, and the weight of the byte is that of
    the high nibble times 17/16, the inverse of :func:`ppvit.models.stems.expand_to_nibbles`.
    """
    plain = decrypt_embedding(read_embedding(model), affine)
    high = plain.weight[..., : plain.weight.shape[-1] // 2] * (17 / 16)
    stand_in = copy.deepcopy(model)
    write_embedding(stand_in, replace(plain, weight=high, nibbles=False))
    return stand_in.to(next(model.parameters()).device).eval().requires_grad_(False)
