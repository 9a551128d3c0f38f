"""Weights of one's own, or of others, in a network of timm: found, named, checked, loaded, and what was used told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from ppvit.core.errors import PpvitError, brief
from ppvit.models import networks, resnet
from ppvit.models.building import Filter, filter_of, skeleton, unfilled
from ppvit.models.checkpoint_config import Said, read_said
from ppvit.models.checkpoint_names import Renamed, timm_names
from ppvit.models.networks import Network, network_of
from ppvit.models.normalization import Given, Origin, normalization_of
from ppvit.models.weights_file import Checkpoint, read_checkpoint

_METHODS = {
    "teacher": "DINO",
    "student": "DINO",
    "base_encoder": "MoCo",
    "momentum_encoder": "MoCo",
    "encoder_q": "MoCo",
}
_RELATIVE = ("relative_position_bias_table", "rel_pos_h", "rel_pos_w")
_GELUS = {"gelu_python": "gelu"} | dict.fromkeys(
    ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_tanh", "gelu_accurate"), "gelu_tanh"
)


def load_checkpoint(
    name: str, architecture: str, model_args: dict[str, Any], weights: Path, mean: Given = (), std: Given = ()
) -> tuple[nn.Module, Origin]:
    """Build a network and load a checkpoint into it.

    Args:
        name: ``model.name``, for errors.
        architecture: of timm, with or without a tag.
        model_args: arguments of ``timm.create_model``; those that the checkpoint decides are added: ``num_classes``,
            ``global_pool`` and others.
        weights: the file.
        mean, std: in place of what the checkpoint says.

    Raises:
        PpvitError: unreadable weights, or those of another network: what the file holds, and what was wanted.
        UsageError: a network that timm does not build.
    """
    checkpoint = read_checkpoint(weights)
    usual = skeleton(architecture, model_args)  # with the head that timm gives it
    renamed = timm_names(checkpoint.state, usual.state_dict())
    said = read_said(weights, renamed.writer, checkpoint.said)
    state, held = dict(renamed.state), network_of(renamed.state, networks.head_weights(usual))
    known = held.kind != networks.OTHER or state.keys() & usual.state_dict().keys()
    names = f"names of {renamed.writer}" if known else f"names that are not known here, such as '{next(iter(state))}'"
    refused = f"{weights} holds a {held} under {names}"
    if renamed.prefix in ("backbone.", "encoder.") and _is_ours(architecture):  # a checkpoint of solo-learn
        model_args["stem_padding"] = resnet.SOLO_LEARN_PADDING
    model_args |= {"num_classes": held.classes, **said.arguments}
    wanted = network_of(_skeleton_that_pools(architecture, model_args, state, said).state_dict())
    if any(".lora_A." in key or ".base_layer." in key for key in state):
        raise PpvitError(
            f"{weights} holds adapters of peft that are not merged; save the model that merge_and_unload() returns"
        )
    if networks.differs(held, wanted):
        raise PpvitError(
            f"{refused}; model.name {name} is a {wanted}; {_remedy(name, state, held, renamed.writer if known else '')}"
        )
    model = unfilled(architecture, model_args)
    _require_as_said(name, architecture, model_args, model, said, weights)
    if held.channels == 1 and wanted.channels == 3:
        state = _for_three_colours(state)
    why = _fill(model, filter_of(architecture, model_args), state)
    if why is not None:
        raise PpvitError(
            f"{refused}; for model.name {name} it {why}; {_remedy(name, state, held, renamed.writer if known else '')}"
        )
    by_default = normalization_of(name, architecture, model, weights, said, _method(checkpoint, renamed))
    changes = _changes(held, wanted, model, state, said)
    notes = (*_notes(checkpoint, renamed), *changes, *by_default[3:])
    origin = Origin(f"{held} of {renamed.writer}", by_default[2], *by_default[:2], notes).given(mean, std)
    if held.channels == 1 and (len(set(origin.mean)) > 1 or len(set(origin.std)) > 1):
        raise PpvitError(
            f"{weights} holds a network for one channel, and mean and std ({origin.normalization}) are not the same "
            "for all colours; set model.mean and model.std to one value three times"
        )
    return model, origin


def _fill(model: nn.Module, renames: Filter, state: dict[str, Tensor]) -> str | None:
    """Load a state into a model; what is wrong with it where it does not fit."""
    types = {key: tensor.dtype for key, tensor in model.state_dict().items()}
    try:
        state = renames(state, model)
        if (why := networks.mismatched(state, model)) is not None:
            return why
        # copies, which the model alone holds: a file may be of another precision, or hold one tensor under two names
        state = {key: tensor.to(types.get(key, tensor.dtype), copy=True) for key, tensor in state.items()}
        model.load_state_dict(state, strict=True, assign=True)
    except Exception as error:  # timm's filters and torch meet shapes of any kind
        return f"cannot be used ({brief(error)})"
    return None


def _changes(held: Network, wanted: Network, model: nn.Module, state: dict[str, Tensor], said: Said) -> Iterator[str]:
    """What was changed in loading, and what is not quite as in the library that the weights are from."""
    if held.channels == 1 and wanted.channels == 3:
        yield "its one input channel was spread over three colours, so that grey pictures give what they gave"
    if held.positions != wanted.positions:
        yield f"its {held.positions} positions were resampled to {wanted.positions}"
    tables = {name: len(each) for name, each in model.state_dict().items() if name.endswith(_RELATIVE)}
    resampled = [name for name, length in tables.items() if name in state and len(state[name]) != length]
    if resampled:
        lengths = f"{len(state[resampled[0]])} to {tables[resampled[0]]} entries"
        yield f"{len(resampled)} of its tables of relative positions were resampled, the first from {lengths}"
    eps = networks.norm_eps(model)
    if said.norm_eps is not None and eps is not None and not 0.9 < said.norm_eps / eps < 1.1:
        yield f"layer normalisation adds {eps:g} to the variance, where {said.file} says {said.norm_eps:g}"


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


def _skeleton_that_pools(
    architecture: str, model_args: dict[str, Any], state: dict[str, Tensor], said: Said
) -> nn.Module:
    """The network without values, with ``global_pool`` set where the checkpoint has another than the architecture's."""
    model = skeleton(architecture, model_args)
    own: Any = getattr(model, "global_pool", None)
    own = own if isinstance(own, str) else getattr(own, "pool_type", None)
    if own is None:
        return model
    wanted = model.state_dict()
    pooling = said.pooling if said.architecture is not None else None
    if "fc_norm.weight" in state and "norm.weight" not in state and "fc_norm.weight" not in wanted:
        pooling = "avg"  # normalised behind the mean, as MAE is fine-tuned
    elif "norm.weight" in state and "fc_norm.weight" not in state and "norm.weight" not in wanted:
        pooling = "token"
    if pooling not in ("token", "avg", "max", "map") or pooling == own:
        return model
    model_args["global_pool"] = pooling
    return skeleton(architecture, model_args)


def _require_as_said(
    name: str, architecture: str, model_args: dict[str, Any], model: nn.Module, said: Said, weights: Path
) -> None:
    """Compare with a model what no tensor shows.

    Raises:
        PpvitError: the checkpoint says that it is of another network.
    """
    where = f"{weights.parent / said.file} says"
    if said.architecture is not None and said.architecture != architecture.split(".")[0]:
        if not timm.is_model(said.architecture):
            raise PpvitError(f"{where} architecture {said.architecture}, which this timm does not know; update timm")
        if not networks.same_network(skeleton(said.architecture, model_args), skeleton(architecture, model_args)):
            raise PpvitError(
                f"{where} architecture {said.architecture}, not {name}; set model.name={said.architecture}"
            )
    gelu = networks.activation(model)
    activation = _GELUS.get(said.activation or "", said.activation)
    if gelu is not None and activation is not None and gelu != activation:
        hint = f"a name of timm with {activation}" if activation != "gelu" else "a name without another activation"
        raise PpvitError(f"{where} activation {said.activation}, and model.name {name} has {gelu}; choose {hint}")
    heads = networks.attention_heads(model)
    if said.heads is not None and heads is not None and said.heads != heads:
        raise PpvitError(
            f"{where} {said.heads} attention heads, and model.name {name} has {heads}; choose another name"
        )
    held = network_of(model.state_dict())
    for what, value, own in (
        ("patches of", said.patch, held.patch),
        ("width", said.width, held.width),
        ("depth", said.depth, held.depth[0] if len(held.depth) == 1 else None),
    ):
        if value is not None and own is not None and value != own:
            raise PpvitError(f"{where} {what} {value}, and the weights beside it have {own}; fetch both again")


def _remedy(name: str, state: dict[str, Tensor], held: Network, writer: str) -> str:
    if not writer:
        return "save it under names of timm, or of a program that docs/checkpoints.md has"
    found = networks.name_that_fits(state, held, name, writer)
    return f"set model.name={found}" if found else "set model.name to that network, or model.checkpoint to another file"


def _for_three_colours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A first convolution of one channel for three: for equal channels it gives what it gave, up to rounding."""
    first = next(name for name in state if networks.is_first_layer(name) and state[name].ndim == 4)
    return state | {first: (state[first].double() / 3).repeat(1, 3, 1, 1)}
