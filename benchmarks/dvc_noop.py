"""`dvc repro` with nothing to do against DVC's own time on an empty pipeline of as many stages.

    dvc repro && python benchmarks/dvc_noop.py

Compared: `dvc repro` in a temporary copy of this project, up to date, and in a temporary project whose stages copy one
empty file to the next. Both without git, with the same DVC settings.
Aim: at most 1.2 times DVC's own time.
Measured (2 cores, {date}): {result}
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from inputs import ROOT
from timing import alternate, print_table, spread

ROUNDS = 9
DVC = [sys.executable, "-m", "dvc"]
# a copy needs what dvc.yaml names; the cache holds the same files a second time
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "cache", "tmp", "__pycache__", ".pytest_cache", "*.egg-info")


def copy_project(folder: Path) -> int:
    """Copy this project; returns the number of its stages."""
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT, symlinks=True)
    return len(yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def empty_pipeline(folder: Path, stages: int) -> None:
    folder.mkdir()
    dvc(folder, "init", "--no-scm", "--quiet")
    (folder / "0.txt").write_text("")
    chain = {
        f"stage{n}": {"cmd": f"cp {n}.txt {n + 1}.txt", "deps": [f"{n}.txt"], "outs": [f"{n + 1}.txt"]}
        for n in range(stages)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": chain}), encoding="utf-8")


def dvc(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "PPVIT_PYTHON": sys.executable}
    done = subprocess.run([*DVC, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"dvc {' '.join(arguments)} failed in {folder}:\n{done.stderr}")
    return done.stdout


def nothing_to_do(folder: Path) -> Callable[[], None]:
    if "Running stage" in dvc(folder, "repro", "--dry"):
        sys.exit("the pipeline is not up to date: run `dvc repro` before this benchmark")
    return lambda: dvc(folder, "repro")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as name:
        project, empty = Path(name) / "project", Path(name) / "empty"
        stages = copy_project(project)
        empty_pipeline(empty, stages)
        for folder in (project, empty):
            dvc(folder, "config", "core.no_scm", "true")
            dvc(folder, "config", "core.analytics", "false")
        dvc(empty, "repro")
        seconds = alternate({"this project": nothing_to_do(project), "empty pipeline": nothing_to_do(empty)}, ROUNDS)
    print_table([f"dvc repro, {stages} stages, nothing to do", "seconds"], [[n, spread(t)] for n, t in seconds.items()])
    ratio = seconds["this project"] / seconds["empty pipeline"]
    print(f"this project / empty pipeline: {spread(ratio)} (aim: at most 1.2)")


if __name__ == "__main__":
    main()
