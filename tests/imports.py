"""Which files of ppvit a stage runs, read from the source: what its code dependencies in dvc.yaml must cover."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
# what finds and starts a stage, and checks values that `params:` tracks: no result depends on it
GLUE = ("ppvit/__init__.py", "ppvit/config", "ppvit/pipeline.py", "ppvit/places.py", "ppvit/cli")


def reached(start: Path, root: Path = ROOT) -> set[Path]:
    """Every module of ppvit that ``start`` imports, in functions too, or runs with ``python -m``; and what these do.

    ``GLUE`` is left out, and not followed.
    """
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found and not is_glue(path, root):
            found.add(path)
            waiting += _named(path, root)
    return found


def is_glue(path: Path, root: Path = ROOT) -> bool:
    """Whether no result depends on the file."""
    name = path.relative_to(root).as_posix()
    return any(name == glue or name.startswith(f"{glue}/") for glue in GLUE)


def _named(path: Path, root: Path) -> list[Path]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = {id(each) for node in ast.walk(tree) if _only_for_types(node) for each in ast.walk(node)}
    found: list[Path] = []
    for node in ast.walk(tree):
        if id(node) in typed:
            continue
        if isinstance(node, ast.Import):
            found += [file for alias in node.names for file in _files(alias.name, root)]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [file for alias in node.names for file in _files(f"{node.module}.{alias.name}", root)]
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"ppvit(\.\w+)+", node.value)
        ):
            # the package of a registry, which imports all modules of it; or what `python -m` runs
            found += _files(node.value, root) + sorted(root.joinpath(*node.value.split(".")).glob("*.py"))
    return found


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _files(name: str, root: Path) -> list[Path]:
    """The module of this name, or of the part of it that is one; and the packages above it, whose ``__init__`` runs."""
    parts = name.split(".")
    if parts[0] != "ppvit":
        return []
    tried = [root.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
    return [file for each in tried for file in (each / "__init__.py", each.with_suffix(".py")) if file.exists()]
