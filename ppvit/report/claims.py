"""What the trainer says of its model, held against what the owner has: counts, sums, the model that was verified.

The trainer's figures cannot be proved from its files. They can contradict each other, the owner's images and what
`verify` measured, and then they are refused, or shown as what they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppvit.config import Config
from ppvit.core.errors import PpvitError
from ppvit.core.figures import Amount, Count, Percent, Share, read_result, read_rows
from ppvit.core.measures import HEADLINES, Headline, LabelRow, wilson_percent
from ppvit.core.provenance import identities
from ppvit.data.labels import Labelling, LabelSets
from ppvit.evasion.verdicts import attack_names, image_bounds, trainers_verdict
from ppvit.places import Places
from ppvit.report.class_claims import disagreement, sums_of
from ppvit.report.label_claims import exact_match_bounds, read_labels, sums, wrong_label

STAGES = ("adapt", "finetune", "evaluate", "robustness", "verify", "audit", "threats")
_OF_THE_MODEL = (
    "finetune",
    "evaluate",
    "robustness",
    "audit",
    "threats",
)  # beside `verify`, which they must agree with
_MEANS = ("balanced_accuracy_percent",)  # over classes, so no share of images
# metrics by epoch; those of test images are there where finetune.track_test asked for them
CURVES: dict[str, Any] = {
    "train_loss": Amount,
    "train_accuracy_percent": Percent,
    **{
        f"{split}_{name}": kind
        for split in ("val", "test")
        for name, kind in (
            ("loss", Amount),
            ("accuracy_percent", Percent),
            ("balanced_accuracy_percent", Percent),
            ("auroc", Share),
        )
    },
    "val_robust_accuracy_percent": Percent,
}
_ROUNDED = 1e-6  # of an image, or of a percent: figures are written with all their digits


@dataclass(frozen=True)
class Tables:
    """Tables of numbers that the trainer wrote.

    Attributes:
        learning: those of ``CURVES`` that were measured, by epoch.
        confusion: number of images by true class (rows) and predicted class, (C, C); empty where images carry several.
        labels: how well each label is told, where images carry several; else empty.
        calibration: mean confidence in percent, accuracy in percent and images (or multi-label, answers) of every bin.
        curve: epsilon in grey levels and accuracy in percent.
    """

    learning: dict[str, list[tuple[int, float]]]
    confusion: npt.NDArray[np.int64]
    labels: list[LabelRow]
    calibration: list[tuple[float, float, int]]
    curve: list[tuple[float, float]]


def read_results(config: Config, places: Places, images: int, labelling: Labelling) -> dict[str, dict[str, Any]]:
    """All result files by stage; that of ``he`` where there is one, since its library is an extra.

    Args:
        config: ``finetune.method`` and ``finetune.epochs`` are used.
        places: ``results`` is read; ``adapted`` and ``finetuned``, of which they must be.
        images: number of the owner's test images.
        labelling: of the owner's images.

    Raises:
        PpvitError: a result is missing, cannot be right, is of another model than `verify` measured, or contradicts
            the parameters, the owner's images or itself.
    """
    values = {stage: read_result(places.result(stage), stage, labelling.task) for stage in STAGES}
    # of verify too: whoever writes dvc.lock decides what DVC runs again
    for name, there in identities(places.adapted, places.finetuned).items():
        folder = getattr(places, name.removesuffix("_id"))
        for stage in ("verify", *_OF_THE_MODEL):
            _require(places, values, stage, name, there, f"{folder} holds")
    size = sum(path.stat().st_size for path in places.finetuned.rglob("*") if path.is_file())
    _require(places, values, "finetune", "adapter_bytes", size, f"{places.finetuned} has")
    for name in ("method", "epochs"):
        _require(places, values, "finetune", name, getattr(config.finetune, name), "by params.yaml it is")
    for stage in ("evaluate", "verify"):
        _require(places, values, stage, "images", images, f"{places.raw} gives")
    attacked = {name: getattr(config.robustness, name) for name in ("norm", "epsilon", "seed")}
    if config.robustness.steps != "auto" and "pgd_steps" in values["robustness"]:
        attacked["pgd_steps"] = config.robustness.steps
    fewest, most = (min(images, bound) for bound in image_bounds(config.robustness))
    if fewest == most:
        attacked["images"] = most
    elif not fewest <= (told := values["robustness"]["images"]) <= most:
        why = f"'images' is {told}, by params.yaml it is {fewest} to {most}"
        raise _distrusted(places.result("robustness"), "robustness", why)
    for name, asked in attacked.items():
        _require(places, values, "robustness", name, asked, "by params.yaml it is")
    several = isinstance(labelling, LabelSets)
    for stage in ("evaluate", "robustness"):
        answers = values[stage]["images"] * (labelling.classes if several else 1)
        for name, percent in values[stage].items():
            if name.endswith("accuracy_percent") and name not in _MEANS and not _is_share(percent, answers):
                why = f"'{name}' {percent} is no share of {answers} {'answers' if several else 'images'}"
                raise _distrusted(places.result(stage), stage, why)
    if contradiction := disagreement(values["evaluate"]):
        raise _distrusted(places.result("evaluate"), "evaluate", contradiction)
    _require_agreement(config, places.result("robustness"), values["robustness"], labelling)
    if places.result("he").exists():
        values["he"] = read_result(places.result("he"), "he", labelling.task)
    return values


def read_tables(
    config: Config,
    places: Places,
    labelling: Labelling,
    per_class: npt.NDArray[np.int64],
    values: dict[str, dict[str, Any]],
) -> Tables:
    """The trainer's tables.

    Args:
        config: ``finetune.epochs``, ``evaluate.calibration_bins`` and ``robustness.epsilons`` bound their lengths.
        places: ``live``, ``plots`` and ``curves`` are read.
        labelling: of the owner's images.
        per_class: number of the owner's test images of every class, (C,).
        values: results by stage, which the tables must add up to.

    Raises:
        PpvitError: a table is missing, damaged, too long, or contradicts the result or the owner's images.
    """
    learning: dict[str, list[tuple[int, float]]] = {}
    for name, kind in CURVES.items():
        path = places.live / "plots" / "metrics" / f"{name}.tsv"
        if not path.exists():
            continue
        learning[name] = list(read_rows(path, "finetune", {"step": Count, name: kind}, config.finetune.epochs, "\t"))
        told = values["finetune"]
        if "selected_epoch" in told and name in told and (told["selected_epoch"], told[name]) not in learning[name]:
            raise _distrusted(path, "finetune", f"epoch {told['selected_epoch']} is not {told[name]}, as in the result")
    columns = {"epsilon": Amount, "accuracy_percent": Percent}
    curve = list(read_rows(places.curves / "curve.csv", "robustness", columns, len(config.robustness.epsilons) + 1))
    clean = values["robustness"]["clean_accuracy_percent"]
    if curve[:1] != [(0.0, clean)]:
        raise _distrusted(places.curves / "curve.csv", "robustness", f"it does not begin with 0,{clean}, as the result")
    images, confusion, labels = values["evaluate"]["images"], np.zeros((0, 0), np.int64), []
    if isinstance(labelling, LabelSets):
        answers, path = images * labelling.classes, places.plots / "labels.csv"
        labels = read_labels(path, per_class)
        if why := wrong_label(labels, per_class, images):
            raise _distrusted(path, "evaluate", why)
        told, (least, most) = values["evaluate"]["exact_match_percent"], exact_match_bounds(labels, images)
        if not (least - _ROUNDED <= told <= most + _ROUNDED and _is_share(told, images)):
            why = (
                f"by it 'exact_match_percent' is a share between {least:.6g} and {most:.6g}, evaluate.json says {told}"
            )
            raise _distrusted(path, "evaluate", why)
        added = {name: ("labels.csv", value) for name, value in sums(labels, images).items()}
    else:
        answers = images
        confusion = _read_confusion(places.plots / "confusion.csv", per_class, places.raw)
        added = {name: ("confusion.csv", value) for name, value in sums_of(confusion).items()}
    calibration = _read_calibration(places.plots / "calibration.csv", config.evaluate.calibration_bins, answers)
    apart = sum(abs(accuracy - confidence) * count for confidence, accuracy, count in calibration) / answers
    added["calibration_error_percent"] = ("calibration.csv", apart)
    _require_sums(places.plots, added, values["evaluate"])
    return Tables(learning, confusion, labels, calibration, curve)


def _read_confusion(path: Path, per_class: npt.NDArray[np.int64], raw: Path) -> npt.NDArray[np.int64]:
    classes = len(per_class)
    confusion = np.zeros((classes, classes), np.int64)
    for actual, predicted in read_rows(path, "evaluate", {"actual": Count, "predicted": Count}, int(per_class.sum())):
        if max(actual, predicted) >= classes:
            why = f"it has class {max(actual, predicted)}, {raw} has classes 0 to {classes - 1}"
            raise _distrusted(path, "evaluate", why)
        confusion[actual, predicted] += 1
    for label, (told, there) in enumerate(zip(confusion.sum(axis=1), per_class, strict=True)):
        if told != there:
            raise _distrusted(path, "evaluate", f"it has {told} images of class {label}, {raw} has {there}")
    return confusion


def _read_calibration(path: Path, bins: int, answers: int) -> list[tuple[float, float, int]]:
    columns = {"confidence_percent": Amount, "accuracy_percent": Percent, "images": Count}
    rows = list(read_rows(path, "evaluate", columns, bins))
    if sum(images for _, _, images in rows) != answers:
        raise _distrusted(path, "evaluate", f"its images do not add up to {answers}")
    if any(confidence > 100 + _ROUNDED for confidence, _, _ in rows):  # a mean, whose rounding may pass 100
        raise _distrusted(path, "evaluate", "a confidence is more than 100 percent")
    return rows


def _require_sums(plots: Path, added: dict[str, tuple[str, float]], evaluate: dict[str, Any]) -> None:
    """The result file must say what its tables add up to: table and figure by name."""
    for name, (table, figure) in added.items():
        if not math.isclose(evaluate[name], figure, abs_tol=_ROUNDED):
            why = f"it gives '{name}' {figure:.6g}, evaluate.json says {evaluate[name]:.6g}"
            raise _distrusted(plots / table, "evaluate", why)


def unconfirmed(values: dict[str, dict[str, Any]], headline: Headline = HEADLINES["multiclass"]) -> str:
    """A sentence where the trainer's headline figure, or AUROC, is not what the owner measured of the same model.

    Empty where it is.

    Ciphertext made anew is the same to the bit, so that only rounding on another machine can turn single images.
    """
    told, measured = values["evaluate"][headline.name], values["verify"][headline.name]
    images = values["verify"]["images"]
    if headline.trusted is not None:
        if abs(told - measured) <= headline.trusted:
            return ""
        return (
            f"Do not trust the trainer's figures: it says a {headline.words} of {headline.text(told)} on {images} test "
            f"images, the owner measured {headline.text(measured)} with the same model on the same images."
        )
    turned = abs(told - measured) * images / 100
    if turned <= max(1, images // 200) + _ROUNDED:
        areas = HEADLINES["multilabel"]  # of one class each they are no headline, but measured as well
        both = all(areas.name in values[stage] for stage in ("evaluate", "verify"))
        return unconfirmed(values, areas) if both else ""
    return (
        f"Do not trust the trainer's figures: it says {told:.2f} % of {images} test images are classified correctly, "
        f"the owner measured {measured:.2f} % with the same model on the same images."
    )


def _require(
    places: Places, values: dict[str, dict[str, Any]], stage: str, name: str, expected: Any, source: str
) -> None:
    if values[stage][name] != expected:
        told = f"'{name}' is {values[stage][name]}, {source} {expected}"
        raise _distrusted(places.result(stage), stage, told)


def _require_agreement(config: Config, path: Path, robustness: dict[str, Any], labelling: Labelling) -> None:
    """What the trainer says of attacks must agree with itself: each goes on where the one before it left off."""
    if "headline_accuracy_percent" not in robustness:
        if not robustness["verdict"].startswith("Not measured by the trainer: "):
            raise _distrusted(path, "robustness", "'verdict' names a figure that is not there")
        return
    if isinstance(labelling, LabelSets):
        raise _distrusted(path, "robustness", "it has figures of attacks, which are made on images of one class alone")
    attacks = robustness.get("attacks", "").split(", ")
    if attacks not in (attack_names(config.robustness.attack, labelling.classes), ["pgd"]):
        raise _distrusted(path, "robustness", "'attacks' are not those of robustness.attack")
    left = robustness["clean_accuracy_percent"]
    for name in (f"{attack.replace('-', '_')}_accuracy_percent" for attack in attacks):
        if robustness.get(name, math.inf) > left:
            raise _distrusted(path, "robustness", f"'{name}' is not there, or more than before that attack")
        left = robustness[name]
    hits = round(left * robustness["images"] / 100)
    low, high = (round(bound, 2) for bound in wilson_percent(hits, robustness["images"]))
    known = {"headline_accuracy_percent": left, "interval_low_percent": low, "interval_high_percent": high}
    known["verdict"] = trainers_verdict({**robustness, **known}, config.robustness, attacks, robustness["images"])
    for name, expected in known.items():
        if robustness.get(name) != expected:
            raise _distrusted(path, "robustness", f"'{name}' is not '{expected}', as its other figures say")


def _is_share(percent: float, images: int) -> bool:
    hits = percent * images / 100
    return abs(hits - round(hits)) < _ROUNDED * max(1, images)


def _distrusted(path: Path, stage: str, why: str) -> PpvitError:
    return PpvitError(f"{path}: {why}; measure again: dvc repro --force {stage}")
