"""`dvc repro` with nothing to do against DVC's own time on an empty pipeline of as many stages.

    dvc repro && python benchmarks/dvc_noop.py

Compared: `dvc repro` in a temporary copy of this project, up to date; in a temporary project with as many stages, which
copy one empty file to the next; and in one whose stages also have as many dependencies as ours and our parameters, to
see what those cost in DVC itself. All without git, with the same DVC settings.
Aim: at most 1.2 times DVC's own time.
Measured (2 cores, 2026-11-21): missed; 0.77 s, 1.41 (1.13-1.47) times the empty pipeline's 0.53 s, and 1.08 (1.00-1.22)
times the one with our dependencies; 0.76 s and 1.59 while the root read the 22 stages of `studies/ciphers`, which
are a repository of their own since. Parts taken away in copies (medians of 9 rounds, empty pipeline 0.46 to 0.49 s):
modules listed as a few folders instead of files 0.63 s (1.33), then without any module 0.61 s, without metrics 0.64 s,
without params 0.62 s; without all three, templates alone left, 0.57 s (1.17). Templates (${dataset.path} and the like)
are how DVC notices the user's own folder. Before DVC had libyaml's parser (`ruamel.yaml.clib`) it was 0.83 s.
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
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "cache", "tmp", "__pycache__", ".pytest_cache", "*.egg-info")


def copy_project(folder: Path) -> dict[str, dict]:
    """Copy this project; returns its stages."""
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT, symlinks=True)
    return yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def chain(folder: Path, like: dict[str, dict], dependencies: bool) -> None:
    """A project of as many stages as ``like``, each of which copies one file; on request with as many dependencies."""
    folder.mkdir()
    dvc(folder, "init", "--no-scm", "--quiet")
    (folder / "0.txt").write_text("")
    shutil.copy(ROOT / "params.yaml", folder)
    stages = {}
    for n, stage in enumerate(like.values()):
        extra = [f"dependency{number}.txt" for number in range(len(stage["deps"]) - 1)] if dependencies else []
        for name in extra:
            (folder / name).write_text(name)
        stages[f"stage{n}"] = {"cmd": f"cp {n}.txt {n + 1}.txt", "deps": [f"{n}.txt", *extra], "outs": [f"{n + 1}.txt"]}
        if dependencies:
            stages[f"stage{n}"]["params"] = stage["params"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")


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
        project, empty, laden = (Path(name) / each for each in ("project", "empty", "laden"))
        stages = copy_project(project)
        dvc(project, "cache", "dir", str(ROOT / ".dvc" / "cache"))  # read only: there is nothing to do
        chain(empty, stages, dependencies=False)
        chain(laden, stages, dependencies=True)
        for folder in (project, empty, laden):
            dvc(folder, "config", "core.no_scm", "true")
            dvc(folder, "config", "core.analytics", "false")
        for folder in (empty, laden):
            dvc(folder, "repro")
        contestants = {"this project": project, "empty": empty, "empty, with our dependencies": laden}
        seconds = alternate({name: nothing_to_do(folder) for name, folder in contestants.items()}, ROUNDS)
    ours = seconds["this project"]
    rows = [[name, spread(times), spread(ours / times)] for name, times in seconds.items()]
    print_table([f"dvc repro, {len(stages)} stages, nothing to do", "seconds", "this project / it"], rows)


if __name__ == "__main__":
    main()
