"""What a study is: its variants, the settings of each, and whether a result still belongs to them.

A study is a folder here with ``variants.yaml``:

- ``method_changes``: what changed in how its figures are made, by number; the largest is the study's method number, and
  results with a smaller one are out of date;
- ``stages``: those of the pipeline that a run goes through, whose parameters decide its figures;
- ``groups``: what is run, as lists of values by axis; a variant is a combination. One axis is the size;
- ``settings``: overrides of the built-in parameters, after those of ``shared.yaml``: for all variants, then by axis and
  value; those of a value are a list, or lists for ``all`` and for values of other axes.

``paper.yaml`` has what a paper reports. Python files in the folder do what is special to it: ``figures.py`` measures,
``tables.py`` shows, ``prepare.py`` makes what runs start from.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ppvit.config import Config, load, parameters
from ppvit.core.errors import UsageError
from ppvit.core.reading import read_json
from ppvit.pipeline import STAGES

STUDIES = Path(__file__).parent.resolve()
ROOT = STUDIES.parent


class Study:
    """A folder with ``variants.yaml``; raw data lie in ``data`` beside it."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "variants.yaml").exists():
            raise UsageError(f"there is no study '{folder.name}'; there are {', '.join(names(folder.parent))}")
        self.folder, self.name = folder, folder.name
        self.shared = read_yaml(folder.parent / "shared.yaml")
        self.plan = read_yaml(folder / "variants.yaml")
        paper = folder / "paper.yaml"
        self.about = read_yaml(paper) if paper.exists() else self.plan  # title, what the sizes are, published figures
        self.method_number = max(self.plan["method_changes"])

    @property
    def sizes(self) -> list[str]:
        return list(dict.fromkeys(size for axes in self.plan["groups"].values() for size in axes["size"]))

    def groups(self, size: str) -> dict[str, list[Variant]]:
        """The variants of a size by group, in the order of ``variants.yaml``."""
        found = {}
        for name, axes in self.plan["groups"].items():
            if size in axes["size"]:
                chosen = {**axes, "size": [size]}
                combinations = itertools.product(*chosen.values())
                found[name] = [Variant(self, tuple(zip(chosen, values, strict=True))) for values in combinations]
        if not found:
            raise UsageError(f"{self.name} has no size '{size}'; it has {', '.join(self.sizes)}")
        return found

    def variants(self, size: str) -> list[Variant]:
        return [variant for group in self.groups(size).values() for variant in group]

    def own(self, module: str, function: str, usual: Any = None) -> Any:
        """What this study does its own way: a function of a module in its folder, or what is usual."""
        if not (self.folder / f"{module}.py").exists():
            return usual
        if (place := str(self.folder.parent)) not in sys.path:
            sys.path.insert(0, place)
        return getattr(importlib.import_module(f"{self.name}.{module}"), function, usual)

    def results(self, size: str) -> dict[Variant, dict[str, Any]]:
        """The results that there are, in the order of the variants."""
        found = [variant for variant in self.variants(size) if variant.path.exists()]
        return {variant: read_json(variant.path, self.name) for variant in found}


@dataclass(frozen=True)
class Variant:
    """One run of a study.

    Attributes:
        study: it belongs to.
        pairs: axis and value, such as ``(("size", "tiny"), ("images", "plain"), ("method", "full"), ("seed", 0))``.
    """

    study: Study
    pairs: tuple[tuple[str, Any], ...]

    @property
    def axes(self) -> dict[str, Any]:
        return dict(self.pairs)

    def __getitem__(self, axis: str) -> Any:
        return self.axes[axis]

    @property
    def name(self) -> str:
        return "-".join(str(value) for axis, value in self.axes.items() if axis != "size")

    @property
    def path(self) -> Path:
        """The result file."""
        return self.study.folder / "results" / self["size"] / f"{self.name}.json"

    def config(self, extra: tuple[str, ...] = ()) -> Config:
        """The configuration with ``$NAMES`` of the environment as they are written; ``extra`` overrides come last."""
        return loaded((*self._overrides(), *extra))

    def local_config(self, extra: tuple[str, ...] = ()) -> Config:
        """The same with the environment's values, for running."""
        return loaded(tuple(expanded(override) for override in (*self._overrides(), *extra)))

    def settings(self, extra: tuple[str, ...] = ()) -> dict[str, str]:
        """Every parameter that decides the figures, with its value as text."""
        config, found = self.config(extra), {}
        for stage in self.study.plan["stages"]:
            for section, values in STAGES[stage].narrowed(config).model_dump(mode="json", exclude_unset=True).items():
                found |= {f"{section}.{name}": str(value) for name, value in values.items()}
        return dict(sorted(found.items()))

    def outdated(self, result: dict[str, Any]) -> str:
        """Why a result no longer belongs to the variant; empty where it does, as far as can be told without its data.

        A parameter that did not exist when the result was made may have its default.
        """
        if (number := result.get("method_number", 0)) != self.study.method_number:
            return f"made by method {number}, now {self.study.method_number}"
        old = dict(text.split("=", 1) for text in result["settings"].split("; "))
        defaults = {name: str(default) for name, default, _ in parameters()}
        changed = {
            name: f"{name}={before}, now {now}"
            for name, now in self.settings().items()
            if (before := old.get(name, defaults[name])) != now
        }
        return "made with " + ", ".join(changed.values()) if changed else ""

    def _overrides(self) -> Iterator[str]:
        for settings in (self.study.shared, self.study.plan["settings"]):
            for axis, choices in settings.items():
                if axis == "all":
                    yield from choices
                elif axis in self.axes:
                    chosen = choices[self[axis]]
                    others = ["all", *(value for other, value in self.axes.items() if other != axis)]
                    parts = chosen.items() if isinstance(chosen, dict) else [("all", chosen)]
                    yield from itertools.chain(*(overrides for when, overrides in parts if when in others))


def names(folder: Path = STUDIES) -> list[str]:
    """All studies."""
    return sorted(path.parent.name for path in folder.glob("*/variants.yaml"))


@cache
def loaded(overrides: tuple[str, ...]) -> Config:
    """The built-in parameters with overrides; a table asks for the same ones again and again."""
    return load(None, overrides)


def read_yaml(path: Path) -> Any:
    """The contents of a YAML file of ours."""
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def expanded(override: str) -> str:
    """With the values of ``$NAMES`` of the environment."""
    for name in re.findall(r"\$(\w+)", override):
        if name not in os.environ:
            raise UsageError(f"set the environment variable {name}, which shared.yaml asks for; see studies/README.md")
        override = override.replace(f"${name}", str(Path(os.environ[name]).resolve()))
    return override
