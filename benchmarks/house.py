"""The shape of the code: packages and their imports, dvc.yaml, lines, what commits would have run again.

    python benchmarks/house.py
    python benchmarks/house.py --root OTHER_CHECKOUT --upto REVISION    # another state, beside the same commits

Reads files and git only, apart from timing `ppvit --help`. Aims: at most 22 entries at the top of ppvit/, no circle of
imports, no verb that imports a verb, at most 90 code dependencies in dvc.yaml. tests/test_house.py checks them.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from timing import ROOT, conditions, load, print_table

COMMITS, HELP_ROUNDS = 50, 5
CODE = ("ppvit", "stages", "params.yaml", "dvc.yaml")  # a commit that touches none of them reruns nothing
FOLDERS = ("ppvit", "stages", "studies", "benchmarks", "tests")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


def python_files(root: Path, folder: str) -> list[Path]:
    """Those that git knows or would add."""
    names = git(root, "ls-files", "-co", "--exclude-standard", "-z", folder).split("\0")
    return sorted({root / name for name in names if name.endswith(".py") and (root / name).is_file()})


# ---- imports ----


@dataclass(frozen=True)
class Import:
    """A module of ppvit that imports another, both as parts of their names: ("ppvit", "data", "shards")."""

    by: tuple[str, ...]
    of: tuple[str, ...]


def imports(root: Path) -> list[Import]:
    """All imports of ppvit by ppvit, inside functions too; those for types alone are left out."""
    files = {module_name(root, path): path for path in python_files(root, "ppvit")}
    found = []
    for module, path in files.items():
        for name in _imported(ast.parse(path.read_text(encoding="utf-8"))):
            target = tuple(name.split("."))
            while target and target not in files:  # the last part names something in a module
                target = target[:-1]
            if target:
                found.append(Import(module, target))
    return found


def module_name(root: Path, path: Path) -> tuple[str, ...]:
    parts = path.relative_to(root).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from (name for other in child.orelse for name in _imported(other))
        else:
            yield from _imported(child)


def arrows(found: list[Import]) -> set[tuple[str, str]]:
    """Imports between the entries at the top of ppvit/; ``ppvit/__init__.py``, which names the API, is none of them."""
    return {(each.by[1], each.of[1]) for each in found if len(each.by) > 1 < len(each.of) and each.by[1] != each.of[1]}


def circles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of nodes that reach each other."""
    nodes = {node for edge in edges for node in edge}
    reached = {node: {of for by, of in edges if by == node} for node in nodes}
    for middle in nodes:  # Warshall's transitive closure
        for node in nodes:
            if middle in reached[node]:
                reached[node] |= reached[middle]
    groups = {tuple(sorted(each for each in reached[node] if node in reached[each])) for node in nodes}
    return sorted(list(group) for group in groups if group)


def verbs_that_import_verbs(found: list[Import]) -> list[str]:
    verbs = ("ppvit", "verbs")
    return sorted(
        f"{each.by[-1]} imports {each.of[-1]}"
        for each in found
        if each.by[:2] == verbs == each.of[:2] and len(each.of) > 2 and each.by[2:3] != each.of[2:3]
    )


# ---- dvc.yaml ----


def code_dependencies(stages: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Files and folders of code by stage."""
    return {
        name: [each for each in stage.get("deps", []) if each.startswith(("ppvit/", "stages/"))]
        for name, stage in stages.items()
    }


def stages_of(text: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(text)["stages"]


def touched(dependencies: dict[str, list[str]], files: list[str]) -> list[str]:
    """Stages that depend on one of the files."""
    return [
        stage
        for stage, deps in dependencies.items()
        if any(file == dep or file.startswith(f"{dep}/") for dep in deps for file in files)
    ]


def reruns(root: Path, commits: int, upto: str) -> tuple[int, int, int]:
    """Stages that the last commits to code up to a revision would have rerun for a change of their code.

    Returns:
        The number of commits; stages by the dvc.yaml of each commit; stages by the present dvc.yaml, every file taken
        where it, or what git finds to be most like it, is now.
    """
    hashes = git(root, "log", "--no-merges", f"-{commits}", "--format=%H", upto, "--", *CODE).split()
    present = code_dependencies(stages_of((root / "dvc.yaml").read_text(encoding="utf-8")))
    then = now = 0
    for commit in hashes:
        files = git(root, "diff-tree", "--no-commit-id", "--name-only", "--no-renames", "-r", "--root", commit)
        changed = [name for name in files.splitlines() if name.startswith(("ppvit/", "stages/"))]
        then += len(touched(code_dependencies(stages_of(git(root, "show", f"{commit}:dvc.yaml"))), changed))
        renamed = git(root, "diff", "--name-status", "-M30%", "--diff-filter=R", commit, "HEAD").splitlines()
        moved = {old: new for _, old, new in (line.split("\t") for line in renamed)}
        now += len(touched(present, [moved.get(name, name) for name in changed]))
    return len(hashes), then, now


# ---- the rest ----


def help_seconds(root: Path, rounds: int) -> float:
    """Median wall time of ``ppvit --help``."""
    code = "import sys; sys.argv = ['ppvit', '--help']; from ppvit.cli import run; run()"
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def entries(root: Path) -> list[str]:
    """What lies at the top of ppvit/."""
    return sorted({Path(name).parts[1] for name in git(root, "ls-files", "ppvit").splitlines()})


def lines_of(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure; default: this one")
    parser.add_argument("--upto", default="HEAD", help="the last of the commits that are looked at; default: HEAD")
    parser.add_argument("--smoke", action="store_true", help="two commits, one round: only to see that it runs")
    given = parser.parse_args()
    root, before = given.root.resolve(), load()
    found = imports(root)
    verbs = (root / "ppvit" / "verbs").is_dir()
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    dependencies = code_dependencies(stages_of(text))
    commits, then, now = reruns(root, 2 if given.smoke else COMMITS, given.upto)
    lines = {folder: [lines_of(path) for path in python_files(root, folder)] for folder in FOLDERS}
    rows = [
        ["entries at the top of ppvit/", str(len(entries(root)))],
        ["import arrows between them", str(len(arrows(found)))],
        ["circles among these", "; ".join(" ".join(each) for each in circles(arrows(found))) or "none"],
        [
            "verbs that import verbs",
            "; ".join(verbs_that_import_verbs(found)) or ("none" if verbs else "no ppvit/verbs"),
        ],
        ["stages, lines of dvc.yaml", f"{len(dependencies)}, {len(text.splitlines())}"],
        ["code dependencies in dvc.yaml", str(sum(map(len, dependencies.values())))],
        [f"stages that the last {commits} commits to code would have rerun", f"{then} by the dvc.yaml of each commit"],
        ["", f"{now} by the present one"],
        ["lines of Python", ", ".join(f"{folder} {sum(each):,}" for folder, each in lines.items())],
        ["modules of ppvit over 300 lines", str(sum(each > 300 for each in lines["ppvit"]))],
        ["`ppvit --help`", f"{help_seconds(root, 1 if given.smoke else HELP_ROUNDS):.2f} s"],
    ]
    print_table([f"{root.name}", ""], rows)
    print(f"\n{conditions(before, root)}")


if __name__ == "__main__":
    main()
