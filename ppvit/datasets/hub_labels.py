"""Labels of the rows of a Hugging Face data set: from numbers, names or lists of them to class numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, printable
from ppvit.data.labels import MOST_LABELS, Label
from ppvit.datasets import hub_tables
from ppvit.datasets.hub_tables import Column

_MAYBE_MARKS = ("several whole", "several broken")
_MOST_CLASSES = 2**16
_NO_CLASS = -1  # in a column of class numbers: not labelled, as the test splits of competitions are

_Value = Any  # None where there is no label; a whole number or a text; or a tuple of either


def labels_of(
    splits: dict[str, list[Path]], column: Column, root: Path
) -> tuple[list[str], dict[str, list[list[Label | None]]], tuple[str, ...]]:
    """Read the label column.

    Args:
        splits: files of each split.
        column: of labels.
        root: the data set, named in errors.

    Returns:
        Class names; labels by split, file and row, None where a row has none; and what is to be said.

    Raises:
        PpvitError: a file is damaged, or its labels do not fit.
    """
    values = {split: [_values(file, column) for file in files] for split, files in splits.items()}
    if column.kind in _MAYBE_MARKS and column.names is None:
        _read_marks([file for files in values.values() for file in files], column, root)
    every = (value for files in values.values() for file in files for value in file)
    classes, numbers, notes = _numbered(every, column, root)
    labels = {split: [[_labelled(v, numbers) for v in file] for file in files] for split, files in values.items()}
    return classes, labels, notes


def _values(file: Path, column: Column) -> list[_Value]:
    """What stands in the label column."""
    found: list[_Value] = []
    for number, value in enumerate(hub_tables.labels(file, column.name)):
        if value is None or value == "" or (column.names and value == _NO_CLASS):
            found.append(None)
        elif column.kind.startswith("several"):
            if any(each is None for each in value):
                raise PpvitError(f"{file}: row {number} has a label that is missing; remove the row")
            marks = column.kind in _MAYBE_MARKS and column.names is None  # see _read_marks
            found.append(tuple(value) if marks else tuple(sorted(set(value))))
        else:
            found.append(value)
    return found


def _read_marks(files: list[list[_Value]], column: Column, root: Path) -> None:
    """Turn lists with a 1 at the place of each label and 0 elsewhere into class numbers; others lose repetitions.

    They are told by their being of one length with nothing but 0 and 1 in them, and some number twice.
    """
    every = [value for file in files for value in file if value is not None]
    marks = len({len(value) for value in every}) == 1 and all(each in (0, 1) for value in every for each in value)
    if column.kind == "several broken" and not marks:
        raise PpvitError(
            f"{root}: the lists of the column {printable(column.name)} hold numbers that are no class numbers, nor 0 "
            "and 1 in lists of one length; set dataset.label_column to the one of the labels"
        )
    marks = marks and (column.kind == "several broken" or any(len(set(value)) < len(value) for value in every))
    for file in files:
        for row, value in enumerate(file):
            if value is not None:
                numbers = {place for place, mark in enumerate(value) if mark} if marks else set(value)
                file[row] = tuple(sorted(numbers))


def _numbered(
    values: Iterable[_Value], column: Column, root: Path
) -> tuple[list[str], dict[_Value, int], tuple[str, ...]]:
    """Class names, the class number of each value, and what is to be said.

    Of classes that have names those that some image is of count, in their order; values without names are sorted.
    """
    several = column.kind.startswith("several")
    there: set[_Value] = set()
    for value in values:
        there.update(() if value is None else value if several else (value,))
        if len(there) > (MOST_LABELS if several else _MOST_CLASSES):
            raise PpvitError(
                f"{root}: the column {printable(column.name)} has more than {len(there) - 1:,} different values; "
                "set dataset.label_column to the one of the labels"
            )
    ordered = sorted(there)
    numbers = {value: number for number, value in enumerate(ordered)}
    if column.names is None:
        return [str(value) for value in ordered], numbers, ()
    if ordered and not 0 <= ordered[0] <= ordered[-1] < len(column.names):
        wrong = ordered[0] if ordered[0] < 0 else ordered[-1]
        raise PpvitError(
            f"{root}: the label {wrong} is none of the {len(column.names)} classes that have names; "
            "download the data set again"
        )
    missing = [name for number, name in enumerate(column.names) if number not in there]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    notes = (f"classes without an image are left out: {', '.join(missing[:3])}{more}",) if missing else ()
    return [column.names[value] for value in ordered], numbers, notes


def _labelled(value: _Value, numbers: dict[_Value, int]) -> Label | None:
    if value is None:
        return None
    return tuple(sorted(numbers[each] for each in value)) if isinstance(value, tuple) else numbers[value]
