"""Why the blocks of a cipher cannot be undone in a model: what its first layer does, in words."""

from __future__ import annotations

from torch import nn

from ppvit.models.projections import KeyedProjection
from ppvit.models.stems import TokenEmbedding, cuts_patches, first_layer, patch_projection, token_order

_PATCHES = 4  # the smallest step between patches; what goes by less makes features of pixels first


def why_not(model: nn.Module) -> str | None:
    """Why no weights of a model undo a cipher, as the end of a sentence about it; None where some do.

    A block must reach a token alone: the first layer takes three colours, by kernels as large as the step between them.
    Whatever follows it is exact, since it puts the patches back in order (:mod:`ppvit.models.projections`).
    """
    if isinstance(patch_projection(model), KeyedProjection) or token_order(model) is not None:
        return "it has no patch convolution of its own any more, for it was adapted before; adapt the plain model"
    if any(getattr(module, "dynamic_img_pad", False) for module in model.modules()):
        return "it pads images of other sizes (dynamic_img_pad), and a key is for one size"
    if patch_projection(model) is not None:
        return None
    found = first_layer(model)
    if found is None or isinstance(getattr(model, "patch_embed", None), TokenEmbedding):
        return "it has no patch convolution"
    name, layer = found
    if hasattr(model, "pixel_embed"):
        return "pixels inside its patches are tokens of their own"
    sizes = [other.kernel_size[0] for other in model.modules() if isinstance(other, nn.Conv2d) and cuts_patches(other)]
    if len(sizes) > 1:
        return f"it cuts patches of two sizes at once ({' and '.join(map(str, sizes))} pixels)"
    if not isinstance(layer, nn.Conv2d):
        return f"its first layer, '{name}', is no convolution"
    if layer.in_channels != 3:
        return f"its first convolution, '{name}', takes {layer.in_channels} channels that are made of pixels before"
    (kernel, across), step = layer.kernel_size, layer.stride[0]
    sides = f"kernels of {kernel} x {across} pixels, {step} apart"
    if step < _PATCHES:
        return f"its stem is convolutional ({sides}), so that a block never reaches a token alone"
    return f"its patches overlap ({sides})"
