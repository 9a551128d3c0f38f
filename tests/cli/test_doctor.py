"""`ppvit doctor`: each check has a verdict, and what must be put right a remedy; no check ends the others."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import make_config
from dvc.repo import Repo
from typer.testing import CliRunner

from ppvit.ciphers import keys
from ppvit.ciphers.keys import Key
from ppvit.cli import doctor
from ppvit.cli.command import app
from ppvit.cli.doctor import packages
from ppvit.cli.doctor.project import weights
from ppvit.config import DEMO_KEY_ID, Config


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPVIT_KEYRING", str(tmp_path / "ring"))
    for name in ("PPVIT_WORKERS", "PPVIT_PROCESSES", "PPVIT_ENGINE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(config: Config) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(config.model_dump()))


def found(check: str) -> list[tuple[str, str, str]]:
    """Verdict, what was found and remedy of a check."""
    return [
        (each.verdict, each.found, each.remedy) for each in doctor.examine(Path("params.yaml")) if each.check == check
    ]


def only(check: str) -> tuple[str, str, str]:
    (one,) = found(check)
    return one


def test_a_machine_on_which_the_tests_run(project):
    write(make_config(cipher={"key_id": DEMO_KEY_ID}))
    embedded = project / "models/pretrained/vit_micro_patch4_32.safetensors"
    embedded.parent.mkdir(parents=True)
    embedded.write_bytes(b"weights")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["problems"]) == (0, [])
    verdicts = {each["check"]: each["verdict"] for each in told["checks"]}
    assert {"python", "packages", "device", "threads", "memory", "key ring", "disk", "weights", "extras"} <= set(
        verdicts
    )
    assert verdicts["key"] == "note"  # the demo key
    assert all(each["remedy"] for each in told["checks"] if each["verdict"] != "ok")
    assert f"torch {torch.__version__.partition('+')[0]}" in next(
        each["found"] for each in told["checks"] if each["check"] == "packages"
    )
    text = CliRunner().invoke(app, ["doctor"]).stdout
    assert "remedy: `ppvit keygen`" in text
    assert text.splitlines()[-1] == "nothing to put right"


def test_packages_that_are_missing_or_too_old(project, monkeypatch):
    there = {"timm": "0.9.2"}

    def version(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return there.get(name) or importlib.metadata.version(name)

    monkeypatch.setattr(packages, "version", version)
    monkeypatch.setattr(packages, "requires", lambda name: ["timm>=1.0.29,<1.1", "peft>=0.21", "numpy>=2"])
    verdict, told, remedy = only("packages")
    assert verdict == "problem"
    assert "timm 0.9.2 (needs " in told
    assert "peft (missing)" in told
    assert remedy.startswith("pip install '")
    assert "'timm<1.1,>=1.0.29'" in remedy


@pytest.mark.parametrize(
    ("model", "verdict", "told"),
    [
        ({}, "problem", "vit_micro_patch4_32.safetensors is missing"),
        ({"checkpoint": "models/local/mine.safetensors"}, "problem", "models/local/mine.safetensors does not exist"),
        ({"pretrained": False}, "note", "starts from random weights"),
        ({"name": "vit_tiny_patch16_224"}, "note", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k is not on this"),
    ],
)
def test_weights(project, monkeypatch, model, verdict, told):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project / "none"))
    (one,) = weights(make_config(model=model))
    assert one.verdict == verdict
    assert told in one.found
    assert one.remedy


def test_keys_that_the_project_needs(project):
    lost, exposed = Key(bytes(32)), Key(bytes([1]) * 32)
    write(make_config(cipher={"key_id": lost.id}))
    ((verdict, told, remedy),) = found("key")
    assert (verdict, lost.id in told) == ("note", True)  # as it is for the trainer
    assert "the trainer needs none" in remedy
    keys.save(exposed, project / "ring").chmod(0o644)
    write(make_config(cipher={"key_id": exposed.id}))
    ((verdict, told, _),) = found("key")
    assert (verdict, "chmod 600" in told) == ("problem", True)
    (project / "ring").chmod(0o777)
    verdict, told, _ = only("key ring")
    assert (verdict, "ring" in told) == ("problem", True)


def test_parameters_that_cannot_be_used_end_no_other_check(project):
    Path("params.yaml").write_text("cipher: 3")
    assert only("parameters")[0] == "problem"
    assert only("packages")[0] == "ok"
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("to put right: parameters")


def test_a_check_that_breaks_is_a_problem_itself(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it cannot be imported
    verdict, told, _ = only("device")
    assert verdict == "problem"
    assert "torch" in told
    assert only("packages")[0] == "ok"


def test_variables_that_cannot_be_used(project, monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "many")
    assert only("threads")[:2] == ("problem", "PPVIT_WORKERS=many is not a whole number from 0 to 1024")


def test_a_disk_that_is_nearly_full(project, monkeypatch):
    monkeypatch.setattr("ppvit.core.files.free_bytes", lambda folder: 2**28)
    assert [(verdict, told.endswith("0.2 GiB free")) for verdict, told, _ in found("disk")] == [("problem", True)] * 2


def test_remotes(project):
    assert only("remotes")[:2] == ("note", "this folder is in no DVC project")
    Repo.init(no_scm=True).close()
    assert only("remotes")[1].startswith("none, so that nothing is handed over")
    (project / "shared").mkdir()
    places = {"shared": project / "shared", "later": project / "later", "cloud": "gs://bucket/folder"}
    sections = [f"['remote \"{name}\"']\n    url = {place}\n" for name, place in places.items()]
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n    remote = shared\n" + "".join(sections))
    there, later, cloud = found("remote")
    assert there == ("ok", f"shared (default): {project / 'shared'}", "")
    assert later == ("note", f"later: {project / 'later'} does not exist yet", "`dvc push` makes it")
    assert cloud[0] == "problem"  # no package for it is installed
    assert cloud[1].startswith("cloud: ")
    assert "dvc-gs" in cloud[1]


def test_extras(project, monkeypatch):
    """By what the installed package says of itself, not by names of ours."""
    needed = ["numpy>=2", "lightly>=1 ; extra == 'ssl'", "no-such-package>=2 ; extra == 'clouds'"]
    monkeypatch.setattr(packages, "requires", lambda name: needed)
    monkeypatch.setattr(packages, "metadata", lambda name: Message(["ssl", "clouds", "test"]))
    (ok, there, _), (note, absent, remedy) = found("extras")
    assert (ok, there) == ("ok", "ssl")
    assert (note, absent) == ("note", "not installed: clouds")
    assert remedy.startswith("pip install 'ppvit[clouds]'")


class Message(dict):
    """Metadata of a package."""

    def __init__(self, extras: list[str]) -> None:
        super().__init__({"Requires-Python": ">=3.11"})
        self._extras = extras

    def get_all(self, name: str) -> list[str]:
        return self._extras
