"""Pretrained weights as other programs write them: timm, torchvision, plain ``torch.save``, solo-learn."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from ppvit.config import NO_MODEL
from ppvit.core.errors import PpvitError, UsageError

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

_FIRST_LAYERS = ("conv1.weight", "patch_embed.proj.weight")
_HEADS = ("head.weight", "fc.weight", "head.fc.weight", "classifier.weight")


def find_weights(checkpoint: Path, name: str) -> Path | None:
    """The weights file that ``model.checkpoint`` means: itself, or the one in that folder; None for the default."""
    if checkpoint == Path(NO_MODEL):
        return None
    if checkpoint.is_file():
        return checkpoint
    if not checkpoint.is_dir():
        raise UsageError(f"model.checkpoint {checkpoint} does not exist; name a {' or '.join(WEIGHT_SUFFIXES)} file")
    found = sorted(path for path in checkpoint.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    named = [path for path in found if path.stem == name]
    if len(found) > 1 and len(named) != 1:
        raise UsageError(f"model.checkpoint {checkpoint} holds {len(found)} weights files; name one of them")
    if not found:
        raise UsageError(f"model.checkpoint {checkpoint} holds no weights file; name one, or set it back to {NO_MODEL}")
    return (named or found)[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU; averaged ones (``state_dict_ema``) where it holds them.

    Tensors may be at the top of the file, or under ``state_dict`` or ``model``; no code in the file is run.

    Raises:
        PpvitError: unreadable, more than plain tensors, or values that are no numbers.
    """
    if not path.is_file():
        raise PpvitError(f"{path} is missing; get it back with git, or name a weights file in model.checkpoint")
    _require_stored(path)
    try:
        state = load_state_dict(str(path), use_ema=True, weights_only=True)
    except Exception as error:  # safetensors, torch, pickle and zipfile raise kinds of their own
        if "weights_only" in str(error):
            reason = f"{path} is not a plain weights file: loading it could run code; have it saved as .safetensors"
        else:
            reason = f"{path} cannot be read as weights ({brief(error)}); fetch it again"
        raise PpvitError(reason) from None
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        held = f"'{others[0]}', which is no tensor" if others else "no tensors"
        raise PpvitError(f"{path} holds {held}; save the model's state_dict alone, or under 'state_dict'")
    size = path.stat().st_size
    for name, value in state.items():  # a few bytes may be repeated to a tensor of any size, or stand for none
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise PpvitError(f"{path} holds '{name}', which is no plain tensor; save the model's state_dict again")
        if value.numel() * value.element_size() > size:
            raise PpvitError(f"{path} has {size:,} bytes, fewer than its tensor '{name}'; fetch it again")
    broken = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if broken is not None:
        raise PpvitError(f"{path} holds values that are no numbers in '{broken}'; fetch it again")
    return state


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


def solo_learn_backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The backbone in a checkpoint of solo-learn (JMLR 23(56), 2022), under timm's names; None for another's.

    Its online classifier, projector, predictor and momentum copies are left out: none is part of the network that is
    fine-tuned. Early versions name the backbone ``encoder``.
    """
    for prefix in ("backbone.", "encoder."):
        if any(prefix + first in state for first in _FIRST_LAYERS):
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return None


def classes_of(state: dict[str, Tensor]) -> int:
    """Number of classes of the head in a state; 0 where it has none."""
    return next((len(state[name]) for name in _HEADS if name in state and state[name].ndim), 0)


def misfit(state: dict[str, Tensor], model: nn.Module) -> str | None:
    """Which ResNet a state is of, where its first convolution shows that it is not of this one's kind.

    Returns:
        What to set, or None where the first convolution tells nothing.
    """
    weight, layer = state.get("conv1.weight"), getattr(model, "conv1", None)
    if weight is None or not isinstance(layer, nn.Conv2d) or weight.ndim != 4:
        return None
    found, expected = weight.shape[-1], layer.kernel_size[0]
    if found == expected:
        return None
    name = {3: "resnet18_cifar", 7: "resnet18"}.get(found)
    stem = f"its first convolution has {found} x {found} kernels, not {expected} x {expected}"
    return f"{stem}; set model.name to a network with that stem, such as {name}" if name else stem


def brief(error: Exception) -> str:
    """An error of another library in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return (text if len(text) < 200 else text[:200] + " ...") or type(error).__name__
