"""Published training set-ups by name: what ``finetune.recipe`` puts in place of values of ``params.yaml``."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ppvit.config.sections import Config
from ppvit.core.errors import UsageError
from ppvit.core.nearest import did_you_mean

NO_RECIPE = "none"


@dataclass(frozen=True)
class Recipe:
    """One set-up, as ``recipes.toml`` has it; parameters are named ``section.name``.

    Attributes:
        title: what it trains, and how.
        source: whose it is, and where it stands.
        lacks: what of the set-up is not a matter of training.
        stated: parameters and their values, as the text has them.
        choices: parameters of which the text has several values, ours first.
        unstated: parameters of which the text says nothing, and the values that stand for it here.
    """

    title: str
    source: str
    lacks: str
    stated: dict[str, Any]
    choices: dict[str, list[Any]]
    unstated: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """Parameters and their values, the first of several."""
        first = {name: values[0] for name, values in self.choices.items()}
        return {**self.stated, **first, **self.unstated}


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    text = resources.files(__package__).joinpath("recipes.toml").read_text(encoding="utf-8")
    return {name: _recipe(table) for name, table in tomllib.loads(text).items()}


def _recipe(table: dict[str, Any]) -> Recipe:
    parts = {
        kind: {
            f"{section}.{name}": value
            for section, values in table.get(kind, {}).items()
            for name, value in values.items()
        }
        for kind in ("stated", "choices", "unstated")
    }
    return Recipe(table["title"], table["source"], table["lacks"], **parts)


def recipe_named(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if name in recipes():
        return recipes()[name]
    raise UsageError(f"unknown finetune.recipe '{name[:100]}'{did_you_mean(name, recipes())}")


def with_recipe(config: Config) -> Config:
    """The parameters with the values of the recipe that ``finetune.recipe`` names.

    A recipe's values replace built-in ones. A value that was set to something else is not passed over, but refused:
    whoever departs from a recipe writes its values out and changes them, so that the name always means the same.

    Raises:
        UsageError: there is no such recipe, or a parameter was set to a value that the recipe does not have.
        pydantic.ValidationError: the recipe's values do not go with other parameters.
    """
    chosen = config.finetune.recipe
    if chosen == NO_RECIPE:
        return config
    recipe, values = recipe_named(chosen), config.model_dump()
    for name, value in recipe.values.items():
        section, _, parameter = name.partition(".")
        own, allowed = values[section][parameter], recipe.choices.get(name, [value])
        if own in allowed:
            continue
        if own != type(getattr(config, section)).model_fields[parameter].default:
            has = ", ".join(map(str, allowed))
            override = shlex.quote(f"{name}={own}")
            raise UsageError(
                f"{name} {own} is not of finetune.recipe {chosen}, which has {has}; leave {name} as it is built in, or "
                f"depart from the recipe's values with: $(ppvit recipe {chosen}) -S {override}"
            )
        values[section][parameter] = value
    return Config.model_validate(values)


def told(config: Config) -> str:
    """One line on the recipe in use and what it sets; empty without one."""
    if config.finetune.recipe == NO_RECIPE:
        return ""
    recipe = recipe_named(config.finetune.recipe)
    used = {name: _value(config, name) for name in recipe.values}
    return f"finetune.recipe {config.finetune.recipe} sets " + ", ".join(
        f"{name.removeprefix('finetune.')}={value}" for name, value in used.items()
    )


def overrides(name: str) -> list[str]:
    """A recipe as ``section.name=value`` texts, for whoever departs from it."""
    values = {"finetune.recipe": NO_RECIPE, **recipe_named(name).values}
    return [f"{parameter}={value}" for parameter, value in values.items()]


def _value(config: Config, name: str) -> Any:
    section, _, parameter = name.partition(".")
    return getattr(getattr(config, section), parameter)
