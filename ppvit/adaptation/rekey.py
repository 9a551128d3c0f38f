"""Moving trained weights from one key to another, exactly: the ciphertext changes, and what the model sees does not.

The embedding of patches is brought back to plain pixels and encrypted with the other key; nothing else in a model
depends on a key. For permutations and signs that moves float32 numbers and changes none; a rotation rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ppvit.adaptation.adapt import require_adaptable
from ppvit.adaptation.embedding import decrypt_embedding, encrypt_embedding, read_embedding, write_embedding
from ppvit.ciphers import AffineMap, Cipher
from ppvit.core.errors import UsageError
from ppvit.models.mixing import mixing_weights
from ppvit.models.projections import KeyedProjection, is_order, set_token_order
from ppvit.models.stems import patch_projection, projection_name, token_order

_FIRST = frozenset({"patch_embed", "pos_embed", "stem", "conv1", "embeds"})  # names of layers in which a key can be


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
    moved = encrypt_embedding(decrypt_embedding(read_embedding(model), maps[0]), maps[1])
    order = token_order(model)
    if order is not None and moved.order is None:  # a key may leave the blocks where they are; the layer stays
        moved = replace(moved, order=torch.arange(len(order)))
    write_embedding(model, moved)
    state = model.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} != before:
        raise UsageError(
            f"a model that was not adapted to cipher '{new.name}' cannot be moved to another key, since it would need "
            "a first layer of another kind; train it again on the shards of the new key"
        )
    return state


def require_adaptable_or_keyed(model: nn.Module, cipher: Cipher) -> None:
    """As :func:`ppvit.adaptation.adapt.require_adaptable`, for models whose first layer a key has replaced too."""
    keyed = isinstance(patch_projection(model), KeyedProjection) or token_order(model) is not None
    if not keyed or cipher.affine_map() is None:
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
    projection, first = patch_projection(base), projection_name(base)
    # Twins and CoaT have their projection under a name that is not among the usual ones
    layers = [*filter(None, [first]), *(weight.rpartition(".")[0] for weight in mixing_weights(base))]
    for name, tensor in tensors.items():
        keyed = _FIRST & set(name.split(".")) or any(f".{layer}." in name for layer in layers)
        if not keyed or name.endswith(f".{first}.bias"):
            continue
        if projection is not None and name.endswith(f".{first}.token_order") and is_order(tensor):
            set_token_order(projection, tensor)
            moved[name] = move_model(base, old, new)[f"{first}.token_order"].clone()
            continue
        if not name.endswith(f".{first}.weight") or projection is None or projection.weight.shape != tensor.shape:
            raise UsageError(
                f"the adapter's '{name}' cannot be moved to another key; train again on the shards of the new key"
            )
        with torch.no_grad():
            projection.weight.copy_(tensor)
        moved[name] = move_model(base, old, new)[f"{first}.weight"].to(tensor.dtype).clone()
    return moved
