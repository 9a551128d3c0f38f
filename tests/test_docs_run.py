"""What README and docs show is run: Python as it stands, verbs of ppvit in a small project, and settings of DVC runs.

DVC itself runs in tests/test_pipeline.py and tests/test_handover.py. Of `dvc exp run -S ...` here is what its first
stage does: the parameters are checked together and split into what each stage reads.
"""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import make_config
from imports import ROOT
from PIL import Image
from ruamel.yaml import YAML
from test_docs import NAMES, blocks_of, whole_commands_of
from typer.testing import CliRunner

from ppvit.cli.command import app
from ppvit.config import DEMO_KEY_ID, default_yaml, load
from ppvit.core.errors import UsageError
from ppvit.pipeline.settings import write_settings

QUICK = {
    "dataset": {"train_fraction": 0.05, "test_fraction": 0.1},
    "finetune": {"epochs": 1, "rank": 2, "target_modules": ["attn.qkv"], "batch_size": 16},
    "verify": {"wrong_keys": 1},
}
# commands that are not run, by how they begin: why; tests/test_docs.py looks at their words all the same
NOT_RUN = {
    "ppvit init": "tests/cli/test_init.py",
    "ppvit pull": "needs a remote; tests/test_handover.py",
    "ppvit backup": "needs a remote; tests/cli/test_backup.py",
    "ppvit he": "tests/he",
    "ppvit evaluate --finetuned models/he": "tests/he",
    "ppvit tune": "a dozen trainings; tests/training/test_tune.py",
    "ppvit rekey": "tests/adaptation/test_rekey.py",
    "ppvit keygen --passphrase": "asks at a terminal; tests/cli/test_cli.py",
    "ppvit keygen --keychain": "needs a keychain; tests/ciphers/test_keyring.py",
    "ppvit audit": "tests/audit/test_audit_folder.py",
    "ppvit compare": "needs experiments; tests/report/test_comparison.py",
    "ppvit doctor": "looks at a clone; tests/cli/test_doctor.py",
    "ppvit status": "looks at a clone; tests/cli/test_status.py",
    "ppvit --install-completion": "changes the user's shell",
    "ppvit download -S dataset.name=huggingface": "needs a folder of the hub; tests/datasets/test_huggingface.py",
    "ppvit download -S dataset.name=mnist": "needs the network",
    "ppvit download -S dataset.name=cifar10": "needs the network",
    "ppvit encrypt -S dataset.name=cifar10": "the same data",
    "ppvit pretrain -S dataset.name=cifar10": "the same data; tests/training",
    "ppvit evaluate --encrypted elsewhere": "stands for a place of the reader's",
    "ppvit show --findings -S dataset.name=imagefolder": "follows the download of one's own images, see below",
}
LISTED = [
    (name, words)
    for name in NAMES
    for words in whole_commands_of(name)
    if words[0] == "ppvit" and not any(shlex.join(words).startswith(start) for start in NOT_RUN)
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A project whose stages up to evaluate have run, with photographs of its own."""
    root = tmp_path_factory.mktemp("world") / "project"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("PPVIT_KEYRING", str(root / "keys"))
        patch.setenv("PPVIT_WORKERS", "1")
        yaml = YAML()
        values = yaml.load(default_yaml())
        for section, of_section in make_config(**QUICK).model_dump(include={*QUICK}).items():
            values[section].update(of_section)
        with open("params.yaml", "w", encoding="utf-8") as file:
            yaml.dump(values, file)
        for number in range(20):
            folder = root.parent / "photos" / ("cat" if number % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            photograph = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(photograph).save(folder / f"{number // 2}.jpg")
        for name in ("cat.jpg", "dog.jpg"):
            Image.open(root.parent / "photos" / name[:3] / "0.jpg").save(root / name)
        Path("data/local").mkdir(parents=True)
        Path("data/local/own").symlink_to("../../../photos")
        for stage in ("download", "encrypt", "adapt", "finetune", "evaluate"):
            ran(stage)
        yield root


def ran(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    told = "" if done.exception is None else repr(done.exception)
    assert done.exit_code == 0, f"ppvit {shlex.join(words)}: {done.output[-2000:]} {told}"
    return done.output


@pytest.mark.parametrize(("name", "words"), LISTED, ids=[shlex.join(words)[6:50] for _, words in LISTED])
def test_verbs_run(name, words, world, monkeypatch):
    monkeypatch.chdir(world)
    if words[1] == "export":  # which two pages show, into one folder
        shutil.rmtree(words[2], ignore_errors=True)
    ran(*words[1:])


def test_what_is_not_run_is_there():
    commands = [shlex.join(words) for name in NAMES for words in whole_commands_of(name)]
    assert not [start for start in NOT_RUN if not any(command.startswith(start) for command in commands)]
    for why in NOT_RUN.values():
        assert all((ROOT / named).exists() for named in re.findall(r"tests/[\w/.]+", why)), why


def test_own_images_are_taken_as_the_pages_say(world, monkeypatch):
    """Those of docs/how_to.md, in their own places."""
    monkeypatch.chdir(world)
    listed = [words[1:] for words in whole_commands_of("docs/how_to.md") if "dataset.name=imagefolder" in words]
    assert [words[0] for words in listed] == ["download", "show"]
    for words in listed:
        ran(*words, "--raw", "data/raw/own")


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_dvc_runs_are_taken(name, tmp_path, monkeypatch):
    """With all overrides of a line together, as the first stage checks them, and what they name is there."""
    monkeypatch.chdir(tmp_path)
    for words in whole_commands_of(name):
        if words[:3] != ["dvc", "exp", "run"]:
            continue
        given = [value for option, value in pairwise(words) if option in ("-S", "--set")]
        given = [each.replace("pk-...", DEMO_KEY_ID) for each in given]
        given = [each if "[" in each else each.split(",")[0] for each in given]
        given = [each.replace("$rank", "2").replace("$method", "lora") for each in given]
        for each in given:
            parameter, _, value = each.partition("=")
            if parameter in ("dataset.path", "model.checkpoint"):
                Path(value).mkdir(parents=True, exist_ok=True)
                (Path(value) / "any").touch()
        try:
            write_settings(load(None, given), tmp_path / "settings.json")
        except UsageError as error:
            raise AssertionError(f"{shlex.join(words)} in {name}: {error}") from error
        assert (tmp_path / "settings.json").is_file()


def test_the_python_of_the_readme_runs(world, tmp_path, monkeypatch):
    (code,) = (block for block in blocks_of("README.md", "python") if "ppvit.adapt(" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(world.parent / "photos")
    Image.open(world / "cat.jpg").save("cat.jpg")
    space: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), space)
    assert 0 <= space["scores"]["accuracy_percent"] <= 100
    np.testing.assert_allclose(space["answers"].sum(1), 1, rtol=1e-5)


def test_the_python_of_handover_loads_the_adapter(world, monkeypatch):
    (code,) = blocks_of("docs/handover.md", "python")
    monkeypatch.chdir(world)
    space: dict[str, object] = {}
    exec(compile(code, "docs/handover.md", "exec"), space)
    assert space["model"].get_base_model().num_classes == 10


def test_the_python_of_the_tutorial_makes_the_photographs_that_its_commands_take(tmp_path, monkeypatch):
    (code,) = blocks_of("docs/tutorial.md", "python")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    exec(compile(code, "docs/tutorial.md", "exec"), {})
    photographs = sorted((tmp_path / "photos").glob("*/*.jpg"))
    assert len(photographs) == 160
    assert {Image.open(path).size for path in photographs} == {(256, 256)}
    assert ["ppvit", "predict", "../photos/cat/0.jpg"] in whole_commands_of("docs/tutorial.md")
    assert Path("../photos/cat/0.jpg").is_file()
