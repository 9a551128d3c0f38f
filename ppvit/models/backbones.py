"""Pretrained Vision Transformers and ResNets by name, from weights files or from timm's hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import is_model_in_modules
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.models import convmixer, resnet  # noqa: F401 - registers models with timm
from ppvit.models.refusals import why_not
from ppvit.models.weights_file import brief, classes_of, find_weights, misfit, read_weights, solo_learn_backbone

# our embedded backbone is a plain timm architecture with other sizes, so that everybody's timm can build it
MICRO_NAME = "vit_micro_patch4_32"
MICRO_ARCHITECTURE = "vit_tiny_patch16_224"
MICRO = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4}


@dataclass
class Backbone:
    """A pretrained model and what is needed to build it again.

    Attributes:
        model: in eval mode, float32, ready for ``image_size``.
        architecture: the timm architecture.
        model_args: arguments of ``timm.create_model`` beside the architecture, ``num_classes`` included.
        mean, std: input normalisation by channel, on a 0..1 scale.
    """

    model: torch.nn.Module
    architecture: str
    model_args: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]


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
) -> Backbone:
    """Build a pretrained model for an image size; learned position embeddings are interpolated to its grid.

    Args:
        name: ``vit_micro_patch4_32`` or any timm model.
        checkpoint: a weights file, or a folder that holds one; an empty folder means the embedded weights, or timm's
            hub for names other than the embedded one.
        image_size: side of the square images in pixels.
        embedded: the weights of ``vit_micro_patch4_32``.
        pretrained: False takes no weights but random ones, always the same.
        any_kind: also networks that can be neither adapted nor fine-tuned here, for their features.

    Raises:
        UsageError: unknown name or missing file.
        PpvitError: unreadable weights, weights of another architecture, no network to the hub.
    """
    weights = find_weights(checkpoint, name) if pretrained else None
    if weights is None and name == MICRO_NAME:
        if embedded is None:
            raise UsageError(f"{name} needs its weights file, models/pretrained/{name}.safetensors in a clone of ppvit")
        weights = embedded
    architecture, arguments = (MICRO_ARCHITECTURE, MICRO) if name == MICRO_NAME else (name, {})
    if not timm.is_model(architecture.split(".")[0]):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        hint = f"such as {', '.join(close)}" if close else "see timm.list_models()"
        raise UsageError(f"model.name '{name}' is not a timm model; {hint}")
    model_args = dict(arguments)
    if not is_convolutional(architecture) and not _fits_any_size(architecture, any_kind):
        model_args["img_size"] = image_size
    if not pretrained:
        torch.manual_seed(0)
        model = _create(architecture, model_args)
        model_args["num_classes"] = cast(int, model.num_classes)
    elif weights is None and not _on_hub(architecture):
        raise UsageError(
            f"there are no pretrained weights of {name}; set model.pretrained=false, or model.checkpoint to a file"
        )
    else:
        model = _from_file(architecture, model_args, weights) if weights else _from_hub(architecture, model_args)
    configuration = cast(dict[str, Any], model.pretrained_cfg)
    return Backbone(model.eval(), architecture, model_args, tuple(configuration["mean"]), tuple(configuration["std"]))


def backbone_of(config: Config, embedded: Path, any_kind: bool = False) -> Backbone:
    """The pretrained model of a run, see :func:`load_backbone`.

    Args:
        config: ``model`` and ``dataset.image_size`` are used.
        embedded, any_kind: see :func:`load_backbone`.
    """
    model = config.model
    size = config.dataset.image_size
    return load_backbone(model.name, Path(model.checkpoint), size, embedded, model.pretrained, any_kind)


def _fits_any_size(architecture: str, any_kind: bool) -> bool:
    """Whether timm builds it without a size of images.

    Raises:
        UsageError: it does, and it can be neither adapted nor fine-tuned here; not for ``any_kind``.
    """
    if is_model_in_modules(architecture, ("vision_transformer", "deit", "eva", "beit")):  # most; all have a size
        return False
    try:
        with torch.device("meta"):  # takes no memory
            timm.create_model(architecture, img_size=224)
    except TypeError as error:
        if "img_size" not in str(error):
            return False
    except Exception:  # of this size only
        return False
    else:
        return False
    if not any_kind:
        with torch.device("meta"):
            reason = why_not(timm.create_model(architecture))
        if reason is not None:
            raise UsageError(
                f"model.name {architecture} is neither a ResNet nor a model that a key can be undone in: {reason}; "
                "choose a timm ViT such as vit_base_patch16_224, or another model of docs/backbones.md"
            )
    return True


def is_convolutional(architecture: str) -> bool:
    """Whether it is a ConvMixer or ResNet, which fit images of any size, and have batch normalisation."""
    return is_model_in_modules(architecture, ("convmixer", "resnet"))  # timm's files, and ours


def _from_file(architecture: str, model_args: dict[str, Any], weights: Path) -> torch.nn.Module:
    state = read_weights(weights)
    if (backbone := solo_learn_backbone(state)) is not None:
        state = backbone
        if timm.model_entrypoint(architecture).__module__ == resnet.__name__:
            model_args["stem_padding"] = resnet.SOLO_LEARN_PADDING
    model_args["num_classes"] = classes_of(state)
    model = _unfilled(architecture, model_args)
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    try:
        if hasattr(model, "pos_embed"):  # of another size than the model's, if need be
            state = checkpoint_filter_fn(state, cast(VisionTransformer, model))
        # copies, which the model alone holds: a file may be of another precision, or hold one tensor under two names
        state = {name: tensor.to(types.get(name, tensor.dtype), copy=True) for name, tensor in state.items()}
        model.load_state_dict(state, strict=True, assign=True)
    except Exception as error:  # timm's filters and torch meet shapes of any kind
        why = misfit(state, model) or f"{brief(error)}; set model.name and model.checkpoint"
        raise PpvitError(f"{weights} does not fit model.name {architecture}: {why}") from None
    return model


def _unfilled(architecture: str, model_args: dict[str, Any]) -> torch.nn.Module:
    """A model whose weights are still to come.

    On the meta device building takes no memory and draws no random numbers, which are most of the work for large models
    (ViT-B/16: 0.68 s of processor time to build it with them, 0.42 s to build it without and load its weights). Models
    that keep tensors which no weights file holds, such as tables of relative positions, are built the usual way; the
    caller's random state does not notice.
    """
    try:
        with torch.device("meta"):
            model = _create(architecture, model_args)
        if is_whole_in_file(model):
            return model
    except Exception:  # a value was needed that the meta device has not; what is wrong otherwise comes up again below
        pass
    with torch.random.fork_rng(devices=[]):
        return _create(architecture, model_args)


def is_whole_in_file(model: torch.nn.Module) -> bool:
    """Whether a weights file holds all that a model computes with, so that it can be built without values."""
    return set(_tensors(model)) <= model.state_dict().keys()


def _tensors(model: torch.nn.Module) -> Iterator[str]:
    """Names of everything that a model computes with: parameters, buffers, and tensors that are plain attributes."""
    for name, module in model.named_modules():
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        own |= {key: value for key, value in vars(module).items() if isinstance(value, Tensor)}
        yield from (f"{name}.{key}" if name else key for key in own)


def _on_hub(architecture: str) -> bool:
    """Whether timm knows where the weights are; of a tag that it does not know it says so itself."""
    try:
        configuration = timm.get_pretrained_cfg(architecture)
    except RuntimeError:
        return True
    return configuration is None or configuration.has_weights


def _from_hub(architecture: str, model_args: dict[str, Any]) -> torch.nn.Module:
    try:
        model = _create(architecture, model_args, pretrained=True)
    except UsageError:
        raise
    except Exception as error:  # huggingface_hub, requests and urllib raise kinds of their own without a network
        raise PpvitError(
            f"the weights of {architecture} cannot be fetched from timm's hub ({brief(error)}); set "
            "model.checkpoint to a local .safetensors file"
        ) from None
    model_args["num_classes"] = cast(int, model.num_classes)
    return model


def _create(architecture: str, model_args: dict[str, Any], pretrained: bool = False) -> torch.nn.Module:
    try:
        return timm.create_model(architecture, pretrained=pretrained, **model_args)
    except (TypeError, AssertionError) as error:
        if "img_size" in str(error):
            raise UsageError(
                f"model.name {architecture} is neither a Vision Transformer with a patch grid nor a ResNet; "
                "choose a timm ViT such as vit_base_patch16_224"
            ) from None
        raise UsageError(f"model.name {architecture} cannot be built for these sizes ({brief(error)})") from None
