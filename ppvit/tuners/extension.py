"""Base classes of the fine-tuning methods that peft does not have, and how they become methods of peft.

``peft.utils.register_peft_method`` takes only names that are in peft's own enumeration. Its tables, however, are plain
dictionaries, and names that are plain strings work as keys of them (from peft 0.21 on; earlier ones fail to save).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from ppvit.core.errors import UsageError


@dataclass
class ExtensionConfig(PeftConfig):
    """What every method of ours keeps in ``adapter_config.json``.

    Attributes:
        target_modules: ends of module names, or a regular expression; see the methods.
        modules_to_save: modules that train as a whole, the head.
        dropout: dropout in front of the update.
    """

    key: ClassVar[str]
    """the method's name in peft's tables"""

    target_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]  # peft's
        self.peft_type = self.key


class ExtensionLayer(nn.Module, BaseTunerLayer):
    """A module of the base model with adapters around it; by adapter name, each in the containers that a class names.

    ``adapter_layer_names`` are containers of trained values, ``frozen_names`` of values that are saved and never
    trained, as buffers. Values stay in float32 where the base is in half precision.

    Args:
        base_layer: the module.
        name: its name in the model, for errors.
    """

    mergeable: ClassVar[bool] = True
    """whether an adapter can be folded into the base layer; :mod:`ppvit.tuners.saved` asks"""
    frozen_names: ClassVar[tuple[str, ...]] = ()
    no_lora: ClassVar[str] = ""
    """why no LoRA equals the method exactly"""

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.name = name
        self.configs: dict[str, Any] = {}
        self.other_param_names = ("configs", *self.frozen_names)
        self.merged_adapters = []
        self._disable_adapters = False
        self._active_adapter = []
        self._unmerged: list[tuple[Tensor, Tensor | None]] = []  # weight and bias before the merge, if there was one
        for container in self.adapter_layer_names + self.frozen_names:
            setattr(self, container, nn.ModuleDict())

    @property
    def linear(self) -> nn.Linear:
        """The base layer.

        Raises:
            UsageError: it is not linear.
        """
        base = self.get_base_layer()
        if not isinstance(base, nn.Linear):
            raise UsageError(f"{self.name} is no linear layer; choose others in finetune.target_modules")
        return base

    def kept(self, container: str, adapter: str, name: str) -> Tensor:
        """One of the values that an adapter keeps in a container."""
        value: Tensor = getattr(self, container)[adapter][name]
        return value

    def add_adapter(self, adapter: str, config: Any) -> None:
        """Make room for an adapter with its start values.

        Raises:
            UsageError: the layer is not of a kind or size that the method can take.
        """
        self.configs[adapter] = config
        values = self.start_values(adapter)
        for container in self.adapter_layer_names + self.frozen_names:
            getattr(self, container)[adapter] = values[container]
        self._move_adapter_to_device_of_base_layer(adapter)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def start_values(self, adapter: str) -> dict[str, nn.Module]:
        """A module of float32 values for every container, drawn on the CPU, so that a seed gives the same anywhere."""
        raise NotImplementedError

    def adapted(self, adapters: list[str], *args: Any, **kwargs: Any) -> Any:
        """The output with ``adapters`` at work, in that order."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.disable_adapters and self.merged:
            self.unmerge()
        adapters = [name for name in self.active_adapters if name in self.configs]
        if self.disable_adapters or self.merged or not adapters:
            return self.base_layer(*args, **kwargs)
        return self.adapted(adapters, *args, **kwargs)

    def merged_weights(self, adapter: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a linear base layer with the adapter folded in, in float32 or better."""
        raise NotImplementedError

    def lora_factors(self, adapter: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """lora_A (r, in), lora_B (out, r) and, where the bias changes too, its change (out,), all float64.

        Raises:
            UsageError: no LoRA equals the adapter.
        """
        raise UsageError(f"{self.configs[adapter].key} has no exact LoRA: {self.no_lora}; keep the adapter as it is")

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold adapters into the base layer, as peft does.

        The original weights are kept until :meth:`unmerge`, so that it restores them bit for bit.

        Raises:
            UsageError: the method cannot.
            ValueError: ``safe_merge``, and the merged weights are not finite; nothing is changed.
        """
        self.require_mergeable()
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.configs:
                continue
            base = self.linear
            with torch.no_grad():
                weight, bias = self.merged_weights(adapter, base.weight, base.bias)
            if safe_merge and not all(torch.isfinite(part).all() for part in (weight, bias) if part is not None):
                raise ValueError(f"the merged weights of {self.name} are not finite; adapter {adapter} is broken")
            if not self.merged:
                self._unmerged = [(base.weight.data, None if bias is None else base.bias.data)]
            base.weight.data = weight.to(base.weight.dtype)
            if bias is not None:
                base.bias.data = bias.to(base.bias.dtype)
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Restore the base layer's own weights."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        base, (weight, bias) = self.linear, self._unmerged.pop()
        base.weight.data = weight.to(base.weight.device, base.weight.dtype)
        if bias is not None:
            base.bias.data = bias.to(base.bias.device, base.bias.dtype)
        self.merged_adapters = []

    def require_mergeable(self) -> None:
        if not self.mergeable:
            method = next(iter(self.configs.values())).key
            raise UsageError(
                f"adapters of method {method} are no change of weights and cannot be merged; use the model with the "
                "adapters in it"
            )

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # peft would also give the adapter the dtype of the base layer, and half precision is too coarse to train it
        device = next(self.get_base_layer().parameters()).device if device is None else device
        for container in self.adapter_layer_names + self.frozen_names:
            values = getattr(self, container)
            if adapter_name in values and not any(value.is_meta for value in values[adapter_name].parameters()):
                values[adapter_name].to(device)


class ExtensionModel(BaseTuner):
    """peft's view of a method: which modules get which layer."""

    config_class: ClassVar[type[ExtensionConfig]]
    tuner_layer_cls: type[ExtensionLayer]
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  peft's; none of its language models is known

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            target.add_adapter(adapter_name, peft_config)
            return
        layer = self.tuner_layer_cls(target, current_key)
        layer.set_adapter([adapter_name])
        layer.add_adapter(adapter_name, peft_config)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft would also hand a weight over, which blocks do not have, and move adapters, which are in place already
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()  # type: ignore[no-untyped-call]  # peft's
        for module in self.model.modules():  # before anything is merged or unloaded
            if isinstance(module, ExtensionLayer):
                module.require_mergeable()


def register(model: type[ExtensionModel]) -> type[ExtensionModel]:
    """Class decorator: enter a method into peft's tables."""
    tables: tuple[tuple[dict[Any, Any], object], ...] = (
        (PEFT_TYPE_TO_CONFIG_MAPPING, model.config_class),
        (PEFT_TYPE_TO_TUNER_MAPPING, model),
        (PEFT_TYPE_TO_PREFIX_MAPPING, model.prefix),
    )
    for table, entry in tables:
        table[model.config_class.key] = entry
    return model
