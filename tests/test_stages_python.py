"""Which Python a stage is run with: stages/python, beside other environments, in copies, and with DVC itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from imports import ROOT

WHERE = "import sys, ppvit; print(sys.prefix, ppvit.__file__, *sys.argv[1:], sep='\\n')"
FAKE_DVC = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1], shell=True).returncode)"
# waits until it has no parent but the system's, so that pytest, which has ppvit, is none of those that started it
ORPHAN = """
import os, sys, time
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.001)
os.execv("/bin/sh", ["sh", "-c", '"$@"; echo "exit code $?"', "sh", *sys.argv[1:]])
"""


def environment(folder: Path, ppvit: bool) -> Path:
    """A virtual environment, with ppvit installed or not, and with a `dvc` that runs its argument in a shell."""
    venv.create(folder, symlinks=True)
    (folder / "bin" / "dvc").write_text(FAKE_DVC)
    if ppvit:
        (packages,) = folder.glob("lib/python3*/site-packages")
        (packages / "ppvit-0.1.0.dist-info").mkdir()
    return folder


def project(folder: Path) -> Path:
    """A repository with nothing but a stage that tells its environment and the place of its ppvit."""
    (folder / "stages").mkdir(parents=True)
    (folder / "ppvit").mkdir()
    (folder / "ppvit" / "__init__.py").touch()
    (folder / "stages" / "where.py").write_text(WHERE)
    (folder / "dvc.py").write_text(FAKE_DVC)  # for python -m dvc
    shutil.copy(ROOT / "stages" / "python", folder / "stages")
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    return project(tmp_path / "my project")


@pytest.fixture
def own(root, tmp_path) -> Path:
    return environment(tmp_path / "own environment", ppvit=True)


@pytest.fixture
def other(tmp_path) -> Path:
    return environment(tmp_path / "other", ppvit=False)


def run(*command: str | Path, folder: Path, active: Path, **more: str) -> list[str]:
    """Lines that the command prints, errors too, and its exit code, with an environment active as by its `activate`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PPVIT_", "PYTHON"))}
    clean |= {"VIRTUAL_ENV": str(active), "PATH": f"{active}/bin:/usr/bin:/bin", **more}
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, *map(str, command)],
        cwd=folder, env=clean, text=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout.splitlines()


def told(prefix: Path, root: Path) -> list[str]:
    return [str(prefix), str(root / "ppvit" / "__init__.py"), "exit code 0"]


STAGE = "stages/python stages/where.py"


def test_environment_that_runs_dvc_runs_the_stage_whichever_is_active(root, own, other):
    environment(root / ".venv", ppvit=True)  # nor does this one
    assert run(own / "bin/python", own / "bin/dvc", STAGE, folder=root, active=other) == told(own, root)


@pytest.mark.parametrize("program", [".venv/bin/python", "python"])
def test_dvc_started_as_a_module_by_a_relative_path_or_from_path(root, other, program):
    own = environment(root / ".venv", ppvit=True)
    path = f"{own if program == 'python' else other}/bin:/usr/bin:/bin"
    found = run(program, "-m", "dvc", STAGE, folder=root, active=other, PATH=path)
    assert found == told(own, root)


def test_dvc_from_elsewhere_leaves_it_to_the_nearest_venv_then_the_active_environment(root, own, other, tmp_path):
    pipx = environment(tmp_path / "pipx", ppvit=False)
    dvc = pipx / "bin/python", pipx / "bin/dvc", STAGE
    assert run(*dvc, folder=root, active=own) == told(own, root)
    nearest = environment(root / ".venv", ppvit=True)
    assert run(*dvc, folder=root, active=own) == told(nearest, root)
    copy = project(root / ".dvc" / "tmp" / "exps" / "queued")  # its own code, not that of the repository around it
    assert run(*dvc, folder=copy, active=other) == told(nearest, copy)


def test_no_python_with_ppvit_is_one_line(root, other):
    environment(root / ".venv", ppvit=False)
    error, code = run("sh", "-c", STAGE, folder=root, active=other)
    assert error.startswith("error: no Python has ppvit: not the one that runs dvc, nor .venv")
    assert code == "exit code 1"


def test_ppvit_python_comes_first_and_arguments_stay_whole(root, own, other, tmp_path):
    chosen = environment(tmp_path / "chosen", ppvit=False)
    python = str(chosen / "bin/python")
    found = run("stages/python", "stages/where.py", "two words", "", folder=root, active=own, PPVIT_PYTHON=python)
    assert found == [*told(chosen, root)[:2], "two words", "", "exit code 0"]


@pytest.mark.skipif(not shutil.which("ps"), reason="ps is missing")
def test_without_proc_processes_are_listed(root, tmp_path, other):
    """As on macOS, where words of a command line cannot be told from spaces in a path."""
    script = root / "stages" / "python"
    script.write_text(script.read_text().replace("/proc/", "/nowhere/"))
    own = environment(tmp_path / "own", ppvit=True)
    assert run(own / "bin/python", own / "bin/dvc", STAGE, folder=root, active=other) == told(own, root)


def test_called_from_another_folder_it_uses_its_own_repository(root, own, other):
    (root / "studies").mkdir()
    stage = "../stages/python ../stages/where.py"
    found = run(own / "bin/python", own / "bin/dvc", stage, folder=root / "studies", active=other)
    assert found == told(own, root)


def test_dvc_itself(root, other):
    """With this very Python, another environment active."""
    (root / "dvc.py").unlink()
    (root / "dvc.yaml").write_text(f"stages:\n  where:\n    cmd: {STAGE} > where.txt\n    outs: [where.txt]\n")
    dvc = (sys.executable, "-m", "dvc")
    for command in (("init", "--no-scm", "--quiet"), ("repro", "--quiet")):
        assert run(*dvc, *command, folder=root, active=other, DVC_NO_ANALYTICS="1")[-1] == "exit code 0"
    assert (root / "where.txt").read_text().splitlines() == told(Path(sys.prefix), root)[:2]
