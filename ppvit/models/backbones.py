"""Pretrained Vision Transformers and ResNets by name, from weights files or from timm's hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor

from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError, brief
from ppvit.models.building import create
from ppvit.models.checkpoint_config import has_configuration
from ppvit.models.checkpoints import load_checkpoint
from ppvit.models.hub import tried_once
from ppvit.models.names import MICRO, MICRO_ARCHITECTURE, MICRO_NAME, parsed
from ppvit.models.normalization import Given, Origin, three
from ppvit.models.refusals import why_not
from ppvit.models.weights_file import find_weights, is_shard
from ppvit.models.without_values import without_values
from ppvit.places import EMBEDDED

__all__ = ["MICRO", "MICRO_ARCHITECTURE", "MICRO_NAME", "Backbone", "backbone_of", "is_convolutional", "load_backbone",
           "model_input"]  # fmt: skip


@dataclass
class Backbone:
    """A pretrained model and what is needed to build it again.

    Attributes:
        model: in eval mode, float32, ready for ``image_size``.
        architecture: the timm architecture.
        model_args: arguments of ``timm.create_model`` beside the architecture, ``num_classes`` included.
        mean, std: input normalisation by channel, on a 0..1 scale.
        origin: where the weights and these are from; None for models that were made here.
    """

    model: torch.nn.Module
    architecture: str
    model_args: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: Origin | None = None


def model_input(images: Tensor) -> Tensor:
    """Scale pixels for an adapted model: ``x / 127.5 - 1``, alike for all colours; tokens stay as they are.

    Args:
        images: (n, 3, H, W), 0..255, uint8 or float, or tokens (n, N, T), float.

    Returns:
        Pixels in [-1, 1], or the tokens; float32 for uint8 and float16, else the same dtype.
    """
    images = images.float() if images.dtype in (torch.uint8, torch.float16) else images
    return (images - 127.5) / 127.5 if images.ndim == 4 else images


def load_backbone(
    name: str,
    checkpoint: Path,
    image_size: int,
    embedded: Path | None = None,
    pretrained: bool = True,
    any_kind: bool = False,
    mean: Given = (),
    std: Given = (),
    shake_drop: float = 0.5,
) -> Backbone:
    """Build a pretrained model for an image size; learned position embeddings are interpolated to its grid.

    Args:
        name: ``vit_micro_patch4_32``, any timm model, or another name of :func:`ppvit.models.names.parsed`.
        checkpoint: a weights file, or a folder that holds one; an empty folder means the embedded weights, or timm's
            hub for names other than the embedded one.
        image_size: side of the square images in pixels.
        embedded: the weights of ``vit_micro_patch4_32``; those that ppvit brings where there is no such file.
        pretrained: False takes no weights but random ones, always the same.
        any_kind: also networks that can be neither adapted nor fine-tuned here, for their features.
        mean, std: of the input by colour, on a 0..1 scale, in place of what the checkpoint says; ``none`` for none.
        shake_drop: of PyramidNets.

    Raises:
        UsageError: unknown name or missing file.
        PpvitError: unreadable weights, weights of another architecture, no network to the hub.
    """
    weights = find_weights(checkpoint, name) if pretrained else None
    if weights is not None and checkpoint.is_file():
        _require_folder(weights, name)
    if weights is None and name == MICRO_NAME:
        weights = embedded if embedded and embedded.exists() else EMBEDDED
    architecture, model_args = parsed(name)
    if architecture == "pyramidnet":
        model_args["shake_drop"] = shake_drop
    if not timm.is_model(architecture.split(".")[0]):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        hint = f"such as {', '.join(close)}" if close else "see timm.list_models()"
        raise UsageError(f"model.name '{name}' is not a timm model; {hint}")
    if not is_convolutional(name) and not _fits_any_size(architecture, any_kind):
        model_args["img_size"] = image_size
    if not pretrained:
        torch.manual_seed(0)
        model = create(architecture, model_args)
        model_args["num_classes"] = cast(int, model.num_classes)
        origin = _of_timm(model, architecture, "random weights").given(mean, std)
    elif weights is not None:
        model, origin = load_checkpoint(name, architecture, model_args, weights, mean, std)
    elif _on_hub(architecture):
        model = _from_hub(architecture, model_args)
        origin = _of_timm(model, architecture, "weights of timm's hub").given(mean, std)
    else:
        raise UsageError(
            f"there are no pretrained weights of {name}; set model.pretrained=false, or model.checkpoint to a file"
        )
    return Backbone(model.eval(), architecture, model_args, origin.mean, origin.std, origin)


def _require_folder(weights: Path, name: str) -> None:
    """Refuse a file that is named alone, where its folder says what it is: DVC would not see that file change."""
    if is_shard(weights):
        raise UsageError(f"{weights} is a part of weights in several files; set model.checkpoint to the folder of all")
    if has_configuration(weights.parent):
        try:
            chosen = find_weights(weights.parent, name)
        except UsageError:  # of several files one must be named
            return
        if chosen == weights:
            raise UsageError(
                f"beside {weights} stands a configuration that says how pictures are normalised; set model.checkpoint "
                f"to the folder, {weights.parent}"
            )


def _of_timm(model: torch.nn.Module, architecture: str, weights: str) -> Origin:
    timms = cast(dict[str, Any], model.pretrained_cfg)
    return Origin(weights, f"of timm's {architecture}", three(timms["mean"]), three(timms["std"]))


def backbone_of(config: Config, embedded: Path, any_kind: bool = False) -> Backbone:
    """The pretrained model of a run, see :func:`load_backbone`.

    Args:
        config: ``model`` and ``dataset.image_size`` are used.
        embedded, any_kind: see :func:`load_backbone`.
    """
    model = config.model
    size = config.dataset.image_size
    return load_backbone(
        model.name,
        Path(model.checkpoint),
        size,
        embedded,
        model.pretrained,
        any_kind,
        model.mean,
        model.std,
        model.shake_drop,
    )


def _fits_any_size(architecture: str, any_kind: bool) -> bool:
    """Whether timm builds it without a size of images.

    Raises:
        UsageError: it does, and it can be neither adapted nor fine-tuned here; not for ``any_kind``.
    """
    if is_model_in_modules(architecture, ("vision_transformer", "deit", "eva", "beit")):  # most; all have a size
        return False
    try:
        with without_values():  # takes no memory
            timm.create_model(architecture, img_size=224)
    except TypeError as error:
        if "img_size" not in str(error):
            return False
    except Exception:  # of this size only
        return False
    else:
        return False
    if not any_kind:
        with without_values():
            reason = why_not(timm.create_model(architecture))
        if reason is not None:
            raise UsageError(
                f"model.name {architecture} is neither a ResNet nor a model that a key can be undone in: {reason}; "
                "choose a timm ViT such as vit_base_patch16_224, or another model of docs/backbones.md"
            )
    return True


def is_convolutional(name: str) -> bool:
    """Whether it is a ConvMixer, PyramidNet or ResNet, which fit images of any size, and have batch normalisation."""
    return is_model_in_modules(parsed(name)[0], ("convmixer", "pyramidnet", "resnet"))  # timm's files, and ours


def _on_hub(architecture: str) -> bool:
    """Whether timm knows where the weights are; of a tag that it does not know it says so itself."""
    try:
        configuration = timm.get_pretrained_cfg(architecture)
    except RuntimeError:
        return True
    return configuration is None or configuration.has_weights


def _from_hub(architecture: str, model_args: dict[str, Any]) -> torch.nn.Module:
    try:
        with tried_once():
            model = create(architecture, model_args, pretrained=True)
    except ConnectionError as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from None
        raise PpvitError(
            f"the weights of {architecture} cannot be fetched from timm's hub ({brief(error)}); set "
            "model.checkpoint to a local .safetensors file"
        ) from None
    model_args["num_classes"] = cast(int, model.num_classes)
    return model
