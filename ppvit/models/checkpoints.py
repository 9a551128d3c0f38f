"""Weights of one's own, or of others, in a network of timm: found, named, checked, loaded, and what was used told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor, nn

from ppvit.core.errors import PpvitError
from ppvit.models import networks, resnet
from ppvit.models.building import filter_of, skeleton, unfilled
from ppvit.models.checkpoint_config import Colours, Said, read_said
from ppvit.models.checkpoint_names import Renamed, classes_of, timm_names
from ppvit.models.networks import Network, network_of
from ppvit.models.weights_file import Checkpoint, brief, read_checkpoint

Normalization = tuple[Colours, Colours]
Given = Sequence[float] | Literal["none"]
"""Mean or standard deviation of ``params.yaml``: a value for each colour, nothing to take the checkpoint's, or none."""

# of programs and methods that normalise in one way only
_IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
_KNOWN: dict[str, Normalization] = {
    "torchvision": _IMAGENET,
    "MAE": _IMAGENET,
    "DINO": _IMAGENET,
    "DINOv2": _IMAGENET,
    "MoCo": _IMAGENET,
    "CLIP": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}
_METHODS = {"teacher": "DINO", "student": "DINO", "base_encoder": "MoCo", "momentum_encoder": "MoCo", "encoder_q": "MoCo"}
_GELUS = {"gelu": "gelu", "quick_gelu": "quick_gelu"} | dict.fromkeys(
    ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_tanh"), "gelu_tanh"
)


@dataclass(frozen=True)
class Origin:
    """Where weights and normalisation are from.

    Attributes:
        weights: what the file holds, in words.
        normalization: who says mean and std.
        mean, std: by colour, on a 0..1 scale.
        notes: what else a person should know, a sentence each.
    """

    weights: str
    normalization: str
    mean: Colours
    std: Colours
    notes: tuple[str, ...] = ()

    def given(self, mean: Given, std: Given) -> Origin:
        """The same with another normalisation, where one is given."""
        if not mean and not std:
            return self
        chosen = [
            (default,) * 3 if value == "none" else three(value) if value else own
            for value, own, default in ((mean, self.mean, 0.0), (std, self.std, 1.0))
        ]
        return replace(self, normalization="of params.yaml", mean=chosen[0], std=chosen[1])

    def record(self) -> dict[str, Any]:
        """For a model's ``config.json``: :class:`ppvit.models.records.Pretraining`."""
        return {
            "weights": self.weights,
            "normalization": self.normalization,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return "; ".join((f"{self.weights}; mean {mean}, std {std} ({self.normalization})", *self.notes))


def load_checkpoint(name: str, architecture: str, model_args: dict[str, Any], weights: Path) -> tuple[nn.Module, Origin]:
    """Build a network and load a checkpoint into it.

    Args:
        name: ``model.name``, for errors.
        architecture: of timm, with or without a tag.
        model_args: arguments of ``timm.create_model``; those that the checkpoint decides are added: ``num_classes``,
            ``global_pool`` and others.
        weights: the file.

    Raises:
        PpvitError: unreadable weights, or those of another network: what the file holds, and what was wanted.
        UsageError: a network that timm does not build.
    """
    checkpoint = read_checkpoint(weights)
    renamed = timm_names(checkpoint.state)
    said = read_said(weights, renamed.writer, checkpoint.said)
    state, notes = dict(renamed.state), _notes(checkpoint, renamed)
    if renamed.prefix in ("backbone.", "encoder.") and _is_ours(architecture):  # a checkpoint of solo-learn
        model_args["stem_padding"] = resnet.SOLO_LEARN_PADDING
    model_args |= {"num_classes": classes_of(state), **said.arguments}
    _choose_pooling(architecture, model_args, state, said)
    model = unfilled(architecture, model_args)
    held, wanted = network_of(state), network_of(model.state_dict())
    refused = f"{weights} holds a {held} under the names of {renamed.writer}; "
    if networks.differs(held, wanted):
        raise PpvitError(f"{refused}model.name {name} is a {wanted}; {_remedy(name, state, held)}")
    _require_as_said(name, architecture, model_args, model, said, weights)
    if held.channels == 1 and wanted.channels == 3:
        state = _for_three_colours(state)
        notes.append("its one input channel was spread over three colours, so that grey pictures give what they gave")
    if held.positions != wanted.positions:
        notes.append(f"its {held.positions} positions were resampled to {wanted.positions}")
    if said.norm_eps is not None and (eps := networks.norm_eps(model)) and abs(said.norm_eps / eps - 1) > 0.1:
        notes.append(f"layer normalisation adds {eps:g} to the variance, where {said.source} says {said.norm_eps:g}")
    types = {key: tensor.dtype for key, tensor in model.state_dict().items()}
    try:
        state = filter_of(architecture, model_args)(state, model)
        why = networks.mismatched(state, model)
        if why is None:
            # copies, which the model alone holds: a file may be of another precision, or have one tensor under two names
            state = {key: tensor.to(types.get(key, tensor.dtype), copy=True) for key, tensor in state.items()}
            model.load_state_dict(state, strict=True, assign=True)
    except Exception as error:  # timm's filters and torch meet shapes of any kind
        why = brief(error)
    if why is not None:
        raise PpvitError(f"{refused}it does not fit model.name {name}: it {why}; {_remedy(name, state, held)}")
    mean, std, source = _normalization(name, architecture, model, weights, said, _method(checkpoint, renamed))
    if held.channels == 1 and (len(set(mean)) > 1 or len(set(std)) > 1):
        raise PpvitError(
            f"{weights} holds a network for one channel, and {source} normalises three colours each in its own way; set "
            "model.mean and model.std to one value three times"
        )
    return model, Origin(f"{held} of {renamed.writer}", source, mean, std, tuple(notes))


def _is_ours(architecture: str) -> bool:
    return timm.model_entrypoint(architecture.split(".")[0]).__module__ == resnet.__name__


def _notes(checkpoint: Checkpoint, renamed: Renamed) -> list[str]:
    where = ".".join((*checkpoint.part, renamed.prefix)).strip(".")
    taken = f"taken from '{where}'" if where and where not in ("state_dict", "model") else ""
    left = f"left out: {', '.join(renamed.left_out[:6])}" if renamed.left_out else ""
    return [note for note in (taken, left) if note]


def _method(checkpoint: Checkpoint, renamed: Renamed) -> str:
    words = [*checkpoint.part, *renamed.prefix.split(".")]
    return next((_METHODS[word] for word in words if word in _METHODS), renamed.writer)


def _choose_pooling(architecture: str, model_args: dict[str, Any], state: dict[str, Tensor], said: Said) -> None:
    """Set ``global_pool`` where the checkpoint has another than the architecture's own."""
    model = skeleton(architecture, model_args)
    own: str | None = getattr(model, "global_pool", None)
    if not isinstance(own, str) or not hasattr(model, "blocks"):
        return
    wanted = model.state_dict()
    pooling = said.pooling if said.architecture is not None else None
    if "fc_norm.weight" in state and "norm.weight" not in state and "fc_norm.weight" not in wanted:
        pooling = "avg"  # normalised behind the mean, as MAE is fine-tuned
    elif "norm.weight" in state and "fc_norm.weight" not in state and "norm.weight" not in wanted:
        pooling = "token"
    if pooling in ("token", "avg", "max", "map") and pooling != own:
        model_args["global_pool"] = pooling


def _require_as_said(
    name: str, architecture: str, model_args: dict[str, Any], model: nn.Module, said: Said, weights: Path
) -> None:
    """Compare with a model what no tensor shows.

    Raises:
        PpvitError: the checkpoint says that it is of another network.
    """
    where = f"{weights.parent / said.source.split(' ')[0]} says"
    if said.architecture is not None and said.architecture != architecture.split(".")[0]:
        if not timm.is_model(said.architecture):
            raise PpvitError(f"{where} architecture {said.architecture}, which this timm does not know; update timm")
        if not networks.same_network(skeleton(said.architecture, model_args), skeleton(architecture, model_args)):
            raise PpvitError(f"{where} architecture {said.architecture}, not {name}; set model.name={said.architecture}")
    gelu = networks.activation(model)
    activation = _GELUS.get(said.activation or "")
    if gelu is not None and activation is not None and gelu != activation:
        hint = f"a name of timm with {activation}" if activation != "gelu" else "a name without another activation"
        raise PpvitError(f"{where} activation {said.activation}, and model.name {name} has {gelu}; choose {hint}")
    heads = networks.attention_heads(model)
    if said.heads is not None and heads is not None and said.heads != heads:
        raise PpvitError(f"{where} {said.heads} attention heads, and model.name {name} has {heads}; choose another name")
    held = network_of(model.state_dict())
    for what, value, own in (
        ("patches of", said.patch, held.patch),
        ("width", said.width, held.width),
        ("depth", said.depth, held.depth[0] if len(held.depth) == 1 else None),
    ):
        if value is not None and own is not None and value != own:
            raise PpvitError(f"{where} {what} {value}, and the weights beside it have {own}; fetch both again")


def _remedy(name: str, state: dict[str, Tensor], held: Network) -> str:
    found = networks.name_that_fits(state, held, name)
    return f"set model.name={found}" if found else "set model.name to that network, or model.checkpoint to another file"


def _for_three_colours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A first convolution of one channel for three: for equal channels it gives what it gave, up to rounding."""
    first = next(name for name in state if networks.is_first_layer(name) and state[name].ndim == 4)
    return state | {first: (state[first].double() / 3).repeat(1, 3, 1, 1)}


def _normalization(
    name: str, architecture: str, model: nn.Module, weights: Path, said: Said, method: str
) -> tuple[Colours, Colours, str]:
    """Mean, standard deviation and who says so: the checkpoint, else what it is known by, else timm's name."""
    if said.mean is not None and said.std is not None:
        return said.mean, said.std, said.source
    configuration = cast(dict[str, Any], model.pretrained_cfg)
    of_name = (three(configuration["mean"]), three(configuration["std"]), f"of timm's {architecture}")
    if "." in architecture:  # a tag names the weights themselves
        return of_name
    stem = next((stem for stem in _names_in(weights) if stem.split(".")[0] != architecture or "." in stem), None)
    if stem is not None and (found := timm.get_pretrained_cfg(stem)) is not None:
        return three(found.mean), three(found.std), f"of timm's {stem}, by the file's name"
    if method in _KNOWN:
        return (*_KNOWN[method], f"what {method} uses")
    return of_name


def _names_in(weights: Path) -> list[str]:
    """Names of timm's networks, with a tag where there is one, that a file's name is or begins with."""
    stem = weights.name.removesuffix(weights.suffix)
    whole = [stem] if timm.is_model(stem) or _has_tag(stem) else []
    first = re.split(r"[-.]", stem)[0]
    return whole or ([first] if timm.is_model(first) else [])


def _has_tag(stem: str) -> bool:
    name, _, tag = stem.partition(".")
    return bool(tag) and timm.is_model(name) and stem in timm.list_pretrained(f"{name}.*")


def three(values: Any) -> Colours:
    """A value for each colour."""
    first, second, third = (float(value) for value in values)
    return first, second, third
