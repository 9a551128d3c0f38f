"""Why parameters are refused, in one line each that names the parameter, what it was given, and the remedy."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ppvit.config.limits import field_of, limits_of, options_of, parameters, section_of, words_beside_list
from ppvit.config.parsing import parse
from ppvit.config.section import Section
from ppvit.config.sections import Config
from ppvit.core.nearest import closest, did_you_mean, nearest


def describe(error: ValidationError) -> str:
    """One line that names the first bad parameter and says what it should be."""
    first = chosen(error)
    location = [str(part) for part in first["loc"]]
    name = shortened(".".join(location))
    if first["type"] == "extra_forbidden" and len(location) == 1:
        return f"unknown section '{name}'{_meant_at_top(location[0])}"
    if first["type"] == "extra_forbidden":
        told = did_you_mean(location[-1], _names_beside(location)) + _elsewhere(location)
        return f"unknown parameter '{name}'{told}"
    if first["type"] == "missing":
        return f"section '{location[0]}' is missing; add it (`ppvit params` prints them all)"
    if first["type"] == "invalid_key":
        return f"the name {shortened(as_written(first['input']))} is no text; `ppvit params` prints all names"
    if first["type"] == "model_type":
        example = next(parameters((location[0],)))
        return (
            f"section '{name}' must hold parameters, a line each such as '{example[0].partition('.')[2]}: "
            f"{as_written(example[1])}', got {shortened(as_written(first['input']))}"
        )
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"parameter '{_shown(location)}': {reason(first, '.'.join(location[:2]))}"


def _shown(location: list[str]) -> str:
    """A parameter, or an item of it, without pydantic's names of the kinds of value that it may have."""
    return shortened(".".join([*location[:2], *(part for part in location[2:] if part.isdecimal())]))


def chosen(error: ValidationError) -> ErrorDetails:
    """The bad value that is told of: the first, but a misspelt section before the one that is missing for it."""
    found = error.errors(include_url=False)
    at_top = [each for each in found if each["type"] == "extra_forbidden" and len(each["loc"]) == 1]
    return next((each for each in at_top if nearest(str(each["loc"][0]), Config.model_fields)), found[0])


def _meant_at_top(name: str) -> str:
    """What was meant by a name that stands where sections do."""
    own = [known for known, _, _ in parameters() if known.partition(".")[2] == name]
    if own:
        sections = " or ".join(known.partition(".")[0] for known in own)
        return f"; it is a parameter of section {sections}: write it there, indented"
    return did_you_mean(name, Config.model_fields)


def _elsewhere(location: list[str]) -> str:
    """Other sections that have a parameter of this name."""
    others = [name for name, _, _ in parameters() if name.partition(".")[2] == location[-1]]
    return f" ({', '.join(others)} {'is' if len(others) == 1 else 'are'} in another section)" if others else ""


_KEY_ID = "must be a key id such as pk-0123456789abcdef, as `ppvit keygen` prints it"
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_NUMBERS = ("int_type", "float_type", "finite_number")


def reason(detail: ErrorDetails, parameter: str) -> str:
    """Why a value is refused, the value, and the remedy; ``parameter`` is ``section.name``."""
    kind, given = detail["type"], detail["input"]
    told, remedy = detail["msg"][0].lower() + detail["msg"][1:], ""
    if parameter.endswith("key_id"):
        told = _KEY_ID + (", or none" if parameter == "download.key_id" else "")
    elif given is None:
        default = field_of(parameter).default
        inside = isinstance(default, list) and kind != "list_type"  # one of a list
        remedy = "; leave it out" if inside else f"; write a value, such as {as_written(default)}"
    elif kind == "string_pattern_mismatch" and parameter == "dataset.name":
        told = "must be letters, digits, - and _ alone"
        remedy = closest(str(given), options_of(parameter))
    elif kind == "string_pattern_mismatch":
        told = "must not hold control characters"
    elif kind == "literal_error" and isinstance(given, str):
        remedy = closest(given, options_of(parameter))
    elif kind in _BOUNDS and (limits := limits_of(parameter)):
        remedy = f"; it takes {limits}"
    elif kind in _NUMBERS:
        remedy = _as_number(given, kind == "int_type") or f"; it takes {limits_of(parameter) or 'a number'}"
    elif kind.startswith("bool"):
        remedy = "; write true or false"
    elif kind == "string_type" and isinstance(given, int | float):
        remedy = f"; write it in quotes where it is a name: '{as_written(given)}'"
    elif kind == "list_type":
        remedy = _as_list(given, parameter)
    return f"{told}, got {shortened(as_written(given))}{remedy}"


def _as_list(given: Any, parameter: str) -> str:
    """How a value is written that was given without brackets; what is taken instead, where no list holds it alone."""
    words = words_beside_list(parameter)
    other = "".join(f" or {word}" for word in words)
    section, _, name = parameter.partition(".")
    for count in (1, 3) if isinstance(given, str | int | float) else ():  # three: one a colour
        with suppress(ValidationError):
            section_of(section).model_validate({name: [given] * count})
            return f"; write [{', '.join([shortened(str(given))] * count)}]{other}"
    each = f", each {limits_of(parameter)}" if not words and limits_of(parameter) else ""
    return f"; it takes a list{each}{other}{closest(given, words) if isinstance(given, str) else ''}"


def _as_number(given: Any, whole: bool) -> str:
    """How a number is written that was put in quotes, or with a point where a whole one belongs; empty for others."""
    number, quotes = given, ""
    if isinstance(given, str):
        quotes = " without quotes"
        with suppress(ValueError):
            number = parse(given)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return ""
    if whole and float(number).is_integer() and abs(number) < _EXACT:
        number = int(number)
    fits = isinstance(number, int) or not whole
    return f"; write {number}{quotes}" if fits and (quotes or number is not given) else ""


_EXACT = 2**53  # up to which a float holds every whole number


def as_written(value: Any) -> str:
    """A value as params.yaml has it; nothing stands for one that was left out."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.strip().removesuffix("...").strip()


def shortened(text: str) -> str:
    """At most 100 letters of it."""
    return text if len(text) <= 100 else text[:100] + "..."


def _names_beside(location: list[str]) -> list[str]:
    model: type[Section] = Config
    for part in location[:-1]:
        model = section_of(part)  # sections nest one level
    return list(model.model_fields)


def meant(name: str) -> str:
    """Which parameters end in a name, or in the one most like it, that was given without its section."""
    full = [known for known, _, _ in parameters()]
    close = nearest(name, dict.fromkeys(known.partition(".")[2] for known in full))
    names = [known for known in full if known.partition(".")[2] in close]
    return f"; did you mean {' or '.join(names)}?" if names else ""
