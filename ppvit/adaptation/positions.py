"""What tells a model where a patch is, where that is stored parameters which a key can permute.

Plain timm loads these as they are. Everything else, such as rotary tables, relative positions, windows and
convolutions, is left alone: the patch projection puts the patches back in order (:mod:`ppvit.models.projections`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.models import Cait, Eva, VisionTransformer
from torch import Tensor, nn

from ppvit.models.stems import patch_projection, projection_name


def position_table(model: nn.Module) -> Tensor | None:
    """The rows of patches in a learned position embedding, (N, D), a view; None where it is not all that tells places.

    Models for images of any size have none either: they interpolate the rows, which must not be permuted then.
    """
    table = getattr(model, "pos_embed", None)
    absolute = (
        isinstance(model, VisionTransformer | Eva | Cait)
        and table is not None
        and getattr(model, "rope", None) is None
        and not getattr(model, "dynamic_img_size", False)
        and getattr(model.patch_embed, "proj", None) is patch_projection(model)  # and not a stem in front of patches
    )
    return cast(Tensor, table)[0, position_offset(model) :] if absolute else None


def position_offset(model: nn.Module) -> int:
    """How many prefix tokens have an entry in the position embedding."""
    # with no_embed_class the position embedding covers patches only; CaiT's class token joins later
    patches_only = getattr(model, "no_embed_class", False) or isinstance(model, Cait)
    return 0 if patches_only else getattr(model, "num_prefix_tokens", 0)


def add_to_positions(model: nn.Module, constant: Tensor) -> bool:
    """Add the same (D,) to every patch through the position embedding, for a projection without bias.

    Returns:
        Whether it could be: there is a position embedding, and no normalisation between it and the projection.
    """
    owner: Any = model.get_submodule(projection_name(model).rpartition(".")[0])
    holders = [owner, *(module for module in model.modules() if getattr(module, "patch_embed", None) is owner)]
    found = next(((holder, name) for holder in holders for name in _ADDED if _holds(holder, name)), None)
    if found is None or not isinstance(getattr(owner, "norm", None) or nn.Identity(), nn.Identity):
        return False
    holder, name = found
    table: Tensor = getattr(holder, name)
    rows = table[_ADDED[name], position_offset(holder) if name == "pos_embed" and table.ndim == 3 else 0 :]
    with torch.no_grad():
        rows += constant.to(rows)
    return True


# of tables that are added to all patches: which of their first axis, since of sums over rows and columns one does
_ADDED = {"pos_embed": 0, "pos_embed_y": 0, "position_embedding_table": 0}


def _holds(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.Parameter)
