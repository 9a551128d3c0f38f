"""``git add -A`` after any verb, with the usual places or with a folder of one's own inside the repository."""

from __future__ import annotations

import fnmatch
import io
import shutil
import subprocess
import tarfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import make_config
from imports import ROOT
from PIL import Image
from safetensors.numpy import load_file
from secret_forms import forms_of_bytes
from typer.main import get_command
from typer.testing import CliRunner

from ppvit.ciphers import keys
from ppvit.cli.command import app
from ppvit.pipeline import STAGES
from ppvit.places import Places

QUICK = {
    "dataset": {"train_fraction": 0.03, "test_fraction": 0.03},
    "finetune": {"epochs": 1, "rank": 2, "target_modules": ["attn.qkv"], "batch_size": 16},
    "verify": {"wrong_keys": 1},
    "he": {"features": "pixels", "train_images": 32, "components": 4, "iterations": 1},
}
PUBLIC = {"embedded"}  # places that git may have
# every verb: what is run of it, with places of one's own where it has some; or why nothing is
NO_FILES = "prints alone"
PLACES_ALONE = "takes long, or needs what does: its places are filled instead, see below"
VERBS: dict[str, list[str] | str] = {
    "download": ["download", "download --raw mine/raw"],
    "encrypt": ["encrypt"],
    "adapt": ["adapt"],
    "finetune": ["finetune"],
    "evaluate": ["evaluate"],
    "verify": ["verify"],
    "report": PLACES_ALONE,
    "pretrain": "writes public weights of public glyphs, or below models/local",
    "robustness": PLACES_ALONE,
    "audit": ["audit data/encrypted/pictures --pictures mine/pictures"],
    "threats": PLACES_ALONE,
    "he": PLACES_ALONE,
    "he keys": ["he keys", "he keys --owner mine/owner --trainer mine/trainer"],
    "he encrypt": ["he encrypt", "he encrypt --owner mine/owner --trainer mine/trainer"],
    "he train": ["he train", "he train --trainer mine/trainer"],
    "he refresh": ["he refresh"],
    "he decrypt": [
        "he decrypt",
        "he decrypt --owner mine/owner --trainer mine/trainer --out mine/head --results mine/results",
    ],
    "show": ["show", "show --out other.png", "show --out some/where/else.png"],
    "demo": NO_FILES,
    "predict": ["predict data/local/photo.png"],
    "export": [
        "export hub",
        "export mine/hub",  # an adapter, which tells nothing
        "finetune -S finetune.method=full --results mine/results",
        "evaluate --results mine/results",
        "export mine/revealing --with-key-material -S finetune.method=full --results mine/results",
    ],
    "settings": ["settings"],
    "init": "writes a project elsewhere, whose own .gitignore is this one, see tests/cli/test_init.py",
    "params": NO_FILES,
    "doctor": NO_FILES,
    "status": NO_FILES,
    "schema": NO_FILES,
    "list": NO_FILES,
    "tune": "writes to scratch alone",
    "compare": ["compare workspace", "compare workspace --format html"],
    "recipe": NO_FILES,
    "keys": NO_FILES,
    "pull": "writes what the trainer's stages write, in their places",
    "backup": "writes to a remote alone, see tests/cli/test_backup.py",
    "rekey": "writes what encrypt, adapt and finetune write, in their places",
    "keygen": ["keygen --keyring keys", "keygen --keyring mine/keys"],
}
# what git would add: nothing but these, in folders of one's own, and every one of them is searched
MAY_ADD = ("params.yaml", "settings.json", "mine/trainer/*", "mine/head/*", "mine/hub/*", "mine/results/*")


def verbs() -> set[str]:
    found = set()
    for name, command in get_command(app).commands.items():
        found |= {name, *(f"{name} {inner}" for inner in getattr(command, "commands", ()))}
    return found


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """The files by which git and DVC know what to leave out, and what a run needs."""
    root = tmp_path_factory.mktemp("repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = ("*.gitignore", ".dvc*", "dvc.*", "models/*", "data/*", "params.yaml", "settings.json")
    for name in listed.splitlines():
        if any(fnmatch.fnmatch(name, pattern) for pattern in wanted) and (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-qm", "state")
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


def would_be_added(root: Path) -> list[str]:
    lines = git(root, "-c", "core.quotePath=false", "add", "-A", "-n").splitlines()
    return [line.removeprefix("add '").removesuffix("'") for line in lines if line.startswith("add ")]


def test_every_verb_is_in_the_table():
    assert verbs() - VERBS.keys() == set(), "say in VERBS what git must not add after it"


def test_git_leaves_out_every_place_that_a_stage_writes(repository):
    places = Places.of(make_config(dataset={"name": "some_other_set"}), root=repository)
    outputs = {place for stage in STAGES.values() for place in (*stage.outputs, *stage.apart)}
    assert outputs <= {each.name for each in fields(places)}
    for place in outputs - PUBLIC:
        path: Path = getattr(places, place)
        file = path if path.suffix else path / "deep" / "secret.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"secret")
        assert would_be_added(repository) == [], place
        shutil.rmtree(file.parent) if file.parent != places.results else file.unlink()
    assert (repository / "models" / "pretrained").is_dir()


def test_git_would_add_no_secret_after_any_verb(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PPVIT_WORKERS", "1")
    key = keys.generate()
    keys.save(key)
    config = make_config(**QUICK, cipher={"key_id": key.id})
    (repository / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    Path("data/local").mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save("data/local/photo.png")
    Path("data/encrypted/pictures").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.roll(noise, number, 0)).save(f"data/encrypted/pictures/{number}.png")
    secrets = forms_of_bytes(key.secret)
    searched = set()
    for verb, commands in VERBS.items():
        for command in [] if isinstance(commands, str) else commands:
            done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
            assert done.exit_code == 0, f"{command}: {done.output}"
            secrets |= plain_images() if verb == "download" else set()
            secrets |= secrets_of_he() if verb.startswith("he ") else set()
            for name in would_be_added(repository):
                assert any(fnmatch.fnmatch(name, pattern) for pattern in MAY_ADD), f"{command}: git would add {name}"
                data = Path(name).read_bytes()
                searched.add(name)
                assert not any(secret in data for secret in secrets), f"{command}: {name} holds a secret"
    there = {path.as_posix() for path in Path("mine").rglob("*")}
    for name in ("owner/secret.key", "owner/kept.safetensors", "revealing/README.md", "raw/dataset.json"):
        assert f"mine/{name}" in there
    assert "mine/pictures/audit.json" in there
    assert any(name.endswith(".key") and name.startswith("mine/keys/pk-") for name in there)
    assert "mine/trainer/keys/rotation.key" in searched  # which is public
    assert Path("he/owner/secret.key").exists()
    assert Path("hub/README.md").exists()


def plain_images() -> set[bytes]:
    """Encoded images as the raw shards have them, and rows of their pixels."""
    found = set()
    with tarfile.open(next(Path("data/raw/digits").rglob("*.tar"))) as shard:
        members = [member for member in shard if member.name.endswith((".png", ".webp", ".jpg"))][:20]
        for member in members:
            data = shard.extractfile(member).read()
            pixels = np.asarray(Image.open(io.BytesIO(data)))
            found |= {data, np.ascontiguousarray(pixels[len(pixels) // 2 :][:3]).tobytes()}
    assert found
    return {each for each in found if len(set(each)) > 4}


def secrets_of_he() -> set[bytes]:
    """Pieces of the CKKS key, and of plain features and labels."""
    found = set()
    for owner in (Path("he/owner"), Path("mine/owner")):
        for path in (owner / "secret.key", owner / "kept.safetensors"):
            data = path.read_bytes() if path.exists() else b""
            found |= {data[start : start + 32] for start in range(200, len(data) - 32, 4096)}
        if (owner / "kept.safetensors").exists():
            found |= {load_file(owner / "kept.safetensors")["labels"].tobytes()}
    return {each for each in found if len(set(each)) > 4}
