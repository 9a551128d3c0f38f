"""What values a parameter takes, in words, read off its model: for help, errors and the schema alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from ppvit.config.choices import names_of
from ppvit.config.section import AutoOr, Section
from ppvit.config.sections import Config


def limits_of(parameter: str) -> str:
    """Which values ``section.name`` takes, or each item of its list: ``3 to 100``, ``linf or l2``; empty where nearly
    all are fit."""
    if options := options_of(parameter):
        return _either(options)
    field = field_of(parameter)
    return _either(_limits(field.annotation, field.metadata))


def explained(parameter: str, default: Any, description: str) -> str:
    """What the help says of a parameter: its description, the values that it takes, and its default."""
    limits = "" if names_of(parameter) or field_of(parameter).annotation is bool else limits_of(parameter)
    return f"{description}  [{f'{limits}; ' if limits else ''}default: {default}]"


def options_of(parameter: str) -> list[str]:
    """All values of a parameter that takes one of a few, and no list; none where it takes others."""
    annotation = field_of(parameter).annotation
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if annotation is bool:
        return ["true", "false"]
    return names_of(parameter) if annotation is str else []


def words_beside_list(parameter: str) -> list[str]:
    """The words that a parameter takes in place of a list, such as none; none where it takes lists alone."""
    annotation = field_of(parameter).annotation
    kinds = [] if get_origin(annotation) is list else get_args(annotation)
    return [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]


def field_of(parameter: str) -> FieldInfo:
    """The field of ``section.name``."""
    section, _, name = parameter.partition(".")
    return section_of(section).model_fields[name]


def section_of(name: str) -> type[Section]:
    """The model of a section."""
    return cast(type[Section], Config.model_fields[name].annotation)


def parameters(sections: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, str]]:
    """Yield (``section.name``, default, description) for every parameter.

    Args:
        sections: only those of these sections, or these single ones; all by default.
    """
    for section in Config.model_fields:
        for name, parameter in section_of(section).model_fields.items():
            if not sections or section in sections or f"{section}.{name}" in sections:
                yield f"{section}.{name}", parameter.default, parameter.description or ""


def _limits(annotation: Any, metadata: Iterable[Any]) -> list[str]:
    """Bounds of a number, of the numbers in a list, or of each kind of value that is taken."""
    words, marks = {}, list(metadata)
    for each in marks:
        for kind in ("ge", "gt", "le", "lt"):
            if isinstance(bound := getattr(each, kind, None), int | float):
                beyond = {"gt": "above ", "lt": "below "}.get(kind, "")
                words["low" if kind[0] == "g" else "high"] = beyond + _number(bound)
    if words:
        auto = ["auto"] if any(isinstance(each, AutoOr) for each in marks) else []
        return [" to ".join(words[end] for end in ("low", "high") if end in words), *auto]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    found: list[str] = []
    for inner in get_args(annotation):
        inner_marks = getattr(inner, "__metadata__", ())
        found += _limits(inner, [each for mark in inner_marks for each in getattr(mark, "metadata", [mark])])
    return found


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
