"""What the modules of a package enter into its registry, read from their sources.

A registry imports its package, and some packages import torch, which takes seconds. A mistyped name is to be found
before that, so the names, and facts that are plain values in a class, are read as text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ppvit


@dataclass(frozen=True)
class Declared:
    """Entries of a registry.

    Attributes:
        facts: by name, the class attributes whose values are literals, inherited ones too; of functions, what their
            decorator is given by keyword.
        complete: whether every name could be read; where not, only the registry knows them all.
    """

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = True


@cache
def declared(folder: str, decorator: str = "register") -> Declared:
    """What modules of a folder register.

    Args:
        folder: below ``ppvit``, such as ``audit/attacks``.
        decorator: what registers: a method of the registry, or a function whose first argument is the name.
    """
    trees = [ast.parse(path.read_bytes()) for path in sorted((Path(ppvit.__file__).parent / folder).glob("*.py"))]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    facts: dict[str, dict[str, Any]] = {}
    complete = True
    for call, owner in (each for tree in trees for each in _registrations(tree, decorator)):
        literal = [_literal(argument) for argument in (call.args if decorator == "register" else call.args[:1])]
        if isinstance(owner, ast.ClassDef):
            known = _facts(owner.name, classes)
        else:
            known = {each.arg: _literal(each.value) for each in call.keywords if each.arg}
            complete &= len(known) == len(call.keywords) and None not in known.values()
        names = literal or [known.get("name")]
        if all(isinstance(name, str) for name in names):
            facts |= dict.fromkeys(names, known)
        else:
            complete = False
    return Declared(facts, complete)


def _registrations(tree: ast.Module, decorator: str) -> Iterator[tuple[ast.Call, ast.AST | None]]:
    """Calls that register, and the class or function that they decorate."""
    owners = {id(call): node for node in tree.body for call in getattr(node, "decorator_list", ())}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) == decorator:
            yield node, owners.get(id(node))


def _name(called: ast.expr) -> str:
    """Of what is called: a function, or a method of a registry, whose name is in capitals."""
    if isinstance(called, ast.Attribute):
        return called.attr if isinstance(called.value, ast.Name) and called.value.id.isupper() else ""
    return called.id if isinstance(called, ast.Name) else ""


def _facts(name: str, classes: dict[str, ast.ClassDef]) -> dict[str, Any]:
    """Literal attributes of a class, those of its bases in the same folder first."""
    if name not in classes:
        return {}
    found: dict[str, Any] = {}
    for base in reversed(classes[name].bases):
        found |= _facts(getattr(base, "id", ""), classes)
    for line in classes[name].body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        if isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(targets[0], ast.Name):
            attribute, value = targets[0].id, _literal(line.value)
            found.pop(attribute, None)  # a base's value no longer holds, whether or not the new one can be read
            if value is not None:
                found[attribute] = value
    return found


def _literal(node: ast.AST | None) -> Any:
    """The value of a literal; None of anything else."""
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]  # what is no expression is refused
    except (ValueError, TypeError, SyntaxError):
        return None
