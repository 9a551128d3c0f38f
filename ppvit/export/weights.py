"""Which weights are exported, in which form, and which of them reveal the key."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import nn

from ppvit.core.errors import UsageError
from ppvit.core.files import write_json
from ppvit.core.reading import read_json
from ppvit.export.finished import Finished
from ppvit.export.names import ADAPTER, ADAPTER_CONFIG, HEAD, MODEL, MODEL_CONFIG
from ppvit.models import load_model
from ppvit.models.folders import StoredModel
from ppvit.models.mixing import mixing_axes
from ppvit.models.networks import head_names
from ppvit.models.stems import projection_name
from ppvit.models.tensors import tensor_names
from ppvit.tuners import TUNERS, export_lora, load_adapter, load_finetuned

# where adaptation and training on ciphertext put the key; see ppvit.adaptation.embedding and ppvit.models.stems
_KEYED = frozenset({"patch_embed", "pos_embed", "stem", "embeds"})
_FIRST = ("conv1",)  # of a ResNet, whose blocks have a conv1 too


@dataclass(frozen=True)
class Weights:
    """What was written.

    Attributes:
        form: a peft adapter; the head alone; or the whole model.
        converted: the adapter was turned into stock LoRA.
        stock: timm and peft alone load it on its base, without ``import ppvit.tuners``.
        revealing: names of the tensors in it that reveal the key.
    """

    form: Literal["adapter", "head", "model"]
    converted: bool
    stock: bool
    revealing: list[str]


def write_weights(folder: Path, finished: Finished, adapted: Path, finetuned: Path, as_lora: bool) -> Weights:
    """Write the trained weights into an existing folder; they are loaded first, so that nothing damaged leaves.

    What is no adapter is compared with its base: where only the head was trained, only the head is written.

    Raises:
        UsageError: no LoRA equals what was trained.
        PpvitError: weights are missing, damaged, or do not fit the base.
    """
    method = finished.record["method"]
    base = set(tensor_names(adapted / MODEL, "adapt"))
    model = StoredModel(adapted, "adapt").skeleton(None)
    heads, projection = tuple(f"{name}." for name in head_names(model)), projection_name(model)
    if (finetuned / ADAPTER_CONFIG).exists():
        _write_adapter(folder, finished, adapted, finetuned, as_lora)
        names = tensor_names(folder / ADAPTER, "finetune")
        revealing = [name for name in names if _in_adapter_reveals(name, base, heads, projection)]
        stock = TUNERS[method].stock
        return Weights("adapter", as_lora and not stock, as_lora or stock, sorted(revealing) if finished.keyed else [])
    if as_lora:
        raise UsageError(f"finetune.method {method} trains no adapter, so no LoRA equals it; leave out --as-lora")
    trained = load_finetuned(adapted, finetuned, finished.record["num_classes"])
    if _write_head(folder, load_model(adapted, "adapt"), trained, heads):
        return Weights("head", False, True, [])
    shutil.copyfile(finetuned / MODEL, folder / MODEL)
    shutil.copyfile(finetuned / MODEL_CONFIG, folder / MODEL_CONFIG)
    revealing = [name for name in trained.state_dict() if _holds_key(name, projection)]
    return Weights("model", False, True, sorted(revealing) if finished.keyed else [])


def _write_adapter(folder: Path, finished: Finished, adapted: Path, finetuned: Path, as_lora: bool) -> None:
    model = load_adapter(adapted, finetuned, finished.record["num_classes"])
    if as_lora:
        export_lora(model, folder)
    else:
        shutil.copyfile(finetuned / ADAPTER, folder / ADAPTER)
        shutil.copyfile(finetuned / ADAPTER_CONFIG, folder / ADAPTER_CONFIG)
    configuration = read_json(folder / ADAPTER_CONFIG, "finetune")
    configuration["base_model_name_or_path"] = base_name(finished)
    write_json(folder / ADAPTER_CONFIG, configuration)


def base_name(finished: Finished) -> str:
    """What the base is called. Without a slash, so that it is nobody's on the Hub: the public checkpoint would load."""
    name, key_id = finished.base["model"], finished.record["key_id"]
    if finished.base["adapted"] and key_id is not None:
        return f"{name}-adapted-to-{key_id}"
    return f"{name}-from-ppvit-adapt"


def _write_head(folder: Path, adapted: nn.Module, finetuned: nn.Module, heads: tuple[str, ...]) -> bool:
    """Write the head alone, if all else is as in the base; whether it was."""
    state, base = finetuned.state_dict(), adapted.state_dict()
    head = {name: tensor for name, tensor in state.items() if name.startswith(heads)}
    rest = state.keys() - head.keys()
    if any(name not in base or not torch.equal(state[name], base[name]) for name in rest):
        return False
    save_file(head, folder / HEAD, metadata={"format": "pt"})
    return True


def _in_adapter_reveals(name: str, base: Iterable[str], heads: tuple[str, ...], projection: str) -> bool:
    """Whether a tensor of an adapter file reveals the key.

    Any in the layers that hold it does. So may any that replaces one of the base as a whole (``modules_to_save``),
    the head excepted: whoever has the public checkpoint can compare the two.
    """
    name = name.removeprefix("base_model.model.")
    return not name.startswith(heads) and (name in base or _holds_key(name, projection))


def _holds_key(name: str, projection: str) -> bool:
    """Whether a tensor is of the first layers, an order of patches, or between the patches of an MLP-Mixer.

    Args:
        name: in the model.
        projection: the name of the patch projection; empty where there is none.
    """
    parts = name.split(".")
    first = parts[0] in _FIRST or bool(_KEYED & set(parts)) or (projection and name.startswith(f"{projection}."))
    return bool(first or parts[-1] == "token_order" or mixing_axes(name))
