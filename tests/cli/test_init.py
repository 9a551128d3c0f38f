"""`ppvit init`: a project outside a clone, from a wheel as well, on which DVC and the verbs work."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from imports import ROOT
from typer.testing import CliRunner

from ppvit import __version__
from ppvit.cli.command import app
from ppvit.cli.template import REQUIREMENTS, make_project, require_version, without_code
from ppvit.config import load
from ppvit.core.errors import PpvitError, UsageError
from ppvit.pipeline import STAGES

WEIGHTS = "models/pretrained/vit_micro_patch4_32.safetensors"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("anywhere") / "my-project"
    done = CliRunner().invoke(app, ["init", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{folder}\n"
    assert "dvc repro" in done.stderr
    return folder


def test_a_project_has_what_a_clone_has_beside_its_code(project):
    for name in (
        ".gitignore",
        ".dvcignore",
        "stages/python",
        "data/none",
        "models/none",
        "params.yaml",
        "params.schema.json",
        WEIGHTS,
    ):
        assert (project / name).read_bytes() == (ROOT / name).read_bytes(), name
    for stage in ("settings", *STAGES):
        ours = project / "stages" / f"{stage}.py"
        assert stage == "pretrain" or ours.read_text() == (ROOT / "stages" / f"{stage}.py").read_text()
    assert os.access(project / "stages" / "python", os.X_OK)
    assert load(project / "params.yaml") == load(None)
    assert {path.name for path in project.rglob(".git")} == {".git"}
    ours, theirs = (configparser.ConfigParser(inline_comment_prefixes="#") for _ in range(2))
    ours.read(ROOT / ".dvc" / "config")
    theirs.read(project / ".dvc" / "config")
    page = [Path(each["plots"].pop("html_template")) for each in (ours, theirs)]
    assert ours == theirs
    at = [(folder / ".dvc" / name).read_bytes() for folder, name in zip((ROOT, project), page, strict=True)]
    assert at[0] == at[1]
    for name in ("data/local/README.md", "models/local/README.md"):
        assert "](" not in (project / name).read_text()  # a link that leads nowhere here


def test_the_stages_are_those_of_a_clone_with_the_version_in_place_of_code(project):
    theirs = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    ours = yaml.safe_load((project / "dvc.yaml").read_text())
    del theirs["stages"]["pretrain"]
    for stage in theirs["stages"].values():
        code = [name for name in stage["deps"] if name.startswith("ppvit/")]
        assert code
        stage["deps"] = [REQUIREMENTS, *(name for name in stage["deps"] if name not in code)]
    for stage in ours["stages"].values():
        stage["deps"].sort(key=lambda name: name != REQUIREMENTS)
    assert ours == theirs
    assert "ppvit/core" not in without_code((ROOT / "dvc.yaml").read_text())


def test_dvc_reads_the_project_and_git_takes_nothing_but_it(project):
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        names = {stage.name for stage in repo.index.stages}
    assert names == {"settings", *STAGES} - {"pretrain"}
    (project / "data" / "local" / "mine.png").write_bytes(b"private")
    git(project, "add", "-A")
    added = set(git(project, "ls-files").splitlines())
    assert {"dvc.yaml", "params.yaml", REQUIREMENTS, WEIGHTS, "data/local/README.md"} <= added
    assert "data/local/mine.png" not in added


def test_a_project_is_not_made_twice_and_one_that_was_interrupted_is_taken_up(project, tmp_path):
    with pytest.raises(UsageError, match="my-project is a project already; name another folder"):
        make_project(project)
    folder = tmp_path / "half"
    make_project(folder)
    for name in ("dvc.yaml", "stages/he.py", ".dvc/config"):
        (folder / name).unlink()
    make_project(folder)
    assert (folder / "dvc.yaml").read_bytes() == (project / "dvc.yaml").read_bytes()
    assert (folder / ".dvc" / "config").stat().st_size


def test_files_that_are_there_are_never_overwritten(tmp_path):
    (tmp_path / "params.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"params\.yaml is there, and would be overwritten; move it away"):
        make_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    with pytest.raises(UsageError, match="is a file, or a link that leads nowhere; name a folder"):
        make_project(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", ["data", "models", "stages", ".dvc"])
def test_a_file_in_place_of_a_folder_is_told_before_anything_is_written(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=rf"{name} is a file, where a folder is to be; move it away"):
        make_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_to_type_next_is_quoted_as_a_shell_wants_it(tmp_path, monkeypatch):
    """A shell that reads the line goes into the folder, whatever its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ppvit.cli.template.make_project", lambda folder: folder.mkdir())
    for name in ("my project", "it's $HOME", "-x"):
        done = CliRunner().invoke(app, ["init", "--", name])
        line = done.stderr.removeprefix("next: ").partition(" && git")[0]
        went = subprocess.run(["sh", "-c", f"{line} && pwd"], capture_output=True, text=True, check=True)
        assert went.stdout == f"{tmp_path / name}\n"


@pytest.mark.parametrize("name", ["", " "])
def test_a_name_that_an_unset_variable_left_empty_is_not_the_working_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", name])
    assert "the name of the folder is empty" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_repository_that_is_there_is_used(tmp_path):
    """As somebody's server makes them, with a README and a list of what git ignores; or a folder within one."""
    git(tmp_path, "init", "-q")
    (tmp_path / "README.md").write_text("# mine\n")
    (tmp_path / ".gitignore").write_text("*.log")
    make_project(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# mine\n"
    ignored = (tmp_path / ".gitignore").read_text()
    assert ignored.startswith("*.log\n")
    assert ignored.endswith((ROOT / ".gitignore").read_text())
    inner = tmp_path / "inner"
    make_project(inner)
    assert (inner / ".dvc").is_dir()
    assert not (inner / ".git").exists()


def test_without_git_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PpvitError, match="git is not installed"):
        make_project(tmp_path / "new")


def test_a_stage_refuses_another_version_than_the_project_names(project, tmp_path):
    require_version(project)
    require_version(tmp_path)  # a clone has no such file
    (tmp_path / REQUIREMENTS).write_text("numpy\nppvit[he, robust] == 99.1  # ours\n")
    with pytest.raises(PpvitError, match=rf"names ppvit 99\.1, and {__version__} is installed; pip install -r"):
        require_version(tmp_path)


def test_a_wheel_makes_a_project_and_runs_its_first_stages_outside_a_clone(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    listed = git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    beside = ("pyproject.toml", "README.md", "LICENSE", "dvc.yaml", ".gitignore", ".dvcignore")
    for name in listed:  # links as links, as git has them
        if name in beside or name.startswith(("ppvit/", "stages/", "data/", "models/", ".dvc/plots/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "."]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    built = subprocess.run(
        [sys.executable, *build], cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shutil.rmtree(source)  # so that no link leads there
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (metadata,) = site.glob("ppvit-*.dist-info")
    assert (metadata / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()

    environment |= {
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "tests" / "network")]),
        "PPVIT_PYTHON": sys.executable,
        "PPVIT_SCRATCH": str(tmp_path / "scratch"),
        "PPVIT_KEYRING": str(tmp_path / "keys"),
    }

    def run(*command: str, cwd: Path) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    project = tmp_path / "my-project"
    run(sys.executable, "-m", "ppvit.cli", "init", "my-project", cwd=tmp_path)
    weights = ROOT.joinpath(WEIGHTS).read_bytes()
    assert (project / WEIGHTS).read_bytes() == weights
    assert (site / "ppvit" / "models" / Path(WEIGHTS).name).read_bytes() == weights
    where = run(sys.executable, "-c", "import ppvit; print(ppvit.__file__)", cwd=project)
    assert Path(where.strip()).is_relative_to(site)
    run("stages/python", "stages/settings.py", cwd=project)  # as DVC does
    run("stages/python", "stages/download.py", cwd=project)
    assert (project / "settings.json").is_file()
    assert list((project / "data" / "raw" / "digits").rglob("*.tar"))
