"""What the shell offers: names and values of parameters, stages, recipes, remotes, keys; in bash, word by word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from timm import is_model

from ppvit.ciphers import CIPHERS, keys
from ppvit.ciphers.keys import Key
from ppvit.cli import completion
from ppvit.config.recipes import recipes
from ppvit.datasets import DATASETS
from ppvit.pipeline import STAGES
from ppvit.tuners import TUNERS


@pytest.fixture(autouse=True)
def unsplit(monkeypatch) -> None:
    monkeypatch.setattr(completion, "_before", [])


@pytest.mark.parametrize(
    ("parameter", "names"),
    [
        ("cipher.name", set(CIPHERS)),
        ("finetune.method", set(TUNERS)),
        ("dataset.name", set(DATASETS)),
        ("finetune.recipe", {"none", *recipes()}),
        ("encrypt.crop", {"squash"}),
        ("adapt.enabled", {"true", "false"}),
        ("finetune.rank", {"8"}),
        ("audit.attacks", {"[all]"}),
    ],
)
def test_values_of_a_parameter(parameter, names):
    found = completion.override(f"{parameter}=")
    assert {f"{parameter}={name}" for name in names} <= set(found)
    assert len(found) == len(set(found))
    first = sorted(names)[0]
    assert f"{parameter}={first}" in completion.override(f"{parameter}={first[:2]}")


def test_names_of_models_are_timms_and_ours():
    found = completion.override("model.name=vit_")
    assert "model.name=vit_micro_patch4_32" in found
    names = [each.partition("=")[2] for each in found]
    assert len(names) > 100
    assert all(is_model(name) for name in names if name != "vit_micro_patch4_32")


def test_names_of_parameters_and_what_is_none():
    assert {"cipher.name=", "cipher.key_id="} <= set(completion.override("cipher."))
    assert all(each.startswith("cipher.name=") for each in completion.override("cipher.n"))
    assert completion.override("nothing.here=") == []
    assert completion.values_of("cipher.nothing") == []


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from ppvit.cli import completion as c; [*map(c.override, ('model.name=', 'finetune.method='))]; "
    )
    code += "sys.exit(len({'torch', 'numpy', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_stages_recipes_remotes_and_keys(tmp_path, monkeypatch):
    assert completion.stage("") == list(STAGES)
    assert completion.stage("fin") == ["finetune"]
    assert set(completion.recipe("")) == set(recipes())
    monkeypatch.chdir(tmp_path)
    assert completion.remote("") == []
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    remote = shared\n['remote \"shared\"']\n    url = /srv/shared\n")
    (tmp_path / ".dvc/config.local").write_text("['remote \"mine\"']\n    url = /srv/mine\n")
    assert completion.remote("") == ["shared", "mine"]
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert completion.remote("m") == ["mine"]
    key = Key(bytes(32))
    keys.save(key, tmp_path / "ring")
    monkeypatch.setenv("PPVIT_KEYRING", str(tmp_path / "ring"))
    assert completion.key("pk-") == [key.id]


@pytest.mark.parametrize(
    ("words", "at", "joined", "place", "of"),
    [
        (["ppvit", "encrypt", "-S", "cipher.na"], 3, ["ppvit", "encrypt", "-S", "cipher.na"], 3, None),
        (["ppvit", "encrypt", "-S", "cipher.name", "="], 4, ["ppvit", "encrypt", "-S", ""], 3, "cipher.name"),
        (["ppvit", "encrypt", "-S", "cipher.name", "=", "bl"], 5, ["ppvit", "encrypt", "-S", "bl"], 3, "cipher.name"),
        (["p", "--set", "=", "a.b", "=", "c"], 5, ["p", "--set", "c"], 2, "a.b"),
        (["p", "-S", "a.b", "=", "c", "-S", "d.e", "=", "f"], 8, ["p", "-S", "a.b=c", "-S", "f"], 4, "d.e"),
        (["p", "-S", "a.b", "=", "c", ""], 5, ["p", "-S", "a.b=c", ""], 3, None),
        (["p", "--out", "="], 2, ["p", "--out", ""], 2, None),
    ],
)
def test_words_that_bash_splits(words, at, joined, place, of):
    environment = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(at)}
    completion.join_words(environment)
    assert environment["COMP_WORDS"].split("\n") == joined
    assert environment["COMP_CWORD"] == str(place)
    assert completion._before == ([] if of is None else [of])
    if of == "cipher.name":
        assert "block" in completion.override(joined[place])


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself(tmp_path):
    """The script that `--install-completion` writes, as bash calls it: what is offered replaces the last word."""
    (tmp_path / "ppvit").write_text(f"#!{sys.executable}\nfrom ppvit.cli import run\nrun()\n")
    (tmp_path / "ppvit").chmod(0o755)
    script = """
source <(ppvit --show-completion bash)
COMP_WORDS=(ppvit encrypt -S cipher.name = block_n); COMP_CWORD=5
_ppvit_completion ppvit; echo "${COMPREPLY[@]}"
COMP_WORDS=(ppvit status fine); COMP_CWORD=2
_ppvit_completion ppvit; echo "${COMPREPLY[@]}"
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines() == ["block_np", "finetune"], done.stderr
