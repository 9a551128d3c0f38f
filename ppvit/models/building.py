"""Building timm's networks: from an architecture and its arguments, before any weights are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from timm.models import _builder as timm_builder
from torch import Tensor, nn

from ppvit.core.errors import PpvitError, UsageError, brief
from ppvit.models.without_values import without_values

Filter = Callable[..., dict[str, Tensor]]


def create(architecture: str, model_args: dict[str, Any], pretrained: bool = False) -> nn.Module:
    """``timm.create_model``, whose refusals become ours.

    Raises:
        UsageError: the architecture is not built for these arguments.
    """
    try:
        return timm.create_model(architecture, pretrained=pretrained, **model_args)
    except (TypeError, AssertionError) as error:
        if "img_size" in str(error):
            raise UsageError(
                f"model.name {architecture} is neither a Vision Transformer with a patch grid nor a ResNet; "
                "choose a timm ViT such as vit_base_patch16_224"
            ) from None
        raise UsageError(f"model.name {architecture} cannot be built for these sizes ({brief(error)})") from None


def unfilled(architecture: str, model_args: dict[str, Any]) -> nn.Module:
    """A model whose weights are still to come.

    On the meta device building takes no memory and draws no random numbers, which are most of the work for large models
    (ViT-B/16: 0.68 s of processor time to build it with them, 0.42 s to build it without and load its weights). Models
    that keep tensors which no weights file holds, such as tables of relative positions, are built the usual way; the
    caller's random state does not notice.
    """
    try:
        model = skeleton(architecture, model_args)
        if is_whole_in_file(model):
            return model
    except Exception:  # a value was needed that the meta device has not; what is wrong otherwise comes up again below
        pass
    with torch.random.fork_rng(devices=[]):
        return create(architecture, model_args)


def skeleton(architecture: str, model_args: dict[str, Any]) -> nn.Module:
    """A model on the meta device: names, shapes and dtypes without values."""
    with without_values():
        return create(architecture, model_args)


def is_whole_in_file(model: nn.Module) -> bool:
    """Whether a weights file holds all that a model computes with, so that it can be built without values."""
    return set(_tensors(model)) <= model.state_dict().keys()


def _tensors(model: nn.Module) -> Iterator[str]:
    """Names of everything that a model computes with: parameters, buffers, and tensors that are plain attributes."""
    for name, module in model.named_modules():
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        own |= {key: value for key, value in vars(module).items() if isinstance(value, Tensor)}
        yield from (f"{name}.{key}" if name else key for key in own)


def filter_of(architecture: str, model_args: dict[str, Any]) -> Filter:
    """The function by which timm turns weights as their authors published them into its own.

    Each family of timm's networks has one, which is given to the function that loads its weights and to no other place.
    So the network is built once, on the meta device, with a loader that loads nothing.

    Returns:
        A function of a state and the model that it is for; the state itself for families that have none.
    """
    found: list[Filter | None] = []

    def note(model: nn.Module, *_: Any, filter_fn: Filter | None = None, **__: Any) -> None:
        found.append(filter_fn)

    theirs = timm_builder.load_pretrained
    timm_builder.load_pretrained = note
    try:
        with without_values():
            create(architecture, model_args, pretrained=True)
    except (PpvitError, RuntimeError):  # it needs values: then without a filter of its own
        pass
    finally:
        timm_builder.load_pretrained = theirs
    own = found[0] if found else None

    def renamed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        if own is None:
            return state
        try:
            return own(dict(state), model)
        except TypeError as error:
            if "positional argument" not in str(error):
                raise
            return own(dict(state))  # some know of no model

    return renamed
