"""What the owner hands over as docs/handover.md says, on data whose every name is a secret word, holds none of them.

The trainer gets the working tree, all of git's history, and the remote of DVC.
"""

from __future__ import annotations

import io
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
import warm_python
import yaml
from conftest import make_config
from imports import ROOT
from PIL import Image
from test_pipeline import QUICK, Project, repository, stages_run

from ppvit.ciphers import keys

# of the folder, the archive, the weights, the classes, the images; in parts, since this file is in git itself
PARTS = ("kettle-well_clinic", "brain-tumour_224", "glioma-net", "ependy-moma", "astro-cytoma", "patient-_zofia")
WORDS = tuple(parts.replace("-", "") for parts in PARTS)


def own_archive(folder: Path) -> Path:
    """A tar of noise: two classes, 24 training and 12 test images."""
    path = folder / WORDS[0] / f"{WORDS[1]}.tar"
    path.parent.mkdir(parents=True)
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for split, count in (("train", 12), ("test", 6)):
            for label in WORDS[3:5]:
                for number in range(count):
                    buffer = io.BytesIO()
                    Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, format="PNG")
                    member = tarfile.TarInfo(f"{split}/{label}/{WORDS[5]}_{number}.png")
                    member.size = buffer.tell()
                    tar.addfile(member, io.BytesIO(buffer.getvalue()))
    return path


def found(*folders: Path) -> set[str]:
    """Secret words in names and contents of all files."""
    words = set()
    for folder in folders:
        for path in folder.rglob("*"):
            there = path.is_file() and not path.is_symlink()
            data = str(path.relative_to(folder)).encode() + (path.read_bytes() if there else b"")
            words |= {word for word in WORDS if word.encode() in data.lower()}
    return words


def found_in_git(project: Project) -> set[str]:
    """Secret words in any object of any commit, reachable or not, and in the messages and names of references."""
    objects = project.run("sh", "-c", "git cat-file --batch-all-objects --batch | tr -cd '[:print:]\n'")
    assert "schema: '2.0'" in objects  # dvc.lock is among them
    told = objects + project.git("log", "--all", "--format=%B%D") + project.git("for-each-ref")
    return {word for word in WORDS if word in told.lower()}


def test_what_the_trainer_gets_names_neither_data_nor_classes(tmp_path):
    warm = warm_python.shared()
    archive = own_archive(tmp_path)
    weights = tmp_path / f"{WORDS[2]}.safetensors"
    weights.write_bytes((ROOT / "models/pretrained/vit_micro_patch4_32.safetensors").read_bytes())
    key = keys.generate()
    keys.save(key, tmp_path / "keyring")
    owner = repository(tmp_path / "owner", tmp_path / "keyring", warm)
    owner.commit()

    # as docs/own_data.md and docs/handover.md say
    for text in ("ln -s", "data/local/own", "models/local/own"):
        assert text in (ROOT / "docs/own_data.md").read_text()
    for text in (
        "dvc repro adapt encrypt",
        "dvc push",
        "ppvit pull",
        "git commit -am",
        "git checkout FETCH_HEAD -- dvc.lock",
    ):
        assert text in (ROOT / "docs/handover.md").read_text()
    (owner.root / "data/local/own.tar").symlink_to(archive)
    (owner.root / "models/local/own.safetensors").symlink_to(weights)
    config = make_config(
        **QUICK | {"dataset": {"name": "imagefolder", "path": "data/local/own.tar"}},
        cipher={"key_id": key.id},
        model={"checkpoint": "models/local/own.safetensors"},
    )
    (owner.root / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    warm.wait()
    owner.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    assert set(stages_run(owner.dvc("repro", "adapt", "encrypt"))) == {"settings", "download", "encrypt", "adapt"}
    owner.dvc("push")
    owner.git("commit", "-qam", "shards")
    assert found(owner.root / ".dvc/cache") >= set(WORDS[3:])  # the search finds what is there

    trainer = Project(tmp_path / "trainer", keyring=Path("/nonexistent"), python=warm.path)
    owner.git("clone", "-q", str(owner.root), str(trainer.root))
    trainer.run(str(warm.path), "-m", "ppvit.cli", "pull", "encrypt", "adapt")
    ran = trainer.dvc("exp", "run", "--allow-missing", "-S", "finetune.rank=1", "evaluate")
    assert stages_run(ran) == ["settings", "finetune", "evaluate"]
    assert not (trainer.root / "data/raw/imagefolder").exists()
    assert (trainer.root / "data/encrypted/imagefolder/train/manifest.json").exists()
    assert found(trainer.root, tmp_path / "remote") == set()
    assert found_in_git(trainer) == set()

    # back again: of the trainer's commit the owner takes what was measured, and no code
    trainer.git("commit", "-qam", "rank 1")
    trainer.dvc("push", "finetune", "evaluate")
    (trainer.root / "ppvit/verbs/verify.py").write_text("raise SystemExit('the code of a trainer ran')\n")
    trainer.git("commit", "-qam", "and something else")
    owner.git("fetch", "-q", str(trainer.root), "main")
    owner.git("checkout", "FETCH_HEAD", "--", "dvc.lock", "params.yaml", "settings.json")
    owner.run(str(warm.path), "-m", "ppvit.cli", "pull", "finetune", "evaluate")
    assert stages_run(owner.dvc("repro", "verify")) == ["verify"]

    # what the owner measured then goes the same way
    owner.git("commit", "-qam", "verified")
    owner.dvc("push")
    assert found(tmp_path / "remote") == set()
    assert found_in_git(owner) == set()


ELSEWHERE = ("/srv/tumour", "../tumour", "data/tumour", "data/local/../x", "data/local", "~/x")


@pytest.mark.parametrize("path", ELSEWHERE)
@pytest.mark.parametrize("parameter", ["dataset.path", "model.checkpoint"])
def test_paths_that_git_would_carry_are_refused_before_anything_is_written(tmp_path, parameter, path, monkeypatch):
    from ppvit.core.errors import UsageError
    from ppvit.pipeline.settings import write_settings

    section, name = parameter.split(".")
    where = "models" if section == "model" else "data"
    path = path.replace("data/", f"{where}/")
    monkeypatch.chdir(tmp_path)
    Path(f"{where}/local/own/deeper.tar").mkdir(parents=True)
    Path(f"{where}/local/own/deeper.tar/any").touch()
    for own in (f"{where}/none", f"{where}/local/own", f"{where}/local/own/deeper.tar"):
        takes = {"name": "mnist"} if name == "path" else {}  # digits take no path
        write_settings(make_config(**{section: {**takes, name: own}}), tmp_path / "settings.json")
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(UsageError, match=rf"\(ln -s /srv/my\.brain\.tar\.gz {where}/local/own\.tar\.gz\)"):
        write_settings(make_config(**{section: {name: "/srv/my.brain.tar.gz"}}), tmp_path / "settings.json")
    with pytest.raises(UsageError) as spaced:
        write_settings(make_config(**{section: {name: "/srv/my brain"}}), tmp_path / "settings.json")
    command = re.search(r"\((ln .*)\) and set", str(spaced.value))
    assert command is not None
    assert shlex.split(command[1]) == ["ln", "-s", "/srv/my brain", f"{where}/local/own"]
    remedy = rf"{parameter} {re.escape(path)} would stand in params\.yaml.*set {parameter}={where}/local/own$"
    with pytest.raises(UsageError, match=remedy):
        write_settings(make_config(**{section: {name: path}}), tmp_path / "settings.json")
    assert (tmp_path / "settings.json").read_bytes() == before
