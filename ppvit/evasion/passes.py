"""How many images are attacked together: so many that they fill the GPU, on a CPU always the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppvit.core.device import free_bytes
from ppvit.core.results import Stopwatch

UNIT = 64  # images whose random starts are drawn together: what is found depends on it, so it is the same everywhere
MOST_UNITS = 32
_TIMED = 4
_SHARE = 0.6  # of the free memory, for what is kept until the backward pass; the rest for what that pass makes


def units_at_once(model: nn.Module, images: Tensor) -> int:
    """Units of images that one forward and backward pass takes; 1 on a CPU.

    Args:
        model: inputs to logits, on its device.
        images: (n, ...), as the model takes them, on any device; the first is tried.
    """
    device = next(model.parameters()).device
    free = free_bytes() if device.type != "cpu" and len(images) else None
    if free is None:
        return 1
    return max(1, min(MOST_UNITS, int(_SHARE * free / (UNIT * bytes_kept(model, images[:1].to(device))))))


def pass_seconds(model: nn.Module, images: Tensor) -> float:
    """Seconds that a forward pass takes for an image here, of the first few; what is done first is not counted."""
    images = images[:_TIMED].to(next(model.parameters()).device)
    with torch.no_grad():
        model(images[:1]).cpu()
        watch = Stopwatch()
        model(images).cpu()
    return watch.seconds() / len(images)


def bytes_kept(model: nn.Module, images: Tensor) -> int:
    """Memory that a forward pass keeps until the backward pass to the input, parameters left out; in bytes."""
    own = {parameter.untyped_storage().data_ptr() for parameter in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(images.detach().requires_grad_())  # held while it is counted, so that no place is used twice
    del logits
    return max(1, sum(kept.values()))
