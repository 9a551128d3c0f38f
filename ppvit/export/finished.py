"""Reading the files of a finished run, and checking that all are of the same one: no figures of another model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppvit.config import Config
from ppvit.config.methods import read_by_augmentations, read_by_method
from ppvit.core.errors import PpvitError
from ppvit.core.figures import read_result
from ppvit.core.measures import HEADLINES, Headline
from ppvit.core.provenance import Made, identities, require_made_alike
from ppvit.core.reading import read_json
from ppvit.core.results import read_times
from ppvit.data.shards import SPLITS, read_manifest
from ppvit.places import Places
from ppvit.tuners import read_finetuned_record
from ppvit.tuners.made import made_models

_RECORDED = ("method", "finetune", "num_classes", "key_id", "cipher", "image_size")


@dataclass(frozen=True)
class Finished:
    """A fine-tuned model, what made it and what was measured of it.

    Attributes:
        config: the parameters.
        record: of the fine-tuned model: method, number of classes, key id, cipher settings, image size.
        base: the same of the model it was trained on, and ``model`` (its name), ``adapted``, ``demo_key``.
        stem: whether that model has a first layer which timm does not have.
        manifest: of the encrypted test shards.
        counts: number of images by split.
        finetune, evaluate: result files; that of `finetune` with its times, where they were measured here.
        verify, audit: result files, None where the stage was not run.
    """

    config: Config
    record: dict[str, Any]
    base: dict[str, Any]
    stem: bool
    manifest: dict[str, Any]
    counts: dict[str, int]
    finetune: dict[str, Any]
    evaluate: dict[str, Any]
    verify: dict[str, Any] | None
    audit: dict[str, Any] | None

    @property
    def keyed(self) -> bool:
        """Whether a key encrypts the images: with cipher ``none`` there is nothing to reveal."""
        return self.record["key_id"] is not None

    @property
    def headline(self) -> Headline:
        """The figure to compare the model by."""
        return HEADLINES[self.record.get("task", "multiclass")]


def read_finished(config: Config, places: Places) -> Finished:
    """Read all files of a run but the weights; arguments: see :func:`ppvit.export.export`.

    Raises:
        UsageError: params.yaml names a method that there is not.
        PpvitError: a file is missing or damaged, or the files are not of one run.
    """
    adapted, finetuned = places.adapted, places.finetuned
    read_by_method(config.finetune)  # knows the method, or says so
    record = read_finetuned_record(finetuned)
    if not isinstance(record, dict) or not record.keys() >= set(_RECORDED):
        raise PpvitError(f"{finetuned}/ppvit.json is incomplete; make it again: dvc repro --force finetune")
    tuned_model, adapted_model = made_models(adapted, finetuned)
    base = adapted_model.record
    manifests = {split: read_manifest(places.encrypted / split) for split in SPLITS}
    require_made_alike(
        tuned_model,
        adapted_model,
        *(Made(places.encrypted / split, manifest, "encrypt") for split, manifest in manifests.items()),
    )
    _require_parameters(config, record, base, f"{finetuned} was trained with")
    paths = {stage: places.result(stage) for stage in ("finetune", "evaluate", "verify", "audit")}
    task = tuned_model.record["task"]
    trained, evaluated = (read_result(paths[stage], stage, task) for stage in ("finetune", "evaluate"))
    verified, audited = (
        read_result(paths[stage], stage, task) if paths[stage].exists() else None for stage in ("verify", "audit")
    )
    found = {"finetune": trained, "evaluate": evaluated, "verify": verified, "audit": audited}
    counts = {split: manifest["count"] for split, manifest in manifests.items()}
    there = {stage: result for stage, result in found.items() if result is not None}
    _require_results(there, paths, counts, adapted, finetuned)
    return Finished(
        config=config,
        record=record,
        base=base,
        stem="stem" in read_json(adapted / "config.json", "adapt"),
        manifest=manifests["test"],
        counts=counts,
        finetune=read_times(paths["finetune"]) | trained,
        evaluate=evaluated,
        verify=verified,
        audit=audited,
    )


def _require_parameters(config: Config, record: dict[str, Any], base: dict[str, Any], trained: str) -> None:
    """The card quotes params.yaml, so that must be what the model was trained with."""
    asked, read = config.finetune.model_dump(), read_by_method(config.finetune)
    pairs = {f"finetune.{name}": (record["finetune"].get(name), asked[name]) for name in asked if name in read}
    pairs |= {f"cipher.{name}": (value, getattr(config.cipher, name)) for name, value in record["cipher"].items()}
    attack = record.get("adversarial", {})  # only where the model was trained against one
    pairs |= {f"adversarial.{name}": (value, getattr(config.adversarial, name, None)) for name, value in attack.items()}
    augment = record.get("augment", {"names": []})  # only where images were augmented
    read = read_by_augmentations(config.augment)
    pairs |= {f"augment.{name}": (augment.get(name), getattr(config.augment, name)) for name in sorted(read)}
    if record["key_id"] is not None:
        pairs["cipher.key_id"] = (record["key_id"], config.cipher.key_id)
    pairs["dataset.image_size"] = (record["image_size"], config.dataset.image_size)
    pairs["model.name"] = (base["model"], config.model.name)
    pairs["adapt.enabled"] = (base["adapted"], config.adapt.enabled)
    for name, (made, asked) in pairs.items():
        _require_same(made, asked, f"{trained} {name}", "params.yaml says", "finetune", "set it back or ")


def _require_results(
    found: dict[str, dict[str, Any]], paths: dict[str, Path], counts: dict[str, int], adapted: Path, finetuned: Path
) -> None:
    there = identities(adapted, finetuned)
    for stage, result in found.items():
        for (name, identity), folder in zip(there.items(), (finetuned, adapted), strict=True):
            told = f"{paths[stage]} is about the {'fine-tuned' if folder == finetuned else 'adapted'} model"
            _require_same(result.get(name), identity, told, f"{folder} holds", stage)
        if stage in ("evaluate", "verify"):
            told = f"{paths[stage]} says images"
            _require_same(result["images"], counts["test"], told, "the test shards hold", stage)


def _require_same(found: Any, expected: Any, told: str, against: str, stage: str, remedy: str = "") -> None:
    if found != expected:
        raise PpvitError(f"{told} {found}, {against} {expected}; {remedy}run dvc repro {stage}")
