"""Writing fine-tuned models: peft adapter folders, or whole models where the method is no peft adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
from torch import nn

from ppvit.core.files import atomic_output, write_json
from ppvit.core.provenance import RECORD
from ppvit.models import Backbone, save_model
from ppvit.models.folders import read_configuration
from ppvit.tuners.base import Tuner


def save_finetuned(tuner: Tuner, model: nn.Module, folder: Path, base: Path, record: dict[str, Any]) -> None:
    """Write a peft adapter folder, or a whole model where the method is no peft adapter; whole or not at all.

    Args:
        tuner: the method.
        model: as :meth:`Tuner.attach` returned it, trained.
        folder: replaced when it exists.
        base: folder of the adapted model that it was trained on, recorded in the adapter.
        record: kept as ``ppvit.json``: classes, key id, cipher settings, image size; method and parameters are added.
    """
    record = {**record, "method": tuner.settings.method, "finetune": tuner.settings.model_dump(exclude={"recipe"})}
    if isinstance(model, peft.PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = base.as_posix()
        with atomic_output(folder, known_by=RECORD) as temporary:
            tuner.save(model, temporary)
            card = _CARD.format(
                method=record["method"],
                images=_which_images(record),
                base=base.as_posix(),
                register="" if tuner.stock else "    import ppvit.tuners  # makes the method known to peft\n",
                load=_how_to_load(base, record["num_classes"]),
            )
            (temporary / "README.md").write_text(card, encoding="utf-8")
            write_json(temporary / RECORD, record)
        return
    said = read_configuration(base, "adapt")
    backbone = Backbone(model, said.architecture, said.arguments(), (0.5,) * 3, (0.5,) * 3)
    with atomic_output(folder, known_by=RECORD) as temporary:
        save_model(temporary, backbone, record)
        write_json(temporary / RECORD, record)


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
    if read_configuration(base, "adapt").stem is not None:  # a first layer that timm does not have
        return f'ppvit.models.load_model(Path("{base.as_posix()}"), "adapt", num_classes={num_classes})'
    return f'timm.create_model("local-dir:{base.as_posix()}", pretrained=True, num_classes={num_classes})'
