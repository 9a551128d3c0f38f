"""Loading fine-tuned models, which somebody else may have written.

Nothing is built from what their files claim. The record says which method trained with which parameters; the method
extends the base model as it did for training, without values; and configuration and tensors on disk must be exactly
those of that. No file is looked for outside the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ppvit.core.errors import PpvitError, UsageError, brief
from ppvit.core.provenance import ADAPTER, ADAPTER_CONFIGURATION, RECORD
from ppvit.core.reading import read_json
from ppvit.models.adaptive import learned_layer_names
from ppvit.models.batch_norm import batch_norm_names, set_batch_norm
from ppvit.models.folders import StoredModel
from ppvit.models.stems import token_order
from ppvit.models.tensors import read_some, read_tensors, require_tensors
from ppvit.models.without_values import without_values
from ppvit.tuners.base import TUNERS
from ppvit.tuners.records import FinetunedRecord, checked_record

_CONFIGURATION_BYTES = 2**20  # more than any adapter's of ours; `eva` names every layer
_NAMES_ALONE = ("base_model_name_or_path", "peft_version")  # say where it was made, and change nothing


def load_finetuned(adapted: Path, finetuned: Path, num_classes: int) -> nn.Module:
    """Load the fine-tuned model as a timm model in eval mode, adapters merged where the method can.

    Where it cannot (a bottleneck, prompts), the adapters stay inside as modules; patch embedding, position embedding
    and head are found where timm has them.

    Args:
        adapted: folder that `adapt` wrote.
        finetuned: folder that `finetune` wrote.
        num_classes: of the head.

    Raises:
        PpvitError: missing or unreadable, not exactly what the method trains, or the head has another number of
            classes.
    """
    record = _record_for(finetuned, num_classes)
    if record.finetune is None:
        return _whole(finetuned, record).load(None)
    stored = _Stored(adapted, finetuned, record)
    if not stored.is_adapter:
        return stored.whole()
    tuned = stored.adapter()
    model = tuned.merge_and_unload() if is_mergeable(tuned) else tuned.get_base_model()
    return model.eval()


def load_adapter(adapted: Path, finetuned: Path, num_classes: int) -> PeftModel:
    """Load a fine-tuned model with its adapters unmerged, in eval mode; arguments, errors: :func:`load_finetuned`."""
    record = _record_for(finetuned, num_classes)
    stored = None if record.finetune is None else _Stored(adapted, finetuned, record)
    if stored is None or not stored.is_adapter:
        raise PpvitError(f"{finetuned} holds a whole model of method {record.method}, no adapter; use load_finetuned")
    return stored.adapter()


def is_mergeable(model: PeftModel) -> bool:
    """Whether every adapter of a model can be folded into its base."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return all(getattr(layer, "mergeable", True) for layer in layers)


def _record_for(finetuned: Path, num_classes: int) -> FinetunedRecord:
    record = checked_record(finetuned)
    if record.num_classes != num_classes:
        raise PpvitError(
            f"{finetuned} was trained on {record.num_classes} classes, the shards have {num_classes}; "
            "run dvc repro finetune"
        )
    return record


def _whole(finetuned: Path, record: FinetunedRecord) -> StoredModel:
    """A whole model whose two records are one."""
    stored = StoredModel(finetuned, "finetune")
    if stored.configuration.ppvit != record.model_dump(exclude_unset=True):
        raise _refused(finetuned / "config.json", f"its record is another one than that in {RECORD}")
    if stored.configuration.num_classes != record.num_classes:
        raise _refused(
            finetuned / "config.json", f"it has {stored.configuration.num_classes} classes, not {record.num_classes}"
        )
    return stored


class _Stored:
    """A fine-tuned model on disk beside its base, which fit each other."""

    def __init__(self, adapted: Path, finetuned: Path, record: FinetunedRecord) -> None:
        assert record.finetune is not None
        self.folder, self.record, self.settings = finetuned, record, record.finetune
        self.base = StoredModel(adapted, "adapt")
        self.configuration: dict[str, Any] = {}
        if (finetuned / ADAPTER_CONFIGURATION).exists():
            self.configuration = read_json(finetuned / ADAPTER_CONFIGURATION, "finetune", _CONFIGURATION_BYTES)
        if not isinstance(self.configuration, dict):
            raise _refused(finetuned / ADAPTER_CONFIGURATION, "it holds no settings of an adapter")
        with torch.random.fork_rng(devices=[]), without_values():
            self.skeleton = self._extended(self.base.skeleton(record.num_classes))
        self.is_adapter = isinstance(self.skeleton, PeftModel)
        if self.is_adapter and not self.configuration:
            read_json(finetuned / ADAPTER_CONFIGURATION, "finetune")  # says that it is missing

    def adapter(self) -> PeftModel:
        """The base model with the adapter in it, in eval mode."""
        assert isinstance(self.skeleton, PeftModel)
        self._require_configuration(self.skeleton)
        path, of_what = self.folder / ADAPTER, f"method {self.record.method}"
        expected = get_peft_model_state_dict(self.skeleton, save_embedding_layers=False)
        require_tensors(path, expected, of_what, "finetune")
        base = self.base.load(self.record.num_classes)
        order = token_order(base)
        tuned = self._extended(base)
        assert isinstance(tuned, PeftModel)
        state = read_tensors(path, expected, of_what, "finetune")
        for name, tensor in state.items():  # a patch embedding that trained as a whole has it too, and did not train it
            if name.endswith(".token_order") and (order is None or not torch.equal(tensor, order)):
                raise _refused(path, f"'{name}' is not that of the base, and {self.record.method} does not train it")
        set_peft_model_state_dict(tuned, state)
        for name, parameter in tuned.named_parameters():
            mask = getattr(parameter, "structural_mask", None)  # see ppvit.tuners.melo
            if mask is not None and parameter[~mask].any():
                raise _refused(path, f"'{name}' has values where method {self.record.method} trains none")
        for config in tuned.peft_config.values():
            config.inference_mode = True
        return tuned.requires_grad_(False).eval()

    def whole(self) -> nn.Module:
        """The model, whose frozen tensors are those of the base, in eval mode."""
        stored = _whole(self.folder, self.record)
        ours, theirs = self.base.configuration, stored.configuration
        if (ours.architecture, ours.model_args, ours.stem) != (theirs.architecture, theirs.model_args, theirs.stem):
            raise _refused(self.folder / "config.json", f"it is another network than {self.base.folder}")
        trains = {name for name, parameter in self.skeleton.named_parameters() if parameter.requires_grad}
        normalised = [] if self.settings.batch_norm == "frozen" else batch_norm_names(self.skeleton)
        normalised += learned_layer_names(self.skeleton)  # whose buffers follow their weights
        frozen = [
            name
            for name in self.skeleton.state_dict()
            if name not in trains and name.rpartition(".")[0] not in normalised
        ]
        before = read_some(self.base.weights, frozen, "adapt")
        after = read_some(stored.weights, frozen, "finetune")
        for name in frozen:
            if not torch.equal(before[name], after[name]):
                why = f"'{name}' differs from the base, but {self.record.method} does not train it"
                raise _refused(stored.weights, why)
        return stored.load(None)

    def _extended(self, base: nn.Module) -> nn.Module:
        try:
            model = TUNERS[self.record.method](self.settings).attach_saved(base, self.configuration)
            return set_batch_norm(model, self.settings.batch_norm)
        except UsageError as error:
            raise _refused(self.folder / RECORD, str(error)) from None
        except Exception as error:  # of sizes that peft and torch cannot use, each in its own way
            raise _refused(
                self.folder / RECORD, f"{self.record.method} cannot be attached with its parameters ({brief(error)})"
            ) from None

    def _require_configuration(self, skeleton: PeftModel) -> None:
        """Refuse settings of the adapter which are not those that the method saves."""
        path = self.folder / ADAPTER_CONFIGURATION
        base = type(skeleton.get_base_model())
        expected = skeleton.peft_config["default"].to_dict() | {
            "inference_mode": True,
            "auto_mapping": {"base_model_class": base.__name__, "parent_library": base.__module__},
        }
        written = self.configuration
        for name in _NAMES_ALONE:
            if not isinstance(written.get(name), str) or len(written[name]) > 4096:
                raise _refused(path, f"'{name}' is no text")
        for name in sorted(expected.keys() | written.keys()):
            if name in _NAMES_ALONE:
                continue
            if name not in written or name not in expected:
                how = "is missing" if name in expected else "does not belong there"
                raise PpvitError(
                    f"{path}: '{name[:100]}' {how}; install the version of peft that wrote it "
                    f"({written['peft_version'][:20]}), or make it again: dvc repro --force finetune"
                )
            if _text(written[name]) != _text(expected[name]):
                says = f"'{name}' is {_text(written[name])[:60]}, but {RECORD} makes it {_text(expected[name])[:60]}"
                raise _refused(path, says)


def _text(value: Any) -> str:
    """A setting as JSON has it; 1 and true and 1.0 differ."""
    return json.dumps(sorted(value) if isinstance(value, set) else value, sort_keys=True, default=str)


def _refused(path: Path, why: str) -> PpvitError:
    return PpvitError(f"{path}: {why}; make it again: dvc repro --force finetune")
