"""What the figures of a run may be, by their names: result files and tables that somebody else may have written.

Names carry their units (``_percent``, ``_bytes``), so one table of names is the model of all result files, for those
who write them and those who read them. What the trainer writes holds these names only. What the owner's own stages
write may hold more, since attacks of the audit add figures of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ppvit.core.errors import PpvitError, printable
from ppvit.core.reading import first_reason, open_regular, read_json

RESULT_BYTES = 2**20  # more than any result file has
_LINE_BYTES = 200  # of a table: a few numbers
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)

Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e300)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
_Number = Annotated[float, Field(ge=-1e300, le=1e300)]
_Sentence = Annotated[str, Field(max_length=2000)]

# what the name, or its end, says of a figure; the first that fits counts
_KINDS: dict[str, Any] = {
    r"adapted|masking_\w+|tf32": bool,
    r"(finetuned|adapted)_id": Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}\z")],
    r"(\w+_)?percent|key_percent_of_\w+": Percent,
    r"(\w+_)?ssim(_of_\w+)?": Annotated[float, Field(ge=-1, le=1)],
    r"(\w+_)?auroc(_low|_high|_error)?|average_precision|f1": Share,
    r"\w+_(bytes|labels|images|epoch|steps|surrogates|queries)|images|views|(trainable_)?parameters|epochs|seed": Count,
    r"processes": Annotated[int, Field(ge=1, lt=2**20)],
    r"(trained_)?iterations|columns|ciphertexts|key_switches|ring|modulus_bits|multiplicative_depth": Count,
    r"\w+_(seconds|per_second|loss|mi)|max_\w+|cross_entropy|epsilon": Amount,
    r"method|attacks|norm|algorithm|loss|mode|features|k2_attack|precision|compiled": Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_., -]{1,200}\z")
    ],
    r"verdict": _Sentence,
}
_ANY = bool | _Number | _Sentence | None  # of an attack's own figure

COMPARED: dict[str, tuple[str, ...]] = {
    "pretrain": ("train_loss", "val_knn_accuracy_percent", "val_linear_accuracy_percent"),
    "adapt": ("max_logit_difference_float64",),
    "finetune": ("val_accuracy_percent", "val_auroc", "trainable_parameters"),
    "evaluate": (
        *("accuracy_percent", "balanced_accuracy_percent", "auroc", "cross_entropy", "calibration_error_percent"),
    ),
    "robustness": ("clean_accuracy_percent", "headline_accuracy_percent"),
    "verify": ("plain_accuracy_percent", "plain_auroc", "wrong_key_accuracy_percent", "wrong_key_auroc"),
    "audit": ("key_percent_of_strongest", "ssim_of_strongest"),
    "threats": ("headline_accuracy_percent",),
    "he": ("accuracy_percent", "auroc"),
}
"""By stage, the figures that runs are compared by: DVC's metrics, and the columns of `ppvit compare`.

With the seconds of each stage they are at most 25; everything else a stage measures is in its result file alone.
"""

# what a trainer's file may hold
_TRAINERS = {
    "finetune": r"method|train_\w+|val_\w+|trainable_parameters(_mi)?|epochs|adapter_bytes|images_per_second|"
    r"attack_steps|optimiser_steps|selected_epoch|processes|precision|tf32|compiled|(finetuned|adapted)_id",
    "evaluate": r"((class|balanced|top5)_)?accuracy(_min|_low|_high)?_percent|auroc(_low|_high|_error)?|"
    r"average_precision|f1|cross_entropy|calibration_error_percent|images|(finetuned|adapted)_id",
    "evaluate multilabel": r"auroc(_low|_high|_error)?|average_precision|f1|(accuracy|exact_match|calibration_error)_"
    r"percent|cross_entropy|scored_labels|images|(finetuned|adapted)_id",
    "robustness": r"\w+_accuracy_percent|interval_(low|high)_percent|masking_\w+|attacks|images|a?pgd_steps|seed|norm|"
    r"epsilon|verdict|(finetuned|adapted)_id",
}
# what those who read a file rely on
_NEEDED = {
    "adapt": "adapted",
    "finetune": "method trainable_parameters epochs adapter_bytes finetuned_id adapted_id",
    "evaluate": "accuracy_percent accuracy_low_percent accuracy_high_percent balanced_accuracy_percent "
    "class_accuracy_min_percent f1 cross_entropy calibration_error_percent images finetuned_id adapted_id",
    "evaluate multilabel": "auroc auroc_low auroc_high average_precision f1 accuracy_percent exact_match_percent "
    "cross_entropy calibration_error_percent scored_labels images finetuned_id adapted_id",
    "robustness": "clean_accuracy_percent images norm epsilon verdict finetuned_id adapted_id",
    "verify": "accuracy_percent chance_percent images finetuned_id adapted_id",
    "verify multilabel": "auroc chance_auroc images finetuned_id adapted_id",
    "audit": "audited_images verdict finetuned_id adapted_id",
    "threats": "images verdict finetuned_id adapted_id",
    "he": "accuracy_percent folded_accuracy_percent twin_accuracy_percent logistic_regression_accuracy_percent "
    "key_switches train_images iterations algorithm loss mode features ring modulus_bits multiplicative_depth",
    "he multilabel": "auroc folded_auroc twin_auroc logistic_regression_auroc "
    "key_switches train_images iterations algorithm loss mode features ring modulus_bits multiplicative_depth",
}


def read_result(path: Path, stage: str, task: str = "multiclass") -> dict[str, Any]:
    """Read the result file of a stage, and check every figure in it: known, of its type, in range, none missing.

    Args:
        path: the file.
        stage: its name.
        task: of the data set; ``multilabel`` has figures of its own.

    Raises:
        PpvitError: the file is missing, too large, no JSON, or a figure in it cannot be right.
    """
    values = read_json(path, stage, RESULT_BYTES)
    if reason := wrong_figure(values, stage, task):
        raise PpvitError(f"{path}: {reason}; make it again: dvc repro --force {stage}")
    return dict(values)


def wrong_figure(values: Any, stage: str, task: str = "multiclass") -> str | None:
    """What is wrong with the first bad figure of a result, and None where all can be right."""
    stage = f"{stage} {task}" if f"{stage} {task}" in _NEEDED else stage
    if not isinstance(values, dict):
        return "there are no names and values in it"
    for name, value in values.items():
        if not _NAME.fullmatch(name) or (stage in _TRAINERS and not re.fullmatch(_TRAINERS[stage], name)):
            return f"'{printable(name[:100])}' does not belong there"
        if reason := wrong_value(name, value, own=stage not in _TRAINERS):
            return reason
    missing = [name for name in _NEEDED[stage].split() if name not in values]
    return f"'{missing[0]}' is missing" if missing else None


def wrong_value(name: str, value: Any, own: bool = True) -> str | None:
    """What is wrong with one figure; None where it can be right.

    Args:
        name: of the figure, which says what it may be.
        value: as a file has it.
        own: whether it is of the owner's stages, where None stands for what could not be measured.
    """
    if isinstance(value, str) and printable(value) != value:
        return f"'{name}' holds control characters"
    try:
        _checker(name, own).validate_python(value)
    except ValidationError as error:
        return f"'{name}': {first_reason(error).rpartition(': ')[2]}"
    return None


@cache
def _checker(name: str, own: bool) -> TypeAdapter[Any]:
    found = next((kind for names, kind in _KINDS.items() if re.fullmatch(names, name)), _ANY)
    # an attack that cannot be made on a cipher has None for its figures
    kind: Any = found | None if own else found
    return TypeAdapter(kind, config=_STRICT)


def read_rows(
    path: Path, made_by: str, columns: dict[str, Any], most: int, delimiter: str = ","
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table of numbers, line by line and checked.

    Args:
        path: the file, whose first line names the columns.
        made_by: the stage that writes it, named in errors.
        columns: names, and the types of the numbers below them, such as :data:`Percent`.
        most: rows that it may have.
        delimiter: between two columns.

    Raises:
        PpvitError: the file is missing, no table of these columns, or a number is out of range.
    """
    remedy = f"make it again: dvc repro --force {made_by}"
    kinds: Any = tuple[tuple(columns.values())]  # type: ignore[misc]  # a type made of values
    row: TypeAdapter[Any] = TypeAdapter(kinds, config=ConfigDict(allow_inf_nan=False))
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise PpvitError(f"{path} is missing; run the stage that writes it: dvc repro {made_by}") from None
    with file:
        for number, line in enumerate(iter(lambda: file.readline(_LINE_BYTES), b"")):
            fields = line.decode("ascii", "replace").rstrip("\r\n").split(delimiter)
            if number == 0 and fields != list(columns):
                raise PpvitError(f"{path}: the first line should name the columns {', '.join(columns)}; {remedy}")
            if number > most:
                raise PpvitError(f"{path} has more than the {most:,} rows that it may have; {remedy}")
            if number:
                try:
                    yield row.validate_python(tuple(fields))
                except ValidationError as error:
                    raise PpvitError(f"{path}: row {number}: {first_reason(error)}; {remedy}") from None
