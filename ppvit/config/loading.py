"""Checked loading of ``params.yaml``, with errors of one line that name the parameter and the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ppvit.config.choices import require_known
from ppvit.config.fitting import require_trainable
from ppvit.config.limits import limits_of, options_of
from ppvit.config.parsing import parse
from ppvit.config.recipes import with_recipe
from ppvit.config.section import Section
from ppvit.config.sections import Config
from ppvit.core.errors import UsageError
from ppvit.core.nearest import did_you_mean, nearest
from ppvit.core.reading import read_bounded

SCHEMA = "params.schema.json"  # beside params.yaml, for editors
PARAMS_BYTES = 2**18  # 16 times what all parameters take with their descriptions


def load(path: Path | str | None = "params.yaml", overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read and check a parameter file, which must hold every parameter; ``finetune.recipe`` is then applied.

    A parameter that is missing is refused and not set to its default, because DVC tracks what the file says: a default
    that changes with ppvit would change results unseen.

    Args:
        path: the YAML file; None for the defaults.
        overrides: ``section.name=value`` texts that replace values for this run; values are read as YAML.

    Raises:
        UsageError: the file is missing or no YAML that :func:`ppvit.config.parsing.parse` takes, a name is unknown
            (the nearest valid one is suggested) or missing, or a value has the wrong type or range; one line, naming
            the parameter; or it contradicts ``finetune.recipe``; or it is the name of a cipher, method, model or the
            like that there is not; or values do not go together, see :mod:`ppvit.config.fitting`.
        PpvitError: it is no regular file, or larger than 256 KiB.
    """
    values = {section: {} for section in Config.model_fields} if path is None else _read(Path(path))
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold sections such as dataset: and cipher:")
    for override in overrides:
        _set(values, override)
    try:
        config = with_recipe(Config.model_validate(values))
    except ValidationError as error:
        raise UsageError(f"{path or 'defaults'}: {describe(error)}") from None
    for name, _, _ in parameters():
        section, _, parameter = name.partition(".")
        if path is not None and parameter not in values[section]:
            raise UsageError(f"{path} lacks '{name}'; add it (`ppvit params` prints them all)")
    require_known(config)
    require_trainable(config)
    return config


def _read(path: Path) -> Any:
    try:
        return parse(read_bounded(path, PARAMS_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; run in a project, as `ppvit init NAME` makes one") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise UsageError(f"{path} cannot be read as YAML: {error}") from None


S = TypeVar("S", bound=Section)


def checked(section: type[S], **values: Any) -> S:
    """A section with these values, the others at their defaults.

    Raises:
        UsageError: an unknown name, or a value of the wrong type or range; one line that names it.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(f"unknown parameter '{name}'{did_you_mean(name, list(section.model_fields))}") from None
        own = next((each for each in Config.model_fields if _section(each) is section), "")
        raise UsageError(f"parameter '{name}': {_reason(first, f'{own}.{name}')}") from None


def _set(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    shown = _shortened(override)
    if name[:1] in ("+", "~"):
        raise UsageError(f"'{shown}' begins with {name[0]}, which only `dvc exp run -S` knows; leave it out")
    section, dot, parameter = name.partition(".")
    if not (equals and dot):
        raise UsageError(f"'{shown}' is not of the form section.name=value, such as cipher.name=block_np{_meant(name)}")
    if section not in Config.model_fields:
        told = did_you_mean(section, list(Config.model_fields))
        raise UsageError(f"unknown section '{_shortened(section)}' in '{shown}'{told}")
    try:
        held = values.get(section) or {}  # an empty section is read as None
        values[section] = {**held, parameter: parse(text)} if isinstance(held, dict) else held
    except ValueError as error:
        raise UsageError(f"the value in '{shown}' cannot be read as YAML: {error}") from None


def _meant(name: str) -> str:
    """Which parameters end in a name that was given without its section."""
    full = [known for known, _, _ in parameters() if known.partition(".")[2] == name]
    return f"; did you mean {' or '.join(full)}?" if full else ""


def describe(error: ValidationError) -> str:
    """One line that names the first bad parameter and says what it should be."""
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        told = did_you_mean(location[-1], _names_beside(location)) + _elsewhere(location)
        return f"unknown parameter '{_shortened('.'.join(location))}'{told}"
    if first["type"] == "missing":
        return f"section '{location[0]}' is missing; add it (`ppvit params` prints them all)"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"parameter '{_shown(location)}': {_reason(first, '.'.join(location[:2]))}"


def _shown(location: list[str]) -> str:
    """A parameter, or an item of it, without pydantic's names of the kinds of value that it may have."""
    return _shortened(".".join([*location[:2], *(part for part in location[2:] if part.isdecimal())]))


def _elsewhere(location: list[str]) -> str:
    """Other sections that have a parameter of this name."""
    others = [name for name, _, _ in parameters() if name.partition(".")[2] == location[-1]]
    return f" ({', '.join(others)} {'is' if len(others) == 1 else 'are'} in another section)" if others else ""


_KEY_ID = "must be a key id such as pk-0123456789abcdef, as `ppvit keygen` prints it"
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def _reason(detail: ErrorDetails, parameter: str) -> str:
    kind, given = detail["type"], detail["input"]
    reason, remedy = detail["msg"][0].lower() + detail["msg"][1:], ""
    if parameter.endswith("key_id"):
        reason = _KEY_ID + (", or none" if parameter == "download.key_id" else "")
    elif kind == "string_pattern_mismatch" and parameter == "dataset.name":
        reason = "must be letters, digits, - and _ alone"
        remedy = _closest(str(given), options_of(parameter))
    elif kind == "string_pattern_mismatch":
        reason = "must not hold control characters"
    elif kind == "literal_error" and isinstance(given, str):
        remedy = _closest(given, options_of(parameter))
    elif kind in _BOUNDS and (limits := limits_of(parameter)):
        remedy = f"; it takes {limits}"
    elif kind.startswith("bool"):
        remedy = "; write true or false"
    elif kind == "string_type" and isinstance(given, int | float):
        remedy = f"; write it in quotes where it is a name: '{given}'"
    elif kind == "list_type":
        words = limits_of(parameter)  # of a parameter that takes a list or a word
        remedy = f"; it takes a list or {words}" if words else f"; write [{given}]"
    return f"{reason}, got {_shortened(repr(given))}{remedy}"


def _closest(word: str, options: list[str]) -> str:
    close = nearest(word, options)
    return f"; did you mean '{close[0]}'?" if close else ""


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "..."


def _names_beside(location: list[str]) -> list[str]:
    model: type[Section] = Config
    for part in location[:-1]:
        model = _section(part)  # sections nest one level
    return list(model.model_fields)


def _section(name: str) -> type[Section]:
    return cast(type[Section], Config.model_fields[name].annotation)


def parameters(sections: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, str]]:
    """Yield (``section.name``, default, description) for every parameter.

    Args:
        sections: only those of these sections, or these single ones; all by default.
    """
    for section in Config.model_fields:
        for name, parameter in _section(section).model_fields.items():
            if not sections or section in sections or f"{section}.{name}" in sections:
                yield f"{section}.{name}", parameter.default, parameter.description or ""


def default_yaml() -> str:
    """A ``params.yaml`` with every parameter at its default and its description as a comment."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        "# Only what changes results. How to run (device, workers, resume) is environment or command line.",
    ]
    for section in Config.model_fields:
        lines += ["", f"{section}:  # {inspect.getdoc(_section(section))}"]
        for name, default, description in parameters((section,)):
            value = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            lines.append(f"  {name.partition('.')[2]}: {value}  # {description}")
    return "\n".join(lines) + "\n"
