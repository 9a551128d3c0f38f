"""Raw data go to the owner's private remote, never to the one that the trainer reads, and come back in a clone."""

import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from ppvit.cli.backup import back_up
from ppvit.core.errors import PpvitError, UsageError

_STAGES = """
stages:
  download:
    cmd: mkdir -p data/raw/x && printf plain > data/raw/x/train.tar && printf names > data/raw/x/dataset.json
    outs:
      - data/raw/x:
          push: false
  encrypt:
    cmd: printf cipher > shards && cp data/raw/x/dataset.json report.html
    deps:
      - data/raw/x
    outs:
      - shards
      - report.html:
          push: false
"""
PRIVATE, SHARED = {b"plain", b"names"}, b"cipher"


def contents(folder: Path) -> set[bytes]:
    """Of the files in a remote, but for DVC's own lists of folders."""
    return {path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".dir"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project like ours, run and pushed: the trainer's remote is the default one, and another is the owner's."""
    root = tmp_path / "owner"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    (root / "dvc.yaml").write_text(_STAGES)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    with Repo.init(str(root)) as repo, repo.config.edit() as config:
        config["core"] = {"remote": "trainer", "analytics": False}
        config["remote"] = {name: {"url": str(tmp_path / name)} for name in ("trainer", "private")}
    with Repo(str(root)) as repo:
        repo.reproduce()
        repo.push()
    return root


def test_private_gets_them_the_trainer_does_not_and_a_clone_has_them_back(project, tmp_path, monkeypatch):
    assert contents(tmp_path / "trainer") == {SHARED}
    assert back_up("private") == (["data/raw/x", "report.html"], [])
    assert contents(tmp_path / "private") == PRIVATE
    assert contents(tmp_path / "trainer") == {SHARED}
    with Repo(str(project)) as repo:
        repo.push()  # also afterwards
    assert contents(tmp_path / "trainer") == {SHARED}
    back_up("private")  # again: nothing to do, nothing fails

    clone = tmp_path / "clone"
    (clone / ".dvc").mkdir(parents=True)
    for name in ("dvc.yaml", "dvc.lock", ".dvc/config"):
        shutil.copy(project / name, clone / name)
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    monkeypatch.chdir(clone)
    with Repo(str(clone)) as repo:
        repo.pull(targets=["download"], remote="private")
    assert contents(clone / "data" / "raw") == PRIVATE
    assert not (clone / "shards").exists()


def test_the_trainers_remote_is_refused_whatever_it_is_called(project, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "trainer")
    same = {"again": tmp_path / "trainer", "within": tmp_path / "trainer" / "raw", "around": tmp_path}
    same |= {"link": tmp_path / "link"}
    with Repo(str(project)) as repo, repo.config.edit() as config:
        config["remote"].update({name: {"url": str(path)} for name, path in same.items()})
    for name in ("trainer", *same):
        with pytest.raises(UsageError, match=f"remote '{name}' is where `dvc push` sends"):
            back_up(name)
    with pytest.raises(UsageError, match="DVC has no remote 'privat', but trainer, private"):
        back_up("privat")
    with pytest.raises(UsageError, match="; dvc remote add 'my own' PLACE"):  # as a shell takes it
        back_up("my own")
    assert contents(tmp_path / "trainer") == {SHARED}
    assert not (tmp_path / "private").exists()


def test_what_is_not_in_the_cache_is_told(project, tmp_path, monkeypatch):
    for path in (project / ".dvc" / "cache").rglob("*"):
        if path.is_file() and path.read_bytes() == b"plain":
            path.unlink()  # of data/raw one of two files
    assert back_up("private") == (["report.html"], ["data/raw/x"])
    assert contents(tmp_path / "private") == {b"names"}
    shutil.rmtree(project / ".dvc" / "cache")
    with pytest.raises(PpvitError, match="DVC's cache holds none of data/raw/x, report.html; run dvc repro"):
        back_up("private")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="in no DVC project"):
        back_up("private")
