"""What the owner needs to check a model that came back: wrong keys, and a model that takes plain images again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ppvit.adaptation.embedding import decrypt_embedding, read_embedding, write_embedding
from ppvit.ciphers import Cipher, keys
from ppvit.data.plain import BATCH, PlainImages


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
