"""Base class of fine-tuning methods: what trains, how many parameters that is, how it is saved."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from ppvit.config import Finetune
from ppvit.config.endings import ends_in, last_parts, those_there
from ppvit.core.errors import UsageError
from ppvit.core.registry import Registry
from ppvit.models.batch_norm import batch_norm_names
from ppvit.models.mixing import mixing_weights
from ppvit.models.networks import head_names
from ppvit.models.stems import patch_embedding_name, patch_projection
from ppvit.tuners.convolutions import convolution_names

TUNERS: Registry[type[Tuner]] = Registry("ppvit.tuners", "finetune.method")
"""All methods by name. One more is a file in this folder with a :class:`Tuner` under ``@TUNERS.register()``."""


class Tuner(ABC):
    """A fine-tuning method.

    Args:
        settings: the ``finetune`` section.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ("rank", "alpha", "dropout", "target_modules")
    """parameters of the section ``finetune`` that this method reads and not every method does"""
    unread: ClassVar[tuple[str, ...]] = ()
    """parameters of the section ``finetune`` that every other method reads"""
    targets: ClassVar[tuple[str, ...]] = ()
    """linear layers that the method attaches to where ``finetune.target_modules`` is empty; ends of module names. Most
    methods take all linear layers of a model that lacks one of them."""
    names_layers: ClassVar[bool] = True
    """whether ``finetune.target_modules`` may name layers; where not, it must be empty"""
    zero_start: ClassVar[bool] = True
    """whether the model gives the logits of its base before the first step"""
    mergeable: ClassVar[bool] = True
    """whether the trained update can be folded into the base model's weights"""
    convolutions: ClassVar[bool] = False
    """whether the method works on networks that have no linear layers but their head, such as ResNets"""
    plain_vit: ClassVar[bool] = False
    """whether the method works on timm's VisionTransformer alone"""
    stock: ClassVar[bool] = True
    """whether timm and peft alone load the result, without ``import ppvit.tuners``"""
    undecayed: ClassVar[tuple[str, ...]] = ()
    """parts of the names of scales that start at one and are kept as matrices: no weight decay towards zero"""

    def __init__(self, settings: Finetune) -> None:
        self.settings = settings

    @abstractmethod
    def attach(self, model: nn.Module) -> nn.Module:
        """Freeze and extend a timm model with a new head so that exactly what the method trains requires grad.

        Returns:
            The model to train: the same one, or a ``peft.PeftModel`` around it.
        """

    def attach_saved(self, model: nn.Module, saved: Mapping[str, Any]) -> nn.Module:
        """Extend a model to the form that :meth:`save` writes, for saved values; mostly that of :meth:`attach`.

        Args:
            model: a timm model with a head of the right size; it may be on the meta device.
            saved: ``adapter_config.json``, which may be anybody's; empty where there is none.

        Raises:
            UsageError: ``saved`` names layers or sizes that the method cannot have chosen.
        """
        return self.attach(model)

    def initialise(self, model: nn.Module, batches: Iterable[Tensor]) -> None:  # noqa: B027 - most methods need none
        """Choose start values from training inputs, where the method does so.

        Args:
            model: as :meth:`attach` returned it.
            batches: inputs of the model, (n, 3, H, W) or (n, N, T) each; made only as they are asked for.
        """

    def learning_rates(self) -> dict[str, float]:
        """Parts of parameter names, and the multiple of ``finetune.learning_rate`` that such parameters train with."""
        return {}

    def save(self, model: PeftModel, folder: Path) -> None:
        """Write the trained adapter as peft does; for methods that return a ``peft.PeftModel``."""
        save_adapter(model, folder)

    def target_names(self, model: nn.Module) -> str:
        """The layers to attach to, as a regular expression over module names.

        Raises:
            UsageError: an ending in ``finetune.target_modules`` matches no layer; the method takes linear layers only,
                and the model has none.
        """
        layers = linear_layers(model)
        if self.convolutions and not layers:
            return convolution_names(model, self.settings.target_modules)
        lacking = any(not any(ends_in(name, ending) for name in layers) for ending in self.targets)
        if layers and lacking and not self.settings.target_modules:
            return "|".join(re.escape(name) for name in layers)
        return linear_names(model, self.settings.target_modules or list(self.targets))

    def saved_modules(self, model: nn.Module) -> list[str]:
        """Layers that train or change as a whole, peft's ``modules_to_save``: the head, and batch normalisations whose
        running statistics, or weights, ``finetune.batch_norm`` lets change."""
        return [*head_names(model), *([] if self.settings.batch_norm == "frozen" else batch_norm_names(model))]


def patch_learning_rate(settings: Finetune, model: nn.Module) -> dict[str, float]:
    """The multiple of the learning rate for the patch embedding of a timm model, for :meth:`Tuner.learning_rates`.

    Raises:
        UsageError: it is not 1, and the model has no patch embedding.
    """
    if settings.patch_learning_rate == 1:
        return {}
    if not (name := patch_embedding_name(model)):
        raise UsageError(
            f"finetune.patch_learning_rate {settings.patch_learning_rate:g}: {type(model).__name__} has no patch "
            "embedding; set finetune.patch_learning_rate=1"
        )
    return {f"{name}.": settings.patch_learning_rate}


def save_adapter(model: PeftModel, folder: Path, **arguments: Any) -> None:
    """``PeftModel.save_pretrained``, which otherwise looks on the Hub for embeddings of words in the base."""
    model.save_pretrained(str(folder), save_embedding_layers=False, **arguments)


def trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that the method trains; structural zeros (see :mod:`ppvit.tuners.melo`) do not count."""
    count = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            mask = getattr(parameter, "structural_mask", None)
            count += parameter.numel() if mask is None else int(mask.sum())
    return count


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes in a model, by name: parameters that require grad, and buffers; the tensors themselves."""
    trained = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | dict(model.named_buffers())


def freeze_all_but(model: nn.Module, modules: list[str]) -> None:
    """Let only the parameters of the named modules require grad."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{module}.") for module in modules))


def linear_layers(model: nn.Module) -> list[str]:
    """Module names of the linear layers that take an adapter.

    Left out are heads; what holds the key after adaptation, which is a linear patch projection and what mixes patches
    in an MLP-Mixer; layers that see coordinates and no patches; and layers that the model goes past, where an adapter
    would change nothing.
    """
    heads = head_names(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name not in heads
        and not _holds_key(model, name)
        and not _COORDINATES & set(name.split("."))
        and not _is_passed_by(model, name)
    ]


_COORDINATES = frozenset({"rel_pos", "cpb_mlp", "pos_proj"})  # timm's names of networks that make a bias of attention


def _holds_key(model: nn.Module, name: str) -> bool:
    mixing = (each.rpartition(".")[0] for each in mixing_weights(model))
    return name in mixing or model.get_submodule(name) is patch_projection(model)


def _is_passed_by(model: nn.Module, name: str) -> bool:
    """Whether the model reads the layer's weight without calling it, as timm's BEiT, EVA and Swin V2 do where q and v
    have learned biases and k has none."""
    owner, _, own = name.rpartition(".")
    attention = model.get_submodule(owner)
    learned = getattr(attention, "q_bias", None) is not None
    return own == "qkv" and learned and not getattr(attention, "qkv_bias_separate", False)


def linear_names(model: nn.Module, endings: list[str], method: str = "") -> str:
    """A regular expression that matches the linear layers whose names end in one of ``endings``, as far as they take an
    adapter.

    Args:
        model: a timm model.
        endings: of module names.
        method: the method whose own choice they are; empty where they are the user's.

    Raises:
        UsageError: an ending matches nothing, or there are no linear layers.
    """
    linear = linear_layers(model)
    if not linear:
        others = ", ".join(name for name, tuner in TUNERS.items() if tuner.convolutions)
        raise UsageError(
            f"{type(model).__name__} has no linear layers but its head; set finetune.method to one that works without: "
            f"{others}"
        )
    for ending in endings:
        if any(ends_in(name, ending) for name in linear):
            continue
        reason = _why_none(model, ending)
        if method:
            raise UsageError(
                f"finetune.method {method} is for layers that end in '{ending}': {reason}; use another method, such as "
                f"lora, which works on {', '.join(last_parts(linear))}"
            )
        raise UsageError(f"finetune.target_modules: {reason}{those_there(ending, linear)}")
    names = r"(.*\.)?(" + "|".join(re.escape(ending) for ending in sorted(endings)) + ")"
    if target_layers(model, names).keys() <= set(linear):
        return names
    return "|".join(re.escape(name) for name in linear if re.fullmatch(names, name))


def _why_none(model: nn.Module, ending: str) -> str:
    """Why no linear layer with this end of its name takes an adapter."""
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ends_in(name, ending)]
    if any(_holds_key(model, name) for name in found):
        return f"'{ending}' holds the key after adaptation, and an adapter on it would tell the key"
    if any(_is_passed_by(model, name) for name in found):
        return f"{type(model).__name__} reads the weight of '{ending}' past the layer, so an adapter would do nothing"
    return f"no linear layer ends in '{ending}'"


def listed_targets(model: nn.Module, endings: list[str], method: str = "") -> list[str]:
    """``endings``, for methods that take a list; whole names in place of one that names more than takes an adapter.

    Args: see :func:`linear_names`.

    Raises:
        UsageError: an ending matches nothing, or there are no linear layers.
    """
    linear_names(model, endings, method)
    takes = linear_layers(model)
    every = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    listed: list[str] = []
    for ending in endings:
        found, meant = ([name for name in names if ends_in(name, ending)] for names in (every, takes))
        listed += [ending] if found == meant else meant
    return list(dict.fromkeys(listed))


def target_layers(model: nn.Module, names: str) -> dict[str, nn.Linear]:
    """The linear layers whose whole names the regular expression ``names`` matches, as peft chooses them."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(names, name)
    }


def keep_zero(parameter: nn.Parameter, mask: torch.Tensor) -> None:
    """Keep the entries of ``parameter`` outside ``mask`` at their value by stopping their gradient.

    Args:
        parameter: any shape.
        mask: bool, the same shape; True where the parameter trains.
    """
    parameter.structural_mask = mask  # type: ignore[attr-defined]  # ours, see trainable_parameters

    def stopped(gradient: Tensor) -> Tensor:
        return gradient * mask.to(gradient.device, gradient.dtype)  # wherever the model was moved

    parameter.register_hook(stopped)


def adapter_bytes(folder: Path) -> int:
    """Size of all files of a fine-tuned model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
