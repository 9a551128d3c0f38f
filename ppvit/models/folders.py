"""Models on disk, in the folder layout that timm's ``local-dir:`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ppvit.core.errors import PpvitError
from ppvit.core.files import atomic_output, write_json
from ppvit.core.reading import read_json
from ppvit.models import convmixer, resnet  # noqa: F401 - registers models with timm
from ppvit.models.backbones import Backbone
from ppvit.models.stems import install_stem, stem_of
from ppvit.models.weights_file import brief


def save_model(folder: Path, backbone: Backbone, record: dict[str, Any]) -> None:
    """Write a model so that ``timm.create_model("local-dir:<folder>", pretrained=True)`` loads it, whole or not at all.

    A model whose first layer was replaced (:mod:`ppvit.models.stems`) is loaded by :func:`load_model` alone.

    The model must take pixels scaled by :func:`model_input`; its configuration says so to timm's transforms.

    Args:
        folder: replaced when it exists.
        backbone: the model and its arguments.
        record: what ppvit must know of it later, kept under ``ppvit`` in ``config.json``: key id, cipher settings.
    """
    model = backbone.model
    timms = cast(dict[str, Any], model.pretrained_cfg)
    with atomic_output(folder, known_by="config.json", holding='"ppvit"') as temporary:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, temporary / "model.safetensors", metadata={"format": "pt"})
        size = backbone.model_args.get("img_size") or record["image_size"]
        stem = stem_of(model)
        configuration = {
            "architecture": backbone.architecture,
            "num_classes": model.num_classes,
            "num_features": model.num_features,
            "model_args": {name: value for name, value in backbone.model_args.items() if name != "num_classes"},
            "pretrained_cfg": {
                "input_size": [3, size, size],
                "fixed_input_size": "img_size" in backbone.model_args,
                "crop_pct": 1.0,
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "num_classes": model.num_classes,
                "first_conv": timms.get("first_conv", "patch_embed.proj"),
                "classifier": timms.get("classifier", "head"),
            },
            "ppvit": record,
            **({"stem": stem} if stem else {}),
        }
        write_json(temporary / "config.json", configuration)


def read_record(folder: Path, made_by: str) -> dict[str, Any]:
    """The ``record`` that :func:`save_model` kept.

    Raises:
        PpvitError: the folder holds no model of ppvit.
    """
    configuration = read_json(folder / "config.json", made_by)
    if "ppvit" not in configuration:
        raise PpvitError(f"{folder}/config.json was not written by ppvit; make it again: dvc repro --force {made_by}")
    record: dict[str, Any] = configuration["ppvit"]
    return record


def load_model(folder: Path, made_by: str, num_classes: int | None = None) -> torch.nn.Module:
    """Load what :func:`save_model` wrote, in eval mode.

    Args:
        folder: the model's folder.
        made_by: the stage that writes it, named in errors.
        num_classes: a new, randomly initialised head of this many classes; None keeps the one on disk.

    Raises:
        PpvitError: missing or unreadable.
    """
    read_record(folder, made_by)
    configuration = read_json(folder / "config.json", made_by)
    arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    drawn = torch.get_rng_state()
    try:
        if "stem" in configuration:
            model = _create_with_stem(folder, configuration)
        else:
            model = timm.create_model(f"local-dir:{folder}", pretrained=True, **arguments)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise PpvitError(
            f"{folder} cannot be loaded ({brief(error)}); make it again: dvc repro --force {made_by}"
        ) from None
    # weights that are loaded were drawn first, differently many for different first layers: a new head must not depend
    # on that, so that training on ciphertext stays exactly training on plain images
    torch.set_rng_state(drawn)
    if num_classes is not None:
        cast(Any, model).reset_classifier(num_classes)  # a new head even where the old one has as many classes
    return model.eval()


def _create_with_stem(folder: Path, configuration: dict[str, Any]) -> torch.nn.Module:
    arguments = {**configuration["model_args"], "num_classes": configuration["num_classes"]}
    model = timm.create_model(configuration["architecture"], **arguments)
    cast(dict[str, Any], model.pretrained_cfg).update(configuration["pretrained_cfg"])
    install_stem(model, configuration["stem"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model
