"""The names that parameters take, with a sentence on each, read off the registries."""

from __future__ import annotations

import importlib

from ppvit.core.errors import UsageError
from ppvit.core.nearest import did_you_mean
from ppvit.core.registry import summary

# where each registry is
_REGISTRIES = {
    "ciphers": ("ppvit.ciphers", "CIPHERS"),
    "methods": ("ppvit.tuners", "TUNERS"),
    "augmentations": ("ppvit.training.augmentation", "AUGMENTATIONS"),
    "attacks": ("ppvit.audit", "ATTACKS"),
    "datasets": ("ppvit.datasets", "DATASETS"),
    "algorithms": ("ppvit.he.algorithms", "ALGORITHMS"),
}
KINDS = (*_REGISTRIES, "recipes")


def described(kind: str) -> list[tuple[str, str]]:
    """Names of a kind, the first sentence of their documentation, and the parameters that not all others read.

    Names of which the same is said stand together.

    Raises:
        UsageError: there is no such kind.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no list '{kind[:100]}'{did_you_mean(kind, KINDS)}")
    if kind == "recipes":
        from ppvit.config.recipes import recipes

        return [(name, f"{each.title[0].upper()}{each.title[1:]} ({each.source}).") for name, each in recipes().items()]
    module, registry = _REGISTRIES[kind]
    entries = getattr(importlib.import_module(module), registry)
    said: dict[str, list[str]] = {}
    for name, entry in entries.items():
        said.setdefault(f"{summary(getattr(entry, 'find', entry)).rstrip('.')}.{_reads(entry)}", []).append(name)
    return [(", ".join(names), sentence) for sentence, names in said.items()]


def _reads(entry: object) -> str:
    names = [*getattr(entry, "options", ()), *getattr(entry, "reads", ())]  # of ciphers, and of everything else
    return f" Reads {', '.join(names)}." if names else ""
