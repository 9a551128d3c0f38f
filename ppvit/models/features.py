"""What the frozen part of a model makes of images, computed once and kept in scratch.

Where the head alone trains, everything below it gives the same numbers in every epoch and every run. They are computed
in batches of 64 in the order of the images, in evaluation mode, and kept in float32, which holds half precisions too.
On a CPU a row of a product does not depend on the rows beside it (measured, see docs/speed.md), so a head that is
trained on kept features has the bits of one that is trained on images; on a GPU the two agree to float error.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ppvit
from ppvit.core.device import device
from ppvit.core.kept import kept_array
from ppvit.core.progress import tqdm
from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.models.backbones import model_input
from ppvit.models.networks import attention_heads, head_names
from ppvit.models.products import by_onednn, is_used

BATCH = 64
Context = Callable[[], AbstractContextManager[Any]]
_PROBED = 4  # images on which it is tried whether a model can be cut in front of its head


class Frozen:
    """A model that is cut in front of its one head.

    Args:
        model: timm's.
        context: makes what it computes in, such as autocast.
        arithmetic: what that means, for the key under which features are kept; empty for float32.

    Attributes:
        model: given to :func:`ppvit.models.products.by_onednn`.
        head: the module behind the features.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        context: Context = nullcontext,
        arithmetic: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.head = by_onednn(model), head
        self._context, self._arithmetic = context, arithmetic or {}

    def features(self, inputs: Tensor) -> Tensor:
        """What the head sees, float32 (n, D), in evaluation mode.

        Args:
            inputs: as the model takes them.
        """
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        training = self.model.training
        try:
            with torch.no_grad(), self._context():
                self.model.eval()(inputs)
        finally:
            handle.remove()
            self.model.train(training)
        if len(seen) != 1 or seen[0].ndim != 2:
            raise ValueError(f"the head is called {len(seen)} times, or not with vectors")
        return seen[0].float()

    def cuts(self, inputs: Tensor) -> bool:
        """Whether head and features give the model's own answers, in its present mode, and nothing is drawn or counted.

        Dropout, stochastic depth and running statistics above or below the cut, or a second head, make a difference.
        """
        states = torch.get_rng_state(), [buffer.clone() for buffer in self.model.buffers()]
        try:
            features = self.features(inputs)
        except (ValueError, AttributeError):  # called never or twice, or with something else than a tensor
            return False
        with torch.no_grad(), self._context():
            whole, cut = self.model(inputs), self.head(features)
        same = isinstance(whole, Tensor) and whole.dtype == cut.dtype and torch.equal(whole, cut)
        unmoved = all(map(torch.equal, states[1], self.model.buffers()))
        undrawn = torch.equal(states[0], torch.get_rng_state())
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), states[1], strict=True):
                buffer.copy_(before)
        torch.set_rng_state(states[0])
        return same and unmoved and undrawn

    def determines(self) -> dict[str, Any]:
        """Everything that features depend on beside the images, as JSON takes it."""
        return known_by(self.model) | {"arithmetic": self._arithmetic}


def known_by(model: nn.Module) -> dict[str, Any]:
    """What a model computes below its heads, and on what, as JSON takes it."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not _is_of_head(name, model):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    modules = [(name, module) for name, module in model.named_modules() if not _is_of_head(name, model)]
    return {
        "weights": digest.hexdigest(),
        "modules": [[name, type(module).__name__, module.extra_repr()] for name, module in modules],
        "others": [attention_heads(model), str(getattr(model, "global_pool", None))],
        "fused": [name for name, module in modules if getattr(module, "fused_attn", False) is True],
        "machine": _machine(),
        "code": _code(),
    }


def _is_of_head(name: str, model: nn.Module) -> bool:
    return any(f"{name}.".startswith(f"{head}.") for head in head_names(model))


def cut(
    model: nn.Module, inputs: Tensor, context: Context = nullcontext, arithmetic: dict[str, Any] | None = None
) -> Frozen | None:
    """The model, moved to its device, cut in front of its head; None where it cannot be cut.

    Args:
        model: timm's, in the mode in which it would be used: see :meth:`Frozen.cuts`.
        inputs: some inputs of it.
        context, arithmetic: see :class:`Frozen`.
    """
    names, modules = head_names(model), dict(model.named_modules())
    if len(names) != 1 or names[0] not in modules:
        return None
    found = Frozen(model.to(device()), modules[names[0]], context, arithmetic)
    return found if found.cuts(inputs.to(device())) else None


class Features(EncryptedImages):
    """Features in place of the encrypted images that they are of; all else is known of them as of the images.

    Args:
        images: a split.
        rows: float32 (n, D) of every view.
    """

    def __init__(self, images: EncryptedImages, rows: list[np.ndarray]) -> None:
        vars(self).update(vars(images))
        self._rows = rows
        self._targets = images.labelling.targets(images.labels())

    def __getitem__(self, sample: int) -> tuple[Tensor, Any]:
        """Features, float32 (D,), and the target of a sample."""
        features, targets = self.batch(np.array([sample]))
        return features[0], targets[0]

    def batch(self, samples: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features, float32 (n, D), and targets of samples; :func:`ppvit.data.batches.load_batches` asks for them."""
        views, indices = np.divmod(samples, len(self))
        chosen = self._rows[0][indices]
        for view in range(1, len(self._rows)):
            chosen[views == view] = self._rows[view][indices[views == view]]
        return torch.from_numpy(chosen), torch.from_numpy(self._targets[indices])


def head_and_features(
    model: nn.Module,
    splits: dict[str, EncryptedImages],
    context: Context = nullcontext,
    arithmetic: dict[str, Any] | None = None,
) -> tuple[nn.Module, dict[str, EncryptedImages]]:
    """The head of a model and the features of all splits, from scratch or computed now.

    Args: see :func:`cut`, and
        splits: encrypted images by name; the first has some.

    Returns:
        The model and the splits as they are where it cannot be cut, or where features cannot be kept.
    """
    some = next(iter(splits.values()))
    inputs = torch.stack([some[number][0] for number in range(min(_PROBED, len(some)))])
    frozen = cut(model, model_input(inputs), context, arithmetic)
    if frozen is None:
        return model, splits
    known = frozen.determines()
    found = {name: _of_images(frozen, images, known) for name, images in splits.items()}
    kept = {name: images for name, images in found.items() if images is not None}
    return (frozen.head, kept) if len(kept) == len(splits) else (model, splits)


def _of_images(frozen: Frozen, images: EncryptedImages, known: dict[str, Any]) -> EncryptedImages | None:
    """Features of a split; None where they cannot be kept."""
    if not len(images):
        return images
    width = frozen.features(model_input(images[0][0][None].to(device()))).shape[1]
    rows = []
    for view in range(images.views):
        kept = kept_array(
            f"features of {images.folder}",
            {**known, "images": images.identity(), "view": view},
            (len(images), width),
            np.dtype(np.float32),
            partial(_made, frozen, images, view),
        )
        if kept is None:
            return None
        rows.append(kept)
    return Features(images, rows)


def _made(frozen: Frozen, images: EncryptedImages, view: int) -> Iterator[np.ndarray]:
    order = np.arange(view * len(images), (view + 1) * len(images))
    batches = np.split(order, range(BATCH, len(order), BATCH))
    bar = tqdm(load_batches(images, batches), total=len(batches), desc="features", unit="batch", disable=None)
    return in_batches(frozen, (model_input(batch.to(device())) for batch, _ in bar))


def in_batches(frozen: Frozen, inputs: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Features of batches of inputs on the device, float32 (n, D) each."""
    return (frozen.features(batch).cpu().numpy() for batch in inputs)


def _machine() -> list[str]:
    """What decides how numbers are rounded: processors differ in their instructions."""
    place = device()
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return [place.type, name, "oneDNN" if is_used() else "", sys.platform]


@cache
def _code() -> list[str]:
    """Versions of what computes, and the code of ours that stands between an image and its features."""
    digest = hashlib.sha256()
    for package in ("models", "data"):
        for path in sorted((Path(ppvit.__file__).parent / package).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return [f"{name} {version(name)}" for name in ("torch", "timm", "numpy")] + [digest.hexdigest()]
