"""How a checkpoint's network wants its pictures: mean and standard deviation by colour, and who says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import nn

from ppvit.models.checkpoint_config import Colours, Said

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
        """For a model's ``config.json``: :class:`ppvit.models.records.OriginRecord`."""
        return {
            "weights": self.weights,
            "normalization": self.normalization,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return "; ".join((f"{self.weights}; mean {mean}, std {std} ({self.normalization})", *self.notes))


def normalization_of(
    name: str, architecture: str, model: nn.Module, weights: Path, said: Said, method: str
) -> tuple[Colours, Colours, str] | tuple[Colours, Colours, str, str]:
    """Mean, standard deviation and who says so: the checkpoint, else what it is known by, else timm's name.

    The last may be wrong, where timm has weights of the same network that want another; then a note says so.
    """
    if said.mean is not None and said.std is not None:
        return said.mean, said.std, said.source
    configuration = cast(dict[str, Any], model.pretrained_cfg)
    own = three(configuration["mean"]), three(configuration["std"])
    if "." in architecture:  # a tag names the weights themselves
        return *own, f"of timm's {architecture}"
    stem = next((stem for stem in _names_in(weights) if stem != architecture), None)
    if stem is not None and (found := timm.get_pretrained_cfg(stem)) is not None:
        return three(found.mean), three(found.std), f"of timm's {stem}, by the file's name"
    if method in _KNOWN:
        return *_KNOWN[method], f"what {method} uses"
    others = _others(architecture, own) if name == architecture else []
    if others:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in others[0][1])
        note = (
            f"the file does not say so, and timm's {others[0][0]} has mean {mean}, std {std}: set model.mean, model.std"
        )
        return *own, f"of timm's {architecture}", f"{note} if its weights are of that kind"
    return *own, f"of timm's {architecture}"


def _others(architecture: str, own: Normalization) -> list[tuple[str, Normalization]]:
    """Weights of timm for the same network that want pictures in another way."""
    names = timm.list_pretrained(f"{architecture}.*")
    if architecture.startswith("vit_"):
        names += timm.list_pretrained(f"deit_{architecture.removeprefix('vit_')}.*")
    found = [(name, timm.get_pretrained_cfg(name)) for name in names]
    wanted = [(name, (three(each.mean), three(each.std))) for name, each in found if each is not None]
    return [(name, normalization) for name, normalization in wanted if normalization != own]


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
