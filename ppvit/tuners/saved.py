"""Fine-tuned models on disk: peft adapter folders, or whole models where the method is no peft adapter."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import nn

from ppvit.core.errors import PpvitError
from ppvit.core.files import atomic_output, write_json
from ppvit.core.reading import read_json, sha256_of
from ppvit.models import Backbone, load_model, save_model
from ppvit.tuners.base import Tuner
from ppvit.tuners.rotations import without_butterfly_extension

_RECORD = "ppvit.json"
_WEIGHTS = ("adapter_model.safetensors", "model.safetensors")


def save_finetuned(tuner: Tuner, model: nn.Module, folder: Path, base: Path, record: dict[str, Any]) -> None:
    """Write a peft adapter folder, or a whole model where the method is no peft adapter; whole or not at all.

    Args:
        tuner: the method.
        model: as :meth:`Tuner.attach` returned it, trained.
        folder: replaced when it exists.
        base: folder of the adapted model that it was trained on, recorded in the adapter.
        record: kept as ``ppvit.json``: method, classes, key id, cipher settings.
    """
    if isinstance(model, peft.PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = base.as_posix()
        with atomic_output(folder, known_by=_RECORD) as temporary:
            tuner.save(model, temporary)
            card = _CARD.format(
                method=record["method"],
                images=_which_images(record),
                base=base.as_posix(),
                register="" if tuner.stock else "    import ppvit.tuners  # makes the method known to peft\n",
                load=_how_to_load(base, record["num_classes"]),
            )
            (temporary / "README.md").write_text(card, encoding="utf-8")
            write_json(temporary / _RECORD, record)
        return
    configuration = read_json(base / "config.json", "adapt")
    backbone = Backbone(model, configuration["architecture"], configuration["model_args"], (0.5,) * 3, (0.5,) * 3)
    with atomic_output(folder, known_by=_RECORD) as temporary:
        save_model(temporary, backbone, record)
        write_json(temporary / _RECORD, record)


_CARD = """---
library_name: peft
tags: [ppvit, {method}]
---
Adapter trained by ppvit with `finetune.method: {method}` on {images}.
It works on the model in `{base}`, which takes such images, scaled to x / 127.5 - 1:

{register}    base = {load}
    model = peft.PeftModel.from_pretrained(base, "<this folder>")
"""


def _which_images(record: dict[str, Any]) -> str:
    if record["key_id"] is None:
        return "plain images"
    return f"images encrypted with cipher `{record['cipher']['name']}` under key `{record['key_id']}`"


def _how_to_load(base: Path, num_classes: int) -> str:
    if "stem" in read_json(base / "config.json", "adapt"):  # a first layer that timm does not have
        return f'ppvit.models.load_model(Path("{base.as_posix()}"), "adapt", num_classes={num_classes})'
    return f'timm.create_model("local-dir:{base.as_posix()}", pretrained=True, num_classes={num_classes})'


def read_finetuned_record(folder: Path) -> dict[str, Any]:
    """The ``record`` that :func:`save_finetuned` kept."""
    record: dict[str, Any] = read_json(folder / _RECORD, "finetune")
    return record


def finetuned_id(folder: Path) -> str:
    """16 hexadecimal digits that tell one fine-tuned model from another: the start of the SHA-256 of its weights.

    Raises:
        PpvitError: there are none.
    """
    weights = [path for name in _WEIGHTS if (path := folder / name).exists()]
    if not weights:
        raise PpvitError(f"{folder} holds no weights; run the stage that writes it: dvc repro finetune")
    return sha256_of(weights[0])[:16]


def is_mergeable(model: peft.PeftModel) -> bool:
    """Whether every adapter of a model can be folded into its base."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return all(getattr(layer, "mergeable", True) for layer in layers)


def load_finetuned(adapted: Path, finetuned: Path, num_classes: int) -> nn.Module:
    """Load the fine-tuned model as a timm model in eval mode, adapters merged where the method can.

    Where it cannot (a bottleneck, prompts), the adapters stay inside as modules; patch embedding, position embedding
    and head are found where timm has them.

    Args:
        adapted: folder that `adapt` wrote.
        finetuned: folder that `finetune` wrote.
        num_classes: of the head.

    Raises:
        PpvitError: missing or unreadable, or the head has another number of classes.
    """
    record = read_finetuned_record(finetuned)
    if record["num_classes"] != num_classes:
        raise PpvitError(
            f"{finetuned} was trained on {record['num_classes']} classes, the shards have {num_classes}; "
            "run dvc repro finetune"
        )
    if not (finetuned / "adapter_config.json").exists():
        return load_model(finetuned, "finetune")
    tuned = load_adapter(adapted, finetuned, num_classes)
    model = tuned.merge_and_unload() if is_mergeable(tuned) else tuned.get_base_model()
    return model.eval()


def load_adapter(adapted: Path, finetuned: Path, num_classes: int) -> peft.PeftModel:
    """Load a fine-tuned model with its adapters unmerged, in eval mode; arguments: see :func:`load_finetuned`.

    Raises:
        PpvitError: missing, unreadable or incomplete.
    """
    base = load_model(adapted, "adapt", num_classes)
    try:
        with warnings.catch_warnings(), without_butterfly_extension():
            warnings.filterwarnings("error", message="Found missing adapter keys")  # peft would go on without them
            return peft.PeftModel.from_pretrained(base, str(finetuned)).eval()
    except (SafetensorError, RuntimeError, ValueError, KeyError, OSError, UserWarning) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PpvitError(f"{finetuned} cannot be loaded ({reason}); run dvc repro --force finetune") from None
