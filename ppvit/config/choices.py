"""Parameters that name an entry of a registry: a name that there is not is found when parameters are loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ppvit.config.networks import require_network
from ppvit.config.recipes import NO_RECIPE, recipe_named, recipes
from ppvit.config.sections import Config
from ppvit.core.declared import declared
from ppvit.core.errors import UsageError
from ppvit.core.nearest import did_you_mean


@dataclass(frozen=True)
class Choice:
    """Where the names are that a parameter takes.

    Attributes:
        folder: below ``ppvit``, of the modules that register them.
        registry: module and name of their registry.
        decorator: see :func:`ppvit.core.declared.declared`.
        besides: names that mean something else than one entry.
    """

    folder: str
    registry: tuple[str, str]
    decorator: str = "register"
    besides: tuple[str, ...] = ()

    def registered(self) -> Any:
        """The registry itself, whose package is imported for it."""
        module, name = self.registry
        return getattr(importlib.import_module(module), name)

    def entered(self) -> Any:
        """What is in the registry where it has been imported; code of a user's own may have entered more."""
        module, name = self.registry
        return getattr(sys.modules[module], name) if module in sys.modules else ()

    def facts(self, chosen: Iterable[str], **wanted: Any) -> dict[str, dict[str, Any]]:
        """Attributes of all entries, by name: from the sources, else from the entries.

        Args:
            chosen: names of entries that there must be.
            wanted: attributes, each with what it is where a source does not say; ``...`` where all say.

        Raises:
            UsageError: one of them is not there; the nearest name is suggested.
        """
        found = declared(self.folder, self.decorator)
        facts = {name: {**wanted, **known} for name, known in found.facts.items()}
        told = found.complete and not any(each[name] is ... for each in facts.values() for name in wanted)
        if told and {*chosen, *self.entered()} <= facts.keys():
            return facts
        entries = self.registered()
        for name in chosen:
            entries[name]  # says which there are
        return {name: {each: getattr(entry, each) for each in wanted} for name, entry in entries.items()}

    def names(self) -> list[str]:
        """All names, in order of the alphabet; from the sources, where these say them all."""
        found = declared(self.folder, self.decorator)
        return [*self.besides, *sorted({*found.facts, *self.entered()} if found.complete else self.registered())]


CHOICES = {
    "dataset.name": Choice("datasets", ("ppvit.datasets", "DATASETS")),
    "cipher.name": Choice("ciphers", ("ppvit.ciphers", "CIPHERS")),
    "finetune.method": Choice("tuners", ("ppvit.tuners", "TUNERS")),
    "augment.names": Choice("training/augmentation", ("ppvit.training.augmentation", "AUGMENTATIONS")),
    "audit.attacks": Choice("audit/attacks", ("ppvit.audit", "ATTACKS"), "attack", ("all",)),
}


def names_of(parameter: str) -> list[str]:
    """The names that a parameter takes, such as ``cipher.name``; none where it takes no name of a registry."""
    if parameter == "finetune.recipe":
        return [NO_RECIPE, *recipes()]
    return CHOICES[parameter].names() if parameter in CHOICES else []


def require_known(config: Config) -> None:
    """Refuse names that there are not, of whatever stage.

    Raises:
        UsageError: one line with the parameter, the name and the nearest one.
    """
    for parameter, choice in CHOICES.items():
        section, _, name = parameter.partition(".")
        value = getattr(getattr(config, section), name)
        for each in [value] if isinstance(value, str) else value:
            _require(parameter, choice, each)
    if config.finetune.recipe != NO_RECIPE:
        recipe_named(config.finetune.recipe)
    require_network(config.model.name)


def _require(parameter: str, choice: Choice, name: str) -> None:
    found = declared(choice.folder, choice.decorator)
    if name in found.facts or name in choice.besides or name in choice.entered():
        return
    if not found.complete:
        choice.registered()[name]  # refuses a name that there is not, or says why it is not supported
        return
    raise UsageError(f"unknown {parameter} '{name[:100]}'{did_you_mean(name, choice.names())}")
