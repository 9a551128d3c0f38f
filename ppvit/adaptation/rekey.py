"""Moving trained weights from one key to another, exactly: the ciphertext changes, and what the model sees does not.

The embedding of patches is brought back to plain pixels and encrypted with the other key; nothing else in a model
depends on a key. For permutations and signs that moves float32 numbers and changes none; a rotation rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ppvit.adaptation.adapt import require_adaptable
from ppvit.adaptation.embedding import decrypt_embedding, encrypt_embedding, read_embedding, write_embedding
from ppvit.ciphers import AffineMap, Cipher
from ppvit.core.errors import UsageError
from ppvit.models.stems import patch_projection

_FIRST = frozenset({"patch_embed", "pos_embed", "stem", "conv1"})  # names of layers in which a key can be
_MOVED = "patch_embed.proj.weight"


def move_model(model: nn.Module, old: Cipher, new: Cipher) -> dict[str, Tensor]:
    """Let a model take ciphertext of ``new`` as it takes that of ``old``, in place.

    Args:
        model: for ciphertext of ``old``; its patch embedding may have been trained.
        old, new: one cipher under two keys.

    Returns:
        The state of the model, by name.

    Raises:
        UsageError: no weights do that: see :func:`ppvit.adaptation.adapt.require_adaptable`; or the first layer would
            have to be another one than it was trained with.
    """
    for cipher in (old, new):
        require_adaptable_or_keyed(model, cipher)
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    maps = cast(AffineMap, old.affine_map()), cast(AffineMap, new.affine_map())
    write_embedding(model, encrypt_embedding(decrypt_embedding(read_embedding(model), maps[0]), maps[1]))
    state = model.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} != before:
        raise UsageError(
            f"a model that was not adapted to cipher '{new.name}' cannot be moved to another key, since it would need "
            "a first layer of another kind; train it again on the shards of the new key"
        )
    return state


def require_adaptable_or_keyed(model: nn.Module, cipher: Cipher) -> None:
    """As :func:`ppvit.adaptation.adapt.require_adaptable`, for models whose first layer a key has replaced too."""
    if isinstance(patch_projection(model), nn.Conv2d) or cipher.affine_map() is None:
        require_adaptable(model, cipher)


def move_adapter(tensors: Mapping[str, Tensor], base: nn.Module, old: Cipher, new: Cipher) -> dict[str, Tensor]:
    """The tensors of an adapter, for a base that was moved; those that a key is not in are handed on as they are.

    Args:
        tensors: by their names in the file of the adapter.
        base: the adapted model that they belong to, under either key; it is changed.
        old, new: see :func:`move_model`.

    Raises:
        UsageError: the adapter changes the first layers in another way than by a patch embedding of its own.
    """
    moved = dict(tensors)
    for name, tensor in tensors.items():
        if not _FIRST & set(name.split(".")) or name.endswith("patch_embed.proj.bias"):
            continue
        projection = patch_projection(base)
        if not name.endswith(f".{_MOVED}") or projection is None or projection.weight.shape != tensor.shape:
            raise UsageError(
                f"the adapter's '{name}' cannot be moved to another key; train again on the shards of the new key"
            )
        with torch.no_grad():
            projection.weight.copy_(tensor)
        moved[name] = move_model(base, old, new)[_MOVED].to(tensor.dtype).clone()
    return moved
