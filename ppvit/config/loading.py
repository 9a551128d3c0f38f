"""Checked loading of ``params.yaml``, with errors of one line that name the parameter and the remedy."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from ppvit.config.choices import require_known
from ppvit.config.fitting import require_trainable
from ppvit.config.limits import parameters, section_of
from ppvit.config.parsing import parse
from ppvit.config.reasons import chosen, describe, meant, reason, shortened
from ppvit.config.recipes import with_recipe
from ppvit.config.section import Section
from ppvit.config.sections import Config
from ppvit.core.errors import UsageError
from ppvit.core.nearest import did_you_mean
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
        raise UsageError(
            f"{path} must hold sections such as dataset: and cipher: (`ppvit params` prints one with all defaults)"
        )
    for override in overrides:
        _set(values, override)
    try:
        config = with_recipe(Config.model_validate(values))
    except ValidationError as error:
        where = "-S" if _place(error) in {override.partition("=")[0] for override in overrides} else path or "defaults"
        raise UsageError(f"{where}: {describe(error)}") from None
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
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8, from byte {error.start} on; save it as UTF-8") from None
    except ValueError as error:
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
        own = next((each for each in Config.model_fields if section_of(each) is section), "")
        parameter = ".".join([own, *map(str, first["loc"][:1])])  # of which ``name`` may be an item
        raise UsageError(f"parameter '{name}': {reason(first, parameter)}") from None


def _set(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    shown = shortened(override)
    if name[:1] in ("+", "~"):
        raise UsageError(f"'{shown}' begins with {name[0]}, which only `dvc exp run -S` knows; leave it out")
    section, dot, parameter = name.partition(".")
    if not (equals and dot):
        raise UsageError(f"'{shown}' is not of the form section.name=value, such as cipher.name=block_np{meant(name)}")
    if section not in Config.model_fields:
        told = did_you_mean(section, list(Config.model_fields))
        raise UsageError(f"unknown section '{shortened(section)}' in '{shown}'{told}")
    try:
        held = values.get(section) or {}  # an empty section is read as None
        values[section] = {**held, parameter: parse(text)} if isinstance(held, dict) else held
    except ValueError as error:
        raise UsageError(f"the value in '{shown}' cannot be read as YAML: {error}") from None


def _place(error: ValidationError) -> str:
    """``section.name`` of the bad value that is told of."""
    return ".".join(str(part) for part in chosen(error)["loc"][:2])


def default_yaml() -> str:
    """A ``params.yaml`` with every parameter at its default and its description as a comment."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        "# Only what changes results. How to run (device, workers, resume) is environment or command line.",
    ]
    for section in Config.model_fields:
        lines += ["", f"{section}:  # {inspect.getdoc(section_of(section))}"]
        for name, default, description in parameters((section,)):
            value = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            lines.append(f"  {name.partition('.')[2]}: {value}  # {description}")
    return "\n".join(lines) + "\n"
