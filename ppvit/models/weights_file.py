"""Pretrained weights as other programs write them: timm, torchvision, plain ``torch.save``, solo-learn."""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from ppvit.config import NO_MODEL
from ppvit.core.errors import PpvitError, UsageError, brief, printable
from ppvit.core.reading import read_bounded

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

# of the files in a folder of a hub, which hold the same weights: the first that is there
_USUAL_NAMES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
# of weights in several files: which tensor is in which
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_INDEX_BYTES = 16 * 2**20
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_POINTER = b"version https://git-lfs"  # what git clones without Git LFS, in place of the file
_SAVED = (b"PK", b"\x80")  # archives and pickles, which torch.save writes
# where files keep their tensors: averaged ones first, a teacher (which DINO evaluates) before the student
_PARTS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "model_state_dict", "net")
_DEPTH = 3  # dictionaries in one another


def find_weights(checkpoint: Path, name: str) -> Path | None:
    """The weights file that ``model.checkpoint`` means: itself, or the one in that folder; None for the default.

    Of weights in several files it is the index of them.
    """
    if checkpoint == Path(NO_MODEL):
        return None
    if checkpoint.is_file():
        return checkpoint
    if not checkpoint.is_dir():
        raise UsageError(f"model.checkpoint {checkpoint} does not exist; name a {' or '.join(WEIGHT_SUFFIXES)} file")
    found = sorted(path for path in checkpoint.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    named = [path for path in found if path.stem == name]
    indices = [checkpoint / each for each in _INDICES if (checkpoint / each).is_file()]
    usual = ([checkpoint / each for each in _USUAL_NAMES if checkpoint / each in found] + indices)[:1]
    chosen = found if len(found) == 1 and not indices else named if len(named) == 1 else usual
    if found and not chosen:
        raise UsageError(f"model.checkpoint {checkpoint} holds {len(found)} weights files; name one of them")
    if not found:
        remedy = f"name one, or set it back to {NO_MODEL}"
        if (checkpoint / "snapshots").is_dir():  # as huggingface_hub keeps what it has fetched
            remedy = "name a folder in its snapshots/"
        raise UsageError(f"model.checkpoint {checkpoint} holds no weights file; {remedy}")
    return chosen[0]


def is_shard(path: Path) -> bool:
    """Whether a file's name is that of one part of weights in several files."""
    return bool(_SHARD.search(path.stem))


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        state: tensors by name, on the CPU.
        part: under which names of the file they stand, such as ``teacher``; empty at the top.
        said: what else stands there that may tell of the network: ``hyper_parameters`` of Lightning, ``args`` of timm
            and others, metadata of safetensors; numbers, texts, lists and dictionaries as they were written.
    """

    state: dict[str, Tensor]
    part: tuple[str, ...]
    said: dict[str, Any]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file alone, see :func:`read_checkpoint`."""
    return read_checkpoint(path).state


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weights file; averaged tensors (``state_dict_ema``) where it holds them.

    Tensors may be at the top of the file or in one of its parts (``state_dict``, ``model``, ``teacher``, ...); no code
    in the file is run.

    Raises:
        PpvitError: unreadable, more than plain tensors, or values that are no numbers.
    """
    if not path.is_file():
        raise PpvitError(f"{path} is missing; get it back with git, or name a weights file in model.checkpoint")
    if path.name in _INDICES:
        parts = [read_checkpoint(part) for part in _indexed(path)]
        return Checkpoint({name: each for part in parts for name, each in part.state.items()}, (), parts[0].said)
    if _beginning(path).startswith(_POINTER):
        raise PpvitError(f"{path} is a pointer of Git LFS in place of the file; fetch it: git lfs pull")
    _require_stored(path)
    try:
        content, metadata = _read(path)
    except Exception as error:  # safetensors, torch, pickle and zipfile raise kinds of their own
        if "weights_only" in str(error):
            reason = f"{path} is not a plain weights file: loading it could run code; have it saved as .safetensors"
        else:
            reason = f"{path} cannot be read as weights ({brief(error)}); fetch it again"
        raise PpvitError(reason) from None
    state, part = _tensors_in(content)
    state.pop("n_averaged", None)  # a counter of torch's AveragedModel
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        held = f"'{printable(others[0][:100])}', which is no tensor" if others else "no tensors"
        raise PpvitError(f"{path} holds {held}; save the model's state_dict alone, or under 'state_dict'")
    _require_plain(state, path)
    said: dict[str, Any] = {**metadata}
    for name in ("hyper_parameters", "args") if part else ():
        if name in content:
            said[name] = vars(content[name]) if isinstance(content[name], argparse.Namespace) else content[name]
    return Checkpoint(clean_state_dict(state), part, said)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, all in its folder."""
    try:
        named = set(json.loads(read_bounded(index, _INDEX_BYTES))["weight_map"].values())
        plain = all(Path(name).name == name and Path(name).suffix in WEIGHT_SUFFIXES for name in named)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        named, plain = set(), False
    if not plain or not named:
        raise PpvitError(f"{index} does not say which files beside it hold the weights; fetch it again")
    paths = [index.parent / name for name in sorted(named)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise PpvitError(f"{missing[0]} is missing, which {index.name} names; fetch the folder again")
    return paths


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of a file, and the metadata of a safetensors file, by what it begins with where its name is wrong."""
    beginning = _beginning(path)
    if path.suffix == ".safetensors" or beginning[7:9] == b"\0{":  # behind the length of its list of tensors
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        return load_file(path), metadata or {}
    if not beginning.startswith(_SAVED):  # of anything else torch says that it could run code
        raise TypeError("it is neither a safetensors file nor one that torch.save wrote")
    with torch.serialization.safe_globals([argparse.Namespace]):  # plain values, which many training scripts keep
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise TypeError(f"there is no dictionary in it but a {type(content).__name__}")
    return dict(content), {}


def _tensors_in(content: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The dictionary of tensors in what a file holds, and the names under which it stands."""
    part: tuple[str, ...] = ()
    while not _holds_tensors(content, 0):
        nested = {name: value for name, value in content.items() if isinstance(value, Mapping)}
        nested = {name: value for name, value in nested.items() if _holds_tensors(value, _DEPTH - len(part))}
        known = [name for name in _PARTS if name in nested]
        if not known and len(nested) != 1:
            break
        chosen = known[0] if known else next(iter(nested))
        content, part = nested[chosen], (*part, chosen)
    return dict(content), part


def _holds_tensors(content: Mapping[str, Any], depth: int) -> bool:
    """Whether there are tensors in a dictionary, or in others of it that many steps down."""
    return any(
        isinstance(value, Tensor) or (depth > 0 and isinstance(value, Mapping) and _holds_tensors(value, depth - 1))
        for value in content.values()
    )


def _require_plain(state: dict[str, Tensor], path: Path) -> None:
    size = path.stat().st_size
    for name, value in state.items():  # a few bytes may be repeated to a tensor of any size, or stand for none
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise PpvitError(f"{path} holds '{name}', which is no plain tensor; save the model's state_dict again")
        if value.numel() * value.element_size() > size:
            raise PpvitError(f"{path} has {size:,} bytes, fewer than its tensor '{name}'; fetch it again")
    broken = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if broken is not None:
        raise PpvitError(f"{path} holds values that are no numbers in '{broken}'; fetch it again")


def _require_stored(path: Path) -> None:
    """Refuse an archive with compressed members, which torch never writes: they may be of any size."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise PpvitError(f"{path} cannot be read as weights ({brief(error)}); fetch it again") from None
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise PpvitError(f"{path} is compressed, as torch writes no weights; save it again with torch.save")
