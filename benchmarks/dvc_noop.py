"""`dvc repro` with nothing to do against DVC's own time on an empty pipeline of as many stages.

    dvc repro && python benchmarks/dvc_noop.py
    dvc repro && python benchmarks/dvc_noop.py --beside OTHER_CHECKOUT    # a second one, up to date too

Compared: `dvc repro` in a temporary copy of this project, up to date; in a temporary project with as many stages, which
copy one empty file to the next; and in one whose stages also have as many dependencies as ours and our parameters, to
see what those cost in DVC itself. All without git, with the same DVC settings.
Aim: no more processor time than before stages were added and dependencies became packages.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from inputs import without_git
from timing import ROOT, alternate, benchmark, print_table, spread

ROUNDS = 9
DVC = [sys.executable, "-m", "dvc"]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "cache", "tmp", "__pycache__", ".*_cache", "*.egg-info")


def copy_project(root: Path, folder: Path) -> None:
    """Copy a project with what its stages wrote, which stays in its cache: it is only read."""
    shutil.copytree(root, folder, ignore=LEFT_OUT, symlinks=True)
    without_git(folder)
    dvc(folder, "cache", "dir", "--local", str(root / ".dvc" / "cache"))


def chain(folder: Path, like: dict[str, dict[str, Any]], dependencies: bool) -> None:
    """A project of as many stages as ``like``, each of which copies one file; on request with as many dependencies."""
    without_git(folder)
    (folder / "0.txt").write_text("")
    for name in ("params.yaml", "settings.json"):
        shutil.copy(ROOT / name, folder)
    stages = {}
    for n, stage in enumerate(like.values()):
        extra = [f"dependency{number}.txt" for number in range(len(stage["deps"]) - 1)] if dependencies else []
        for name in extra:
            (folder / name).write_text(name)
        stages[f"stage{n}"] = {"cmd": f"cp {n}.txt {n + 1}.txt", "deps": [f"{n}.txt", *extra], "outs": [f"{n + 1}.txt"]}
        if dependencies:
            stages[f"stage{n}"]["params"] = stage["params"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    dvc(folder, "repro")


def dvc(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run([*DVC, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"dvc {' '.join(arguments)} failed in {folder}:\n{done.stderr}")
    return done.stdout


class NothingToDo:
    """`dvc repro` in an up-to-date folder, and the processor time that its runs took, in seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cpu: list[float] = []

    def __call__(self) -> None:
        before = _children_seconds()
        output = dvc(self._folder, "repro")
        self.cpu.append(_children_seconds() - before)
        if "Running stage" in output:
            sys.exit("the pipeline was not up to date: run `dvc repro` before this benchmark")


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(smoke: bool, beside: Path | None) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as name:
        folders = {each: Path(name) / each for each in ("this project", "empty", "empty, with our dependencies")}
        chain(folders["empty, with our dependencies"], stages, dependencies=True)
        if smoke:  # this project need not be up to date
            folders = {"this project": folders["empty, with our dependencies"]}
        else:
            copy_project(ROOT, folders["this project"])
            if beside:
                folders["the other checkout"] = Path(name) / "other"
                copy_project(beside.resolve(), folders["the other checkout"])
            chain(folders["empty"], stages, dependencies=False)
        contestants = {name: NothingToDo(folder) for name, folder in folders.items()}
        rounds = 1 if smoke else ROUNDS
        seconds = alternate(contestants, rounds)
    cpu = {name: np.array(contestant.cpu[-rounds:]) for name, contestant in contestants.items()}
    ours = "this project"
    rows = []
    for name in contestants:
        ratios = spread(seconds[ours] / seconds[name]), spread(cpu[ours] / cpu[name])
        rows.append([name, spread(seconds[name]), ratios[0], spread(cpu[name]), ratios[1]])
    what = f"dvc repro, {len(stages)} stages, nothing to do"
    print_table([what, "s", "this project / it", "processor s", "this project / it"], rows)


if __name__ == "__main__":
    benchmark(main, ("--beside", {"type": Path, "help": "another checkout of ppvit that is up to date"}))
