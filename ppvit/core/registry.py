"""The one way in which ciphers, fine-tuning methods, attacks, data sets and algorithms get their names.

A registry belongs to a package. Every module of the package is imported when a name is first asked for, and enters
what it defines with ``@REGISTRY.register("name")``. So a file in the package's folder is all that it takes to add one.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.nearest import did_you_mean

T = TypeVar("T")
E = TypeVar("E")  # the entry's own type, which is more than T says of it


class Registry(Mapping[str, T]):
    """Entries by name, in order of ``place``, then of their modules and of their lines in them.

    Args:
        package: dotted name of the package whose modules register entries.
        parameter: the parameter of ``params.yaml`` that holds a name, for messages.
    """

    def __init__(self, package: str, parameter: str) -> None:
        self._package, self._parameter = package, parameter
        self._entries: dict[str, T] = {}
        self._places: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._loaded = False

    def register(self, *names: str, place: int = 100) -> Callable[[E], E]:
        """Decorator: the class or function goes by these names, or by its attribute ``name``.

        Args:
            names: none for an entry that has a ``name``.
            place: orders listings, small ones first.

        Raises:
            ValueError: a name is taken.
        """

        def enter(entry: E) -> E:
            for name in names or (cast(Any, entry).name,):
                if self._entries.get(name, entry) is not entry:
                    raise ValueError(f"{self._package} has two entries named '{name}'")
                self._entries[name], self._places[name] = cast(T, entry), place
            return entry

        return enter

    def refuse(self, reason: str, *names: str) -> None:
        """Have names refused with a reason, where "unknown" would mislead."""
        self._refused.update(dict.fromkeys(names, reason))

    def __getitem__(self, name: str) -> T:
        """The entry of this name.

        Raises:
            UsageError: there is none; the nearest name is suggested.
        """
        self._load()
        if name in self._entries:
            return self._entries[name]
        if name in self._refused:
            raise UsageError(f"{self._parameter}: '{name}' is not supported, because {self._refused[name]}")
        raise UsageError(f"unknown {self._parameter} '{name}'{did_you_mean(str(name), self)}")

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries, key=lambda name: self._places[name]))  # stable: in order of registration

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    @staticmethod
    def _import(module: str) -> None:
        try:
            importlib.import_module(module)
        except PpvitError:
            raise
        except Exception as error:  # of a file that somebody has added
            where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
            reason = f"{type(error).__name__}: {where}"
            raise PpvitError(f"{module} cannot be used ({reason}); correct or remove its file") from error

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True  # first, since modules may ask while they are imported
            try:
                package = importlib.import_module(self._package)
                for module in sorted(each.name for each in pkgutil.iter_modules(package.__path__)):
                    self._import(f"{self._package}.{module}")
            except BaseException:
                self._loaded = False
                raise


def summary(entry: object) -> str:
    """The first paragraph of an entry's documentation, in one line."""
    return " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())
