"""The command line as a person meets it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm_python
import yaml
from conftest import make_config, write_raw
from typer.testing import CliRunner

from ppvit import __version__
from ppvit.ciphers import keys
from ppvit.ciphers.keys import Key
from ppvit.cli.command import app
from ppvit.config import default_yaml, parameters
from ppvit.core.errors import UsageError
from ppvit.pipeline import STAGES

ROOT = Path(__file__).parents[2]
HEAVY = {"adapt", "finetune", "rekey"}  # verbs that import torch


def ppvit(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    python = warm_python.python() if HEAVY.intersection(arguments) else sys.executable
    command = [python, "-c", "from ppvit.cli import run; run()", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.fixture
def project(tmp_path):
    (tmp_path / "params.yaml").write_text(default_yaml())
    return tmp_path


def test_every_stage_is_a_verb_and_lists_its_parameters(tmp_path):
    listed = ppvit("--help", cwd=tmp_path).stdout
    assert all(re.search(rf"^  {stage} ", listed, re.M) for stage in STAGES)
    text = ppvit("finetune", "--help", cwd=tmp_path).stdout
    assert all(name in text for name, _, _ in parameters(STAGES["finetune"].sections))


def test_a_verb_takes_every_place_that_its_stage_reads_and_writes(tmp_path):
    for name, stage in STAGES.items():
        text = ppvit(name, "--help", cwd=tmp_path).stdout
        assert all(re.search(rf"--{place}\b", text) for place in (*stage.inputs, *stage.outputs)), name
        assert "--out" in text


def test_help_and_version_load_no_heavy_package(tmp_path):
    heavy = "{'torch', 'numpy', 'pydantic', 'dvc', 'rich'}"
    code = f"import sys, ppvit.cli.command; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert ppvit("--version", cwd=tmp_path).stdout == f"ppvit {__version__}\n"


def test_keygen_prints_the_id_alone_and_no_secret(tmp_path):
    done = ppvit("keygen", "--label", "alice", cwd=tmp_path, PPVIT_KEYRING=str(tmp_path / "ring"))
    key_id = done.stdout.strip()
    assert re.fullmatch(r"pk-[0-9a-f]{16}", key_id)
    secret = (tmp_path / "ring" / f"{key_id}.key").read_text().strip().removeprefix("ppvit-key-v1:")
    assert secret not in done.stdout + done.stderr
    assert "keep a backup" in done.stderr


def test_keys_lists_what_there_is_and_where_it_is_used(project):
    ring = project / "ring"
    mine, locked, open_to_all, lost = (Key(bytes([number]) * 32) for number in range(4))
    keys.save(mine, ring, "mine \x1b[2J")
    keys.save(locked, ring, locked_by="p")
    keys.save(open_to_all, ring).chmod(0o644)
    (ring / "notes.key").write_text("no key id")
    drawn = {"views": 2, "view_key_id": mine.id}
    config = make_config(cipher={"key_id": mine.id}, download={"key_id": mine.id}, encrypt=drawn)
    (project / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    for path, values in (
        ("data/encrypted/digits/train/manifest.json", {"key_id": mine.id}),
        ("data/encrypted/digits/test/manifest.json", {"key_id": mine.id}),
        ("data/encrypted/cifar10/train/manifest.json", {"key_id": locked.id}),
        ("data/encrypted/bad/train/manifest.json", [1]),
        ("data/raw/digits/dataset.json", {"sealed": {"key_id": mine.id}}),
        ("models/adapted/config.json", {"ppvit": {"key_id": keys.DEMO_KEY.id}}),
        ("models/finetuned/ppvit.json", {"key_id": lost.id}),
    ):
        (project / path).parent.mkdir(parents=True)
        (project / path).write_text(json.dumps(values))
    done = ppvit("keys", "--json", cwd=project, PPVIT_KEYRING=str(ring))
    assert done.returncode == 0, done.stderr
    found = {each.pop("key_id"): each for each in json.loads(done.stdout)}
    used = ["cipher.key_id", "download.key_id", "encrypt.view_key_id", "data/raw/digits", "data/encrypted/digits"]
    assert found.pop(mine.id) == {"label": "mine \x1b[2J", "kept": "file", "problem": "", "used": used}
    of_locked = {"label": "", "kept": "file, passphrase", "problem": "", "used": ["data/encrypted/cifar10"]}
    assert found.pop(locked.id) == of_locked
    exposed = found.pop(open_to_all.id)
    assert (exposed["kept"], exposed["used"]) == ("file", [])
    assert exposed["problem"].endswith(f"chmod 600 {ring / f'{open_to_all.id}.key'}")
    assert found.pop(lost.id)["kept"] == "missing"
    assert found.pop(keys.DEMO_KEY.id)["kept"] == "public"
    assert not found
    text = ppvit("keys", cwd=project, PPVIT_KEYRING=str(ring)).stdout
    assert "\x1b" not in text
    assert f"used: {', '.join(used)}\n" in text
    secrets = [path.read_text().strip().rpartition(":")[2] for path in ring.glob("pk-*.key")]
    assert not any(secret in text + done.stdout for secret in secrets)


def test_keys_without_a_project(tmp_path):
    keys.save(Key(bytes(32)), tmp_path / "ring", "alice")
    done = ppvit("keys", "--keyring", "ring", cwd=tmp_path)
    assert done.stdout == "pk-8a9509fb3ae114c9  alice  file\n"
    assert ppvit("keys", "--keyring", "none", cwd=tmp_path).stdout == "there are no keys; make one: ppvit keygen\n"
    assert json.loads(ppvit("keys", "--keyring", "none", "--json", cwd=tmp_path).stdout) == []


def test_rekey(tmp_path):
    """As a person calls it, on shards alone."""
    old, new = (Key(bytes([number]) * 32) for number in (1, 2))
    for key in (old, new):
        keys.save(key, tmp_path / "ring")
    raw = write_raw(tmp_path / "data" / "raw" / "digits", {"train": 30, "test": 6})
    config = make_config(cipher={"key_id": old.id}, dataset={"image_size": 16})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    environment = {"PPVIT_KEYRING": str(tmp_path / "ring")}
    assert ppvit("encrypt", cwd=tmp_path, **environment).returncode == 0
    shutil.rmtree(raw)
    done = ppvit("rekey", old.id, new.id, cwd=tmp_path, **environment)
    assert done.stdout == "data/encrypted/digits\n"
    assert f"set cipher.key_id to {new.id}" in done.stderr
    manifest = json.loads((tmp_path / "data/encrypted/digits/test/manifest.json").read_text())
    assert manifest["key_id"] == new.id
    assert ppvit("rekey", old.id, new.id, cwd=tmp_path, **environment).stdout == f"all is of key {new.id} already\n"


def test_keygen_with_a_passphrase(tmp_path):
    (tmp_path / "passphrase").write_text("correct horse\n")
    (tmp_path / "passphrase").chmod(0o600)
    environment = {"PPVIT_KEYRING": str(tmp_path / "ring"), "PPVIT_PASSPHRASE_FILE": str(tmp_path / "passphrase")}
    done = ppvit("keygen", "--passphrase", cwd=tmp_path, **environment)
    key_id = done.stdout.strip()
    assert (tmp_path / "ring" / f"{key_id}.key").read_text().startswith("ppvit-key-v1-scrypt:ln=17,r=8,p=1:")
    assert "remember the passphrase" in done.stderr
    assert "horse" not in done.stdout + done.stderr
    code = f"from ppvit.ciphers import keys; assert keys.load('{key_id}').id == '{key_id}'"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (
            ("finetune", "-S", "finetune.rnk=3"),
            2,
            "error: -S: unknown parameter 'finetune.rnk'; did you mean 'rank'?",
        ),
        (
            ("finetune", "-S", "finetune.rank=x"),
            2,
            "error: -S: parameter 'finetune.rank': input should be a valid integer",
        ),
        (
            ("encrypt", "-S", "cipher.key_id=pk-0123456789abcdef"),
            2,
            "error: key pk-0123456789abcdef is not in the keyring",
        ),
        (("encrypt", "-S", "cipher.name=blok"), 2, "error: unknown cipher.name 'blok'; did you mean 'block'?"),
        (
            ("encrypt",),
            1,
            "error: data/raw/digits/dataset.json is missing; run the stage that writes it: dvc repro download",
        ),
        (
            ("finetune",),
            1,
            "error: data/encrypted/digits/train/manifest.json is missing; "
            "run the stage that writes it: dvc repro encrypt",
        ),
        (("adapt",), 1, "error: data/raw/digits/dataset.json is missing"),
    ],
)
def test_errors_are_one_line(project, arguments, code, told):
    done = ppvit(*arguments, cwd=project)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("warning")]) == 1


def test_debug_shows_the_traceback(project):
    done = ppvit("--debug", "encrypt", cwd=project)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: data/raw/digits/dataset.json is missing")


def test_no_params_yaml(tmp_path):
    done = ppvit("encrypt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: params.yaml is missing; run in a project, as `ppvit init NAME` makes one\n"


def test_override_and_paths(project):
    write_raw(project / "plain", {"train": 30, "test": 6})
    done = ppvit(
        "encrypt",
        "-S",
        "dataset.image_size=16",
        "-S",
        "cipher.name=np",
        "--raw",
        "plain",
        "--out",
        "keyed",
        cwd=project,
    )
    assert done.returncode == 0, done.stderr
    assert '"name": "np"' in (project / "keyed" / "train" / "manifest.json").read_text()
    assert "public demo key" in done.stderr
    assert (project / "params.yaml").read_text() == default_yaml()  # overridden for one run only


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("adapt", ("--out", "elsewhere")),
        ("adapt", ("--embedded", "elsewhere.safetensors")),
        ("finetune", ("--out", "elsewhere")),
        ("finetune", ("--live", "elsewhere")),
        ("evaluate", ("--finetuned", "models/he")),
        ("evaluate", ("--plots", "elsewhere")),
        ("robustness", ("--encrypted", "elsewhere")),
        ("verify", ("--raw", "elsewhere")),
        ("audit", ("--adapted", "elsewhere")),
        ("threats", ("--finetuned", "elsewhere")),
        ("he", ("--out", "elsewhere")),
    ],
)
def test_figures_of_files_elsewhere_do_not_replace_those_of_the_run(project, monkeypatch, verb, options):
    monkeypatch.chdir(project)
    path = Path("results") / f"{verb}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    done = CliRunner().invoke(app, [verb, *options])
    assert isinstance(done.exception, UsageError)
    told = f"measures would replace {path}; say where to write it with --results"
    assert str(done.exception).startswith(options[0].replace("--out", "--"))
    assert str(done.exception).endswith(told)
    assert path.read_text() == "{}"
    assert sorted(each.name for each in Path("results").iterdir()) == [path.name]
    apart = CliRunner().invoke(app, [verb, *options, "--results", "apart"])  # goes on, to what is missing
    assert "say where to write it" not in str(apart.exception)
    assert path.read_text() == "{}"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["cipher.name=blok"], "unknown cipher.name 'blok'; did you mean 'block'?"),
        (["cipher.block_size=8"], "cipher.block_size 8, but the patches of model.name vit_micro_patch4_32 have 4"),
        (["dataset.image_size=30"], "cipher.block_size 4 does not divide dataset.image_size 30"),
        (["cipher.name=disposable"], "no exact adaptation exists for cipher.name disposable, because every image has"),
        (["cipher.name=le", "augment.names=[mixup]"], "'mixup' does not commute with cipher.name le, because"),
    ],
)
@pytest.mark.parametrize(
    "verb",
    [
        ("encrypt",),
        ("export", "out"),
        ("rekey", "pk-6a84562a80f3ffa0", "pk-0123456789abcdef"),
        ("he", "keys"),
        ("he", "encrypt"),
        ("he", "decrypt"),
    ],
)
def test_values_that_do_not_go_together_are_told_before_anything_is_read(project, monkeypatch, verb, overrides, told):
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, [*verb, *(word for each in overrides for word in ("-S", each))])
    assert isinstance(done.exception, UsageError)
    assert told in str(done.exception)
    assert [each.name for each in project.iterdir()] == ["params.yaml"]


def test_unusable_place_is_told(project):
    (project / "file").write_text("")
    write_raw(project / "plain", {"train": 30, "test": 6})
    done = ppvit("encrypt", "-S", "dataset.image_size=16", "--raw", "plain", "--out", "file/keyed", cwd=project)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "file" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("closed", [">&-", "2>&- >/dev/null"])
def test_a_closed_output_is_no_error(closed):
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m ppvit.cli list recipes {closed}', sys.executable], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
