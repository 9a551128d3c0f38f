"""`ppvit status` says which stages are current, and in words why the others are not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import make_config
from dvc.repo import Repo
from typer.testing import CliRunner

from ppvit.cli.command import app
from ppvit.cli.status import stages_now
from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.pipeline.settings import write_settings

PIPELINE = """
stages:
  encrypt:
    cmd: mkdir encrypted && cp raw.txt encrypted/a
    deps: [raw.txt, ppvit/code.py]
    params: [settings.json: [encrypt]]
    outs: [encrypted]
  finetune:
    cmd: cp encrypted/a model
    deps: [encrypted]
    params: [settings.json: [finetune]]
    outs: [model]
  evaluate:
    cmd: cp model figures
    deps: [model]
    outs: [figures]
  verify:
    cmd: cp raw.txt checked
    deps: [raw.txt]
    outs: [checked]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A project whose stages have run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "ppvit").mkdir()
    for name in ("raw.txt", "ppvit/code.py"):
        (folder / name).write_text("1")
    (folder / "params.yaml").write_text(yaml.safe_dump(make_config().model_dump()))
    (folder / "dvc.yaml").write_text(PIPELINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_settings(make_config())
        with Repo.init(no_scm=True) as repo:
            repo.reproduce()
    return folder


@pytest.fixture
def project(finished, tmp_path, monkeypatch) -> Path:
    """The test's own copy, whose last stage is frozen."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    Path("dvc.yaml").write_text(f"{PIPELINE}    frozen: true\n")
    return tmp_path / "project"


def states(config: Config | None = None) -> dict[str, tuple[str, list[str]]]:
    found = stages_now(config or make_config(), ["encrypt", "finetune", "evaluate", "verify"])
    return {each.stage: (each.state, each.reasons) for each in found}


CURRENT = {name: ("current", []) for name in ("encrypt", "finetune", "evaluate", "verify")}
WAITS = {"evaluate": ("waits", ["for finetune, whose outputs decide"])}


def test_stages_that_a_project_has_not_are_not_told_as_never_run(project):
    """As `pretrain`, which a project of `ppvit init` has not: it would never be current."""
    assert {each.stage: each.state for each in stages_now(make_config(), [])} == dict.fromkeys(CURRENT, "current")
    with pytest.raises(UsageError, match="has no stage 'pretrain'; it has encrypt, finetune, evaluate, verify"):
        stages_now(make_config(), ["pretrain"])
    Path("dvc.yaml").unlink()
    with pytest.raises(UsageError, match=r"dvc\.yaml has no stage of ppvit"):
        stages_now(make_config(), [])


def test_all_is_current(project):
    assert states() == CURRENT


def test_a_parameter_is_told_by_its_name_before_settings_are_written(project):
    config = make_config(finetune={"rank": 2})
    changed = {"finetune": ("changed", ["finetune.rank: 8 became 2"])}
    assert states(config) == CURRENT | changed | WAITS
    write_settings(config)
    assert states(config) == CURRENT | changed | WAITS
    other = states(make_config(finetune={"method": "linear"}))["finetune"][1]
    assert other[:2] == ["finetune.method: lora became linear", "finetune.alpha is not read any more"]


def test_what_nothing_reads_changes_nothing(project):
    assert states(make_config(finetune={"momentum": 0.5})) == CURRENT  # which adamw has none of


def test_code_and_what_follows(project):
    (project / "ppvit/code.py").write_text("2")
    assert states() == CURRENT | {
        "encrypt": ("changed", ["code changed: ppvit/code.py"]),
        "finetune": ("waits", ["for encrypt, whose outputs decide"]),
        "evaluate": ("waits", ["for encrypt, finetune, whose outputs decide"]),
    }


def test_outputs_that_are_missing_or_were_changed_by_hand(project):
    os.remove("model")
    found = states()
    assert found["finetune"] == ("changed", ["output missing: model"])
    assert found["evaluate"] == ("changed", ["input missing: model"])
    Path("figures").unlink()
    Path("figures").write_text("by hand")
    assert states()["evaluate"][1] == ["input missing: model", "output changed: figures"]


def test_a_frozen_stage_stays_as_it_is(project):
    (project / "raw.txt").write_text("2")
    found = states()
    assert found["verify"] == ("current", [])
    assert found["encrypt"] == ("changed", ["input changed: raw.txt"])


def test_by_command(project):
    done = CliRunner().invoke(app, ["status", "encrypt"])
    assert done.stdout == "encrypt  current\nall current\n"
    (project / "ppvit/code.py").write_text("2")
    done = CliRunner().invoke(app, ["status", "encrypt", "finetune"])
    assert done.stdout.splitlines() == [
        "encrypt   changed  code changed: ppvit/code.py",
        "finetune  waits    for encrypt, whose outputs decide",
        "next: dvc repro encrypt finetune",
    ]
    told = json.loads(CliRunner().invoke(app, ["status", "--json", "encrypt"]).stdout)
    assert told == {
        "stages": [{"stage": "encrypt", "state": "changed", "reasons": ["code changed: ppvit/code.py"]}],
        "current": False,
    }
    assert (done.exit_code, (project / "encrypted/a").read_text()) == (0, "1")  # nothing ran


def test_what_cannot_be_told(project, tmp_path_factory, monkeypatch):
    with pytest.raises(UsageError, match="there is no stage 'fintune'; did you mean 'finetune'"):
        stages_now(make_config(), ["fintune"])
    (project / "dvc.lock").write_text("stages: [1]")
    with pytest.raises(PpvitError):
        stages_now(make_config(), [])
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UsageError, match="in no DVC project"):
        stages_now(make_config(), [])
