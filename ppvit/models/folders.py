"""Models on disk, in the folder layout that timm's ``local-dir:`` reads."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any, cast

import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from ppvit.core.errors import PpvitError, brief
from ppvit.core.files import atomic_output, write_json
from ppvit.core.reading import first_reason
from ppvit.core.reading import read_record as read_checked
from ppvit.models import names as _names  # noqa: F401 - registers models with timm
from ppvit.models.backbones import Backbone
from ppvit.models.building import is_whole_in_file
from ppvit.models.projections import is_order
from ppvit.models.records import ModelConfiguration, ModelRecord
from ppvit.models.stems import install_stem, stem_of
from ppvit.models.tensors import read_tensors, require_tensors, tensor_names
from ppvit.models.without_values import without_values

CONFIGURATION, WEIGHTS = "config.json", "model.safetensors"


def save_model(folder: Path, backbone: Backbone, record: dict[str, Any]) -> None:
    """Write a model so that ``timm.create_model("local-dir:<folder>", pretrained=True)`` loads it, whole or not at all.

    A model whose first layer was replaced (:mod:`ppvit.models.stems`) is loaded by :func:`load_model` alone; plain timm
    stops at names that it does not know, or at shapes.

    The model must take pixels scaled by :func:`model_input`; its configuration says so to timm's transforms.

    Args:
        folder: replaced when it exists.
        backbone: the model and its arguments.
        record: what ppvit must know of it later, kept under ``ppvit`` in ``config.json``: key id, cipher settings.
    """
    with atomic_output(folder, known_by=CONFIGURATION, holding='"ppvit"') as temporary:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.model.state_dict().items()}
        save_file(_each_its_own(state), temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(temporary / CONFIGURATION, _configuration(backbone, record))


def _each_its_own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in place of tensors that blocks share, as CoaT's do, which a safetensors file cannot hold."""
    places = Counter(tensor.data_ptr() for tensor in state.values())
    return {name: tensor.clone() if places[tensor.data_ptr()] > 1 else tensor for name, tensor in state.items()}


def recorded(backbone: Backbone) -> dict[str, Any]:
    """What a record keeps of where a backbone's weights and normalisation are from."""
    return {} if backbone.origin is None else {"origin": backbone.origin.record()}


def _configuration(backbone: Backbone, record: dict[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says of a model."""
    model = backbone.model
    timms = cast(dict[str, Any], model.pretrained_cfg)
    size = backbone.model_args.get("img_size") or record["image_size"]
    stem = stem_of(model)
    return {
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
            # for other colours or classes than these timm drops the layers that it knows by these names, and then loads
            # whatever else fits, with a warning: a first layer that it does not know must stop it
            "first_conv": None if stem else _as_written(timms.get("first_conv", "patch_embed.proj")),
            "classifier": None if stem else _as_written(timms.get("classifier", "head")),
        },
        "ppvit": record,
        **({"stem": stem} if stem else {}),
    }


def _as_written(names: Any) -> Any:
    """Names of modules as JSON has them: distilled models have two heads, in a tuple."""
    return list(names) if isinstance(names, tuple) else names


def read_configuration(folder: Path, made_by: str) -> ModelConfiguration:
    """``config.json`` of a model folder.

    Raises:
        PpvitError: it is missing, was not written by ppvit, or says what no model of ppvit does.
    """
    return read_checked(folder / CONFIGURATION, ModelConfiguration, made_by)


def read_record(folder: Path, made_by: str) -> dict[str, Any]:
    """The ``record`` that :func:`save_model` kept of a model that was adapted.

    Raises:
        PpvitError: the folder holds no model of ppvit.
    """
    record = read_configuration(folder, made_by).ppvit
    try:
        ModelRecord.model_validate(record)
    except ValidationError as error:
        raise PpvitError(
            f"{folder / CONFIGURATION}: ppvit: {first_reason(error)}; make it again: dvc repro --force {made_by}"
        ) from None
    return record


class StoredModel:
    """A model on disk whose configuration and list of tensors fit each other; no weights are read or made for that.

    Args:
        folder: what :func:`save_model` wrote.
        made_by: the stage that writes it, named in errors.

    Raises:
        PpvitError: something is missing, or configuration and tensors are not of one model.
    """

    def __init__(self, folder: Path, made_by: str) -> None:
        self.folder, self.made_by = folder, made_by
        self.configuration = read_configuration(folder, made_by)
        self.weights = folder / WEIGHTS
        tensors = tensor_names(self.weights, made_by)
        if self.configuration.arguments().get("depth", 1) > len(tensors):
            raise self._refused("'model_args.depth' is more than there are tensors")
        with without_values():  # whatever sizes the file claims take no memory
            self._skeleton = self._build()
        require_tensors(self.weights, self._skeleton.state_dict(), "its config.json", made_by)

    def skeleton(self, num_classes: int | None) -> nn.Module:
        """The model on the meta device: names, shapes and dtypes without values; arguments: see :func:`load_model`."""
        model = copy.deepcopy(self._skeleton)
        with without_values():
            return _with_head(model, num_classes)

    def load(self, num_classes: int | None) -> nn.Module:
        """See :func:`load_model`."""
        whole = is_whole_in_file(self._skeleton)
        drawn = torch.get_rng_state()
        model = copy.deepcopy(self._skeleton) if whole else self._build()
        state = read_tensors(self.weights, model.state_dict(), "its config.json", self.made_by)
        for name, tensor in state.items():
            if name.endswith("token_order") and not is_order(tensor):
                raise PpvitError(
                    f"{self.weights}: '{name}' is no order of {len(tensor)} patches; make it again: dvc repro --force "
                    f"{self.made_by}"
                )
        model.load_state_dict(state, strict=True, assign=whole)
        # weights that are loaded were drawn first, by models that keep more than weights: a new head must not depend
        # on that, so that training on ciphertext stays exactly training on plain images
        torch.set_rng_state(drawn)
        return _with_head(model, num_classes).eval()

    def _build(self) -> nn.Module:
        """The model that the configuration is of, which it would write itself in these words."""
        said = self.configuration
        arguments = said.arguments() | {"num_classes": said.num_classes}
        try:
            model = timm.create_model(said.architecture, **arguments)
            if said.stem is not None:
                install_stem(model, said.stem.model_dump(exclude_unset=True))
            backbone = Backbone(model, said.architecture, arguments, (0.5,) * 3, (0.5,) * 3)
            would = _configuration(backbone, said.ppvit)
        except Exception as error:  # of names and sizes that timm cannot use, each in its own way
            raise self._refused(f"no model can be built of it ({brief(error)})") from None
        written = said.model_dump(exclude_unset=True)
        for name in sorted(would.keys() | written.keys()):
            if would.get(name) != written.get(name):
                raise self._refused(f"'{name}' is not what {said.architecture} has")
        cast(dict[str, Any], model.pretrained_cfg).update(said.pretrained_cfg.model_dump(exclude_none=True))
        return model

    def _refused(self, why: str) -> PpvitError:
        return PpvitError(f"{self.folder / CONFIGURATION}: {why}; make it again: dvc repro --force {self.made_by}")


def load_model(folder: Path, made_by: str, num_classes: int | None = None) -> nn.Module:
    """Load what :func:`save_model` wrote, in eval mode; nothing is looked for anywhere else.

    Args:
        folder: the model's folder.
        made_by: the stage that writes it, named in errors.
        num_classes: a new, randomly initialised head of this many classes; None keeps the one on disk.

    Raises:
        PpvitError: missing or unreadable, or weights that are not those of the configuration.
    """
    return StoredModel(folder, made_by).load(num_classes)


def _with_head(model: nn.Module, num_classes: int | None) -> nn.Module:
    if num_classes is not None:
        cast(Any, model).reset_classifier(num_classes)  # a new head even where the old one has as many classes
    return model
