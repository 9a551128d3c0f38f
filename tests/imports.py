"""Which files of ppvit a stage imports, read from the source: what its `deps` in dvc.yaml must say."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("ciphers", "config", "datasets", "tuners", "audit", "he")  # listed as folders: any file in them may matter


def imported_files(stage: str) -> set[str]:
    """Paths relative to the repository: the stage's script and every module of ppvit it reaches, packages as folders.

    ``ppvit/__init__.py`` holds the version and what loads our adapters, and is left out: a release reruns nothing.
    """
    reached: set[Path] = set()
    waiting = [ROOT / "stages" / f"{stage}.py"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += _imports(path)
    reached.discard(ROOT / "ppvit" / "__init__.py")
    return {_as_dependency(path.relative_to(ROOT)) for path in reached}


def _imports(path: Path) -> list[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    found = []
    for name in names:
        if name.split(".")[0] == "ppvit":
            module = ROOT.joinpath(*name.split("."))
            found += [place for place in (module.with_suffix(".py"), module / "__init__.py") if place.exists()]
            found += sorted(module.glob("*.py")) if module.is_dir() and module.name in PACKAGES else []
    return found


def _as_dependency(path: Path) -> str:
    parts = path.parts
    return "/".join(parts[:2]) if parts[0] == "ppvit" and parts[1] in PACKAGES else path.as_posix()
