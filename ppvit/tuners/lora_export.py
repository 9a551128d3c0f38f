"""Exact export to stock LoRA, for methods whose update has low rank."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from ppvit.core.errors import UsageError
from ppvit.tuners.extension import ExtensionConfig, ExtensionLayer

_CHANGE_BASE = ("pissa", "olora", "corda", "loftq")  # initialisations that take a part out of the base weights


def export_lora(model: PeftModel, folder: Path) -> None:
    """Write the active adapter as a stock LoRA adapter that timm and peft load to the same logits, up to rounding.

    AOFT in LoRA form becomes LoRA of rank d on a matrix, or 2 d unscaled (minus the product at the start); rows of q, k
    and v become blocks of one LoRA (:mod:`ppvit.tuners.melo`). In adapter form it becomes LoRA with a bias. alpha is
    the rank, so that alpha / r is one. LoRA stays what it is. (peft's own ``convert_to_lora`` goes through an SVD in
    float32 and knows no bias.)

    Args:
        model: with one active adapter, unmerged.
        folder: made where it is missing; ``adapter_config.json`` and ``adapter_model.safetensors`` in it are replaced.

    Raises:
        UsageError: no LoRA equals the adapter; several are active; it is merged.
    """
    if len(model.active_adapters) != 1 or any(getattr(module, "merged", False) for module in model.modules()):
        raise UsageError("export_lora needs one active adapter that is not merged; call set_adapter or unmerge_adapter")
    adapter = model.active_adapters[0]
    config = model.peft_config[adapter]
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    if isinstance(config, LoraConfig):
        _require_plain(model, config)
    else:
        config, state = _converted(model, adapter, state)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(state, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def _require_plain(model: PeftModel, config: LoraConfig) -> None:
    if any(module.lora_variant for module in model.modules() if isinstance(module, LoraLayer)):
        raise UsageError("this variant of LoRA has no exact plain LoRA; keep the adapter as it is, peft loads it")
    if str(config.init_lora_weights).startswith(_CHANGE_BASE):
        raise UsageError(f"{config.init_lora_weights} changed its base; export what finetune saved, not this model")


def _converted(model: PeftModel, adapter: str, state: dict[str, Tensor]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Configuration and state of a LoRA that equals the adapter; modules that train as a whole stay as they are."""
    prefix = "base_model.model."
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ExtensionLayer) and adapter in module.configs
    }
    if not layers:
        method = str(model.peft_config[adapter].peft_type).removeprefix("PeftType.")
        raise UsageError(f"{method} has no exact LoRA; keep the adapter as it is, peft loads it")
    own = tuple(f"{name}." for name in layers)
    converted = {key: tensor for key, tensor in state.items() if not key.startswith(own)}
    ranks, with_bias = {}, False
    for name, layer in layers.items():
        lora_a, lora_b, bias = layer.lora_factors(adapter)
        dtype = torch.promote_types(layer.linear.weight.dtype, torch.float32)
        converted[f"{name}.lora_A.weight"], converted[f"{name}.lora_B.weight"] = lora_a.to(dtype), lora_b.to(dtype)
        if bias is not None:
            converted[f"{name}.lora_B.bias"], with_bias = bias.to(dtype), True
        ranks[name.removeprefix(prefix)] = len(lora_a)
    if with_bias:  # one switch for all layers of a LoRA
        for name, layer in layers.items():
            converted.setdefault(f"{name}.lora_B.bias", torch.zeros(layer.linear.out_features))
    rank = max(ranks.values())
    others = {re.escape(name): each for name, each in ranks.items() if each != rank}
    old = cast(ExtensionConfig, model.peft_config[adapter])
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=others,
        alpha_pattern=others,
        lora_bias=with_bias,
        target_modules="|".join(re.escape(name) for name in ranks),
        modules_to_save=old.modules_to_save,
        base_model_name_or_path=old.base_model_name_or_path,
        inference_mode=True,
    )
    return config, converted
