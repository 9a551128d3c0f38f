"""What the shell offers for a word that is begun: names and values of parameters, stages, keys, remotes.

Nothing heavy is imported, since a person waits.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

_before: list[str] = []  # the parameter whose value is completed, where bash has split the word at its `=`


def join_words(environment: MutableMapping[str, str]) -> None:
    """Put together what bash has split at ``=``, in the variables by which it asks.

    Bash gives ``-S cipher.name=bl`` as four words and replaces the last of them alone by what is offered.
    """
    words, at = environment.get("COMP_WORDS", "").split("\n"), environment.get("COMP_CWORD", "")
    if not at.isdecimal() or "=" not in words:
        return
    joined: list[str] = []
    current, place = int(at), 0
    words += [""] * (current + 1 - len(words))
    for number, word in enumerate(words):
        before = joined[-1] if joined else ""
        if word == "=" and before.startswith("--") and "=" not in before:  # of an option, which stands alone
            joined += [""] if number == current else []
        elif word == "=" and joined:
            if number == current:
                _before[:] = [joined[-1]]
                joined[-1] = ""
            else:
                joined[-1] += "="
        elif before.endswith("="):
            if number == current:
                _before[:], joined[-1] = [before[:-1]], word
            else:
                joined[-1] += word
        else:
            joined.append(word)
        if number == current:
            place = len(joined) - 1
    environment["COMP_WORDS"], environment["COMP_CWORD"] = "\n".join(joined), str(place)


def override(incomplete: str) -> list[str]:
    """``section.name=value`` that begin so; a name of which no values are known with its default."""
    if _before:
        return [value for value in values_of(_before[0]) if value.startswith(incomplete)]
    from ppvit.config import parameters

    name, equals, value = incomplete.partition("=")
    found = [each for each, _, _ in parameters() if (each == name if equals else each.startswith(name))]
    if len(found) != 1:
        return [f"{each}=" for each in found]
    return [f"{found[0]}={each}" for each in values_of(found[0]) if each.startswith(value)]


def values_of(parameter: str) -> list[str]:
    """Values of a parameter as they are written in an override: all where it is a choice, else the default."""
    from ppvit.config import Config
    from ppvit.config.choices import names_of
    from ppvit.config.networks import names as networks

    section, _, name = parameter.partition(".")
    model = Config.model_fields[section].annotation if section in Config.model_fields else None
    field = getattr(model, "model_fields", {}).get(name)
    if field is None:
        return []
    if names := sorted(networks()) if parameter == "model.name" else names_of(parameter):
        return [f"[{each}]" for each in names] if isinstance(field.default, list) else names
    choices = [str(each) for each in _literals(field.annotation)]
    if field.annotation is bool:
        choices = ["true", "false"]
    default = field.default
    return choices or [json.dumps(default) if not isinstance(default, str) else default]


def _literals(annotation: Any) -> list[Any]:
    """The values of a ``Literal``, also where it stands in a union."""
    found = []
    for each in get_args(annotation):
        if isinstance(each, str):
            found.append(each)
        elif hasattr(each, "__args__"):
            found += _literals(each)
    return found


def kind(incomplete: str) -> list[str]:
    """What ``ppvit list`` lists."""
    from ppvit.cli.names import KINDS

    return [each for each in KINDS if each.startswith(incomplete)]


def recipe(incomplete: str) -> list[str]:
    """Names of recipes."""
    from ppvit.config.recipes import recipes

    return [each for each in recipes() if each.startswith(incomplete)]


def stage(incomplete: str) -> list[str]:
    """Names of stages."""
    from ppvit.pipeline import STAGES

    return [each for each in STAGES if each.startswith(incomplete)]


def key(incomplete: str) -> list[str]:
    """Ids of the keys in the key ring."""
    from ppvit.ciphers.keys import is_id, keyring

    found = {path.stem for pattern in ("*.key", "*.label") for path in keyring().glob(pattern)}
    return sorted(each for each in found if is_id(each) and each.startswith(incomplete))


def remote(incomplete: str) -> list[str]:
    """Names of DVC's remotes, of the project that the working folder is in."""
    import configparser

    here = next((each for each in (Path.cwd(), *Path.cwd().parents) if (each / ".dvc").is_dir()), Path.cwd())
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    with suppress(configparser.Error, OSError, UnicodeDecodeError):
        settings.read([here / ".dvc" / "config", here / ".dvc" / "config.local"], encoding="utf-8")
    found = [each.strip("'").removeprefix("remote ").strip('"') for each in settings.sections() if "remote " in each]
    return [each for each in found if each.startswith(incomplete)]
