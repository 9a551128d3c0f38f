"""What a checkpoint says of itself beside its tensors: in files of its folder, and in the weights file.

They tell what no tensor shows: how pictures are normalised, the number of attention heads, the activation, the pooling.
Read are ``config.json`` of timm, ``config.json`` and ``preprocessor_config.json`` of transformers,
``open_clip_config.json``, metadata of safetensors, ``hyper_parameters`` of Lightning, and ``args`` of timm and others.
The files are of strangers: bounded, and every value is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ppvit.core.errors import PpvitError, brief
from ppvit.core.reading import first_reason, read_bounded
from ppvit.models.records import ModelArguments

CONFIG_BYTES = 4 * 2**20  # names of 21,841 classes take one

Colours = tuple[float, float, float]

# of model_args: by dataset.image_size, by the tensors and by :attr:`Said.pooling`
_DECIDED_HERE = ("img_size", "num_classes", "in_chans", "global_pool")

_Text = Annotated[str, Field(max_length=200)]
_Number = Annotated[float, Field(ge=-1000, le=1000)]
_Colours = Annotated[list[_Number], Field(min_length=1, max_length=3)]
_Size = Annotated[int, Field(ge=1, le=65536)]


class _File(BaseModel):
    """A part of a stranger's file: names that are not read are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Pretrained(_File):
    mean: _Colours | None = None
    std: _Colours | None = None


class _Timm(_Pretrained):  # older files have no pretrained_cfg
    architecture: _Text
    pretrained_cfg: _Pretrained = Field(default_factory=_Pretrained)
    global_pool: _Text | None = None
    model_args: dict[str, Any] = Field(default_factory=dict)


class _Vision(_File):
    patch_size: _Size | list[_Size] | None = None
    hidden_size: _Size | None = None
    num_hidden_layers: _Size | None = None
    num_attention_heads: _Size | None = None
    hidden_act: _Text | None = None
    layer_norm_eps: _Number | None = None


class _Transformers(_Vision):
    model_type: _Text
    vision_config: _Vision | None = None


class _Processor(_File):
    image_mean: _Colours | _Number | None = None
    image_std: _Colours | _Number | None = None
    do_normalize: bool | None = None
    do_rescale: bool | None = None
    rescale_factor: Annotated[float, Field(gt=0, le=1000)] | None = None


class _Tower(_File):
    layers: _Size | list[_Size] | None = None
    width: _Size | None = None
    patch_size: _Size | None = None
    head_width: _Size = 64
    timm_model_name: _Text | None = None
    timm_pool: _Text | None = None
    pool_type: _Text = "tok"


class _Towers(_File):
    vision_cfg: _Tower
    quick_gelu: bool = False


class _OpenClip(_File):
    model_cfg: _Towers
    preprocess_cfg: _Pretrained = Field(default_factory=_Pretrained)


_R = TypeVar("_R", bound=_File)


@dataclass(frozen=True)
class Said:
    """What a checkpoint says; None where it says nothing.

    Attributes:
        source: the files that say it, the one on the network first, or the names in the weights file.
        architecture: of timm.
        mean, std: on a 0..1 scale, by channel: one for each colour.
        patch, depth, width, heads, activation: of the network; activation as timm names it, such as ``quick_gelu``.
        norm_eps: what layer normalisation adds to the variance.
        pooling: ``global_pool`` of timm.
        arguments: of ``timm.create_model``.
    """

    source: str = ""
    architecture: str | None = None
    mean: Colours | None = None
    std: Colours | None = None
    patch: int | None = None
    depth: int | None = None
    width: int | None = None
    heads: int | None = None
    activation: str | None = None
    norm_eps: float | None = None
    pooling: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Name of the file that tells of the network."""
        return self.source.split(" ")[0]


def read_said(weights: Path, writer: str, values: Mapping[str, Any]) -> Said:
    """What the files beside a weights file say, or else the values in it.

    Args:
        weights: the weights file.
        writer: whose names its tensors have, see :mod:`ppvit.models.checkpoint_names`: its file is preferred.
        values: ``said`` of :class:`ppvit.models.weights_file.Checkpoint`.

    Raises:
        PpvitError: a file is no JSON, or a value in it cannot be right.
    """
    folder = weights.parent
    readers = {"open_clip": _open_clip, "transformers": _transformers, "timm": _timm}
    first = {"CLIP": "open_clip"}.get(writer, writer)
    for name in sorted(readers, key=lambda name: name != first):
        said = readers[name](folder)
        if said is not None:
            return said
    return _inside(weights, values)


def has_configuration(folder: Path) -> bool:
    """Whether there is a file in a folder that says what the weights beside it are."""
    return any(read(folder) is not None for read in (_open_clip, _transformers, _timm))


def _timm(folder: Path) -> Said | None:
    path = folder / "config.json"
    record = _record(path, _Timm, "architecture")
    if record is None:
        return None
    mean, std = record.pretrained_cfg.mean or record.mean, record.pretrained_cfg.std or record.std
    arguments = {name: value for name, value in record.model_args.items() if name not in _DECIDED_HERE}
    try:
        ModelArguments.model_validate(arguments)
    except ValidationError as error:
        raise PpvitError(f"{path}: model_args: {first_reason(error)}; name a checkpoint of a plain model") from None
    name, _, _ = record.architecture.partition(".")
    pooling = record.model_args.get("global_pool", record.global_pool)
    return Said("config.json", name, *_colours(path, mean, std), pooling=pooling, arguments=arguments)


def _transformers(folder: Path) -> Said | None:
    record = _record(folder / "config.json", _Transformers, "model_type")
    if record is None:
        return None
    vision = record.vision_config or record
    patch = vision.patch_size[0] if isinstance(vision.patch_size, list) else vision.patch_size
    said = Said(
        "config.json",
        patch=patch,
        depth=vision.num_hidden_layers,
        width=vision.hidden_size,
        heads=vision.num_attention_heads,
        activation=vision.hidden_act,
        norm_eps=vision.layer_norm_eps,
    )
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        content = _content(path)
        if content is not None:
            mean, std = _processor(path, _checked(path, _Processor, content.get("image_processor", content)))
            return replace(said, source=f"config.json and {name}", mean=mean, std=std)
    return said


def _processor(path: Path, record: _Processor) -> tuple[Colours | None, Colours | None]:
    """Mean and standard deviation on a 0..1 scale, whatever values are multiplied with before."""
    mean, std = ([value] if isinstance(value, float) else value for value in (record.image_mean, record.image_std))
    if record.do_normalize is False:
        mean, std = [0.0], [1.0]
    elif mean is None or std is None:
        return None, None
    factor = 1.0 if record.do_rescale is False else record.rescale_factor or 1 / 255
    scale = factor * 255
    if abs(scale - 1) < 1e-6:
        scale = 1.0
    return _colours(path, [value / scale for value in mean], [value / scale for value in std])


def _open_clip(folder: Path) -> Said | None:
    path = folder / "open_clip_config.json"
    record = _record(path, _OpenClip)
    if record is None:
        return None
    given = record.preprocess_cfg  # what is not given is as CLIP has it
    mean, std = _colours(path, given.mean or list(OPENAI_CLIP_MEAN), given.std or list(OPENAI_CLIP_STD))
    vision = record.model_cfg.vision_cfg
    said = Said(path.name, vision.timm_model_name, mean, std)
    if vision.timm_model_name is not None:
        return replace(said, pooling=vision.timm_pool if vision.timm_pool in ("token", "avg", "map") else None)
    if vision.pool_type != "tok":
        raise PpvitError(
            f"{path}: pool_type {vision.pool_type} is not what timm's networks do; name another checkpoint"
        )
    heads = vision.width // vision.head_width if vision.width else None
    depth = vision.layers if isinstance(vision.layers, int) else None
    activation = "quick_gelu" if record.model_cfg.quick_gelu else "gelu"
    return replace(said, patch=vision.patch_size, depth=depth, width=vision.width, heads=heads, activation=activation)


def _inside(weights: Path, values: Mapping[str, Any]) -> Said:
    """What a weights file says beside its tensors, in the first place that says how pictures are normalised."""
    for place in ("hyper_parameters", "args", "metadata"):
        held = values.get(place) if place != "metadata" else {name: _parsed(text) for name, text in values.items()}
        if not isinstance(held, Mapping):
            continue
        nested = [held, *(held[name] for name in ("pretrained_cfg", "config") if isinstance(held.get(name), Mapping))]
        for each in nested:
            mean = each.get("mean") or each.get("image_mean")
            std = each.get("std") or each.get("image_std")
            if mean and std:
                checked = _checked(weights, _Pretrained, {"mean": _plain(mean), "std": _plain(std)}, f"{place}: ")
                return Said(f"{place} of the file", None, *_colours(weights, checked.mean, checked.std))
    return Said()


def _plain(value: Any) -> Any:
    return (
        [float(each) if isinstance(each, int) else each for each in value] if isinstance(value, tuple | list) else value
    )


def _parsed(text: Any) -> Any:
    """A value of the metadata of safetensors, which are texts alone."""
    try:
        return json.loads(text) if isinstance(text, str) and len(text) < CONFIG_BYTES else text
    except (ValueError, RecursionError):
        return text


def _content(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(read_bounded(path, CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise PpvitError(f"{path} is not valid JSON ({brief(error)}); fetch it again") from None
    if not isinstance(content, dict):
        raise PpvitError(f"{path} holds no names and values; fetch it again")
    return content


def _record(path: Path, kind: type[_R], name: str = "") -> _R | None:
    """What a file says; None where there is none, or one of another program, which has no value of that name."""
    content = _content(path)
    return None if content is None or (name and name not in content) else _checked(path, kind, content)


def _checked(path: Path, kind: type[_R], content: Any, where: str = "") -> _R:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise PpvitError(f"{path}: {where}{first_reason(error)}; mend it, or fetch it again") from None


def _colours(path: Path, mean: list[float] | None, std: list[float] | None) -> tuple[Colours | None, Colours | None]:
    """The same, for three colours each."""
    if mean is None or std is None:
        return None, None
    if min(std) <= 0 or len(mean) == 2 or len(std) == 2:
        raise PpvitError(f"{path}: mean {mean} and std {std} normalise no three colours; set model.mean and model.std")
    red, green, blue = mean * 3 if len(mean) == 1 else mean
    first, second, third = std * 3 if len(std) == 1 else std
    return (red, green, blue), (first, second, third)
