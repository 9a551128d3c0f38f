"""What the owner compares a model that came back with: other keys, and plain images with the adaptation undone."""

from __future__ import annotations

from torch import nn

from ppvit.adaptation.embedding import decrypt_embedding, read_embedding, write_embedding
from ppvit.ciphers import Cipher, keys


def wrong_key(number: int) -> keys.Key:
    """A fixed key that is nobody's, so that reruns give the same figures."""
    return keys.Key(bytes([number % 256]) * keys.SECRET_BYTES)


def undo_adaptation(model: nn.Module, cipher: Cipher) -> None:
    """Turn a model for ciphertext into one for plain images, in place: it then takes plain ones."""
    model.cpu()
    if not cipher.keyed:
        return
    write_embedding(model, decrypt_embedding(read_embedding(model), cipher.affine_map()))
