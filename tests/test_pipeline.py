"""The pipeline with real DVC: what reruns, what does not, who needs what, and what leaves the owner's machine."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import warm_python
import yaml
from conftest import make_config
from imports import ROOT
from PIL import Image
from repository import copy_repository
from warm_python import WarmPython

from ppvit.ciphers import keys
from ppvit.ciphers.stream import KeyStream

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
QUICK = {
    "dataset": {"train_fraction": 0.1, "val_fraction": 0.1},
    "finetune": {"epochs": 1, "rank": 2, "target_modules": ["attn.qkv"]},
    "robustness": {"attack": "pgd", "images": 2, "epsilons": [32.0]},
    "verify": {"wrong_keys": 1},
    "he": {"features": "pixels", "train_images": 64, "components": 12},
    "audit": {"known_pairs": [1], "pooled_images": [1], "images": 2, "candidates": 4, "training_steps": 2},
    "threats": {"images": 2, "surrogate_images": 20, "queries": 2},
}


class Project:
    """A copy of this repository with its own git, keyring and scratch folder."""

    def __init__(self, root: Path, keyring: Path, python: Path) -> None:
        self.root, self.python = root, python
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # DVC's queue starts `dvc` by name
            "PPVIT_PYTHON": str(python),
            "PPVIT_KEYRING": str(keyring),
            "PPVIT_SCRATCH": str(root.parent / f"{root.name}-scratch"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@example.com",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@example.com",
        }

    def run(self, *command: str, code: int = 0, **environment: str) -> str:
        """Run a command in the project; returns stdout and stderr."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**self._environment, **environment},
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def dvc(self, *arguments: str, code: int = 0, **environment: str) -> str:
        return self.run(str(self.python), "-m", "dvc", *arguments, code=code, **environment)

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "state")

    def result(self, stage: str) -> dict:
        return json.loads((self.root / "results" / f"{stage}.json").read_text())

    def times(self, stage: str) -> dict:
        return json.loads((self.root / "results" / "times" / f"{stage}.json").read_text())[stage]


def stages_run(output: str) -> list[str]:
    return re.findall(r"^Running stage '(\w+)'", output, re.M)


@pytest.fixture(scope="module")
def owner(tmp_path_factory) -> Project:
    """The owner's clone with a key of its own, all of the pipeline run once, pushed to a local remote."""
    warm, folder = warm_python.shared(), tmp_path_factory.mktemp("pipeline")
    key = keys.generate()
    keys.save(key, folder / "keyring")
    project = repository(folder / "owner", folder / "keyring", warm)
    config = make_config(**QUICK, cipher={"key_id": key.id})
    (project.root / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    project.commit()
    warm.wait()
    project.dvc("remote", "add", "--default", "shared", str(folder / "remote"))
    project.first_output = project.dvc("repro")
    project.commit()
    return project


def repository(root: Path, keyring: Path, warm: WarmPython) -> Project:
    """A copy of what git has of this repository, or would add, under a git of its own without a commit."""
    copy_repository(root)
    project = Project(root, keyring, warm.path)
    project.git("init", "-q", "-b", "main")
    return project


def test_first_run_ends_with_the_summary(owner):
    names = [stage for stage in STAGES if stage != "pretrain"]
    assert sorted(stages_run(owner.first_output)) == sorted(names)
    summary = owner.first_output[owner.first_output.index("Running stage 'report'") :]
    for text in ("accuracy, encrypted and adapted", "trainable parameters", "leak so far", "results/report.html"):
        assert text in summary


def test_second_run_runs_nothing_nor_do_workers_and_log_settings(owner):
    assert stages_run(owner.dvc("repro")) == []
    assert stages_run(owner.dvc("repro", PPVIT_WORKERS="2", ACCELERATE_LOG_LEVEL="info")) == []


def test_results_have_the_promised_names(owner):
    promised = {
        "adapt": {"max_logit_difference_float64", "max_logit_difference_float32"},
        "finetune": {"trainable_parameters", "trainable_parameters_mi"},
        "evaluate": {"accuracy_percent", "cross_entropy", "calibration_error_percent"},
        "verify": {"accuracy_percent", "plain_accuracy_percent", "wrong_key_accuracy_percent"},
        "robustness": {"clean_accuracy_percent", "pgd_accuracy_percent", "headline_accuracy_percent"},
        "threats": {f"k{number}_accuracy_percent" for number in range(1, 5)} | {"headline_accuracy_percent"},
        "audit": {
            "weights_key_recovered_percent",
            "known_plaintext_key_recovered_percent",
            "known_plaintext_ssim",
            "verdict",
        },
        "he": {"accuracy_percent", "twin_accuracy_percent"},
    }
    for stage, names in promised.items():
        assert names <= owner.result(stage).keys()
        assert {"wall_seconds", "peak_memory_bytes", "device", "git_revision", "versions"} <= owner.times(stage).keys()
    assert {"images_per_second"} <= owner.times("finetune").keys()
    assert {"max_weight_error", "train_seconds", "upload_bytes"} <= owner.times("he").keys()
    assert "weights_wall_seconds" in owner.times("audit")
    assert owner.result("adapt")["max_logit_difference_float64"] < 1e-6
    assert owner.result("verify")["accuracy_percent"] == owner.result("evaluate")["accuracy_percent"]
    assert owner.result("verify")["plain_accuracy_percent"] == pytest.approx(
        owner.result("evaluate")["accuracy_percent"], abs=0.3
    )


def test_dvc_shows_the_few_figures_that_experiments_are_compared_by(owner):
    shown = json.loads(owner.dvc("metrics", "show", "--json"))[""]["data"]
    figures = {name: file["data"] for name, file in shown.items() if name.startswith("results/metrics/")}
    assert figures["results/metrics/evaluate.json"]["evaluate"]["accuracy_percent"] > 10
    assert sum(len(values) for file in figures.values() for values in file.values()) <= 25
    assert shown["results/times/seconds.json"]["data"]["seconds"]["finetune"] > 0


def test_a_rerun_with_equal_results_leaves_the_lock_as_it_is(owner):
    """Times and memory differ between reruns, so they must not stand in what DVC hashes."""
    before = (owner.root / "dvc.lock").read_text()
    for stage in ("adapt", "evaluate", "verify", "robustness", "report"):
        assert stages_run(owner.dvc("repro", "--force", "--single-item", stage)) == [stage]
    assert (owner.root / "dvc.lock").read_text() == before


def test_what_no_stage_reads_reruns_nothing(owner):
    unread = ("cipher.token_width=7", "finetune.vector_learning_rate=7", "finetune.momentum=0.5")
    unread += ("adversarial.epsilon=4", "cipher.storage=uint8")
    output = owner.dvc("exp", "run", *(argument for each in unread for argument in ("-S", each)))
    assert stages_run(output) == ["settings"]
    for folder in ("data/local", "models/local"):
        (owner.root / folder / "dropped.tar").write_bytes(b"not for this run")
    assert stages_run(owner.dvc("repro")) == []
    for folder in ("data/local", "models/local"):
        (owner.root / folder / "dropped.tar").unlink()
    owner.git("checkout", "-q", ".")


def test_fewer_test_images_do_not_train_again(owner):
    output = owner.dvc("exp", "run", "-S", "dataset.test_fraction=0.5", "evaluate")
    assert stages_run(output) == ["settings", "encrypt", "evaluate"]
    tracked = owner.dvc("exp", "run", "-S", "finetune.track_test=true", "finetune")
    assert stages_run(tracked) == ["settings", "finetune"]
    again = owner.dvc("exp", "run", "-S", "dataset.test_fraction=0.4", "finetune")  # for a curve that is of them
    assert stages_run(again) == ["settings", "encrypt", "finetune"]
    assert (owner.root / "results/live/plots/metrics/test_accuracy_percent.tsv").exists()
    owner.git("checkout", "-q", ".")
    owner.dvc("checkout")


def test_a_parameter_that_is_missing_is_refused(owner):
    params = owner.root / "params.yaml"
    values = yaml.safe_load(params.read_text())
    del values["finetune"]["rank"]
    params.write_text(yaml.safe_dump(values))
    assert "finetune.rank" in owner.dvc("repro", "settings", code=255)
    owner.git("checkout", "-q", ".")


def test_plots_show_draws_the_tables(owner):
    owner.dvc("plots", "show")
    page = (owner.root / "dvc_plots" / "index.html").read_text()
    assert all(name in page for name in ("confusion", "calibration", "train_loss", "val_loss", "epsilon"))


def test_report_is_one_self_contained_page(owner):
    page = (owner.root / "results" / "report.html").read_text()
    page, scripts = re.subn(r"<script[^>]*>.*?</script>", lambda _: "", page, flags=re.DOTALL)
    assert scripts
    assert not re.search(r"""src=["'](?!data:)""", page)
    assert not re.search(r"""href=["'](?!#|\.\./studies/)""", page)  # a link, which loads nothing
    assert "<script" not in page
    assert owner.result("audit")["verdict"] in page.replace("&#39;", "'")
    assert page.count("<img") >= 5


def test_only_what_changed_reruns(owner):
    changed = owner.dvc("exp", "run", "-S", "finetune.rank=1", "evaluate")
    assert stages_run(changed) == ["settings", "finetune", "evaluate"]
    assert owner.result("finetune")["trainable_parameters"] < 20_000
    other = keys.generate()
    keys.save(other, Path(owner._environment["PPVIT_KEYRING"]))
    changed = owner.dvc("exp", "run", "-S", "finetune.rank=2", "-S", f"cipher.key_id={other.id}", "adapt", "encrypt")
    assert sorted(stages_run(changed)) == ["adapt", "encrypt", "settings"]
    owner.git("checkout", "-q", ".")
    owner.dvc("checkout")
    assert stages_run(owner.dvc("repro")) == []  # back at the start, everything from the cache


def test_queue_runs_a_grid(owner):
    owner.dvc("exp", "run", "--queue", "-S", "cipher.name=shuffle,np", "-S", "dataset.seed=1,2", "encrypt")
    tasks = owner.dvc("queue", "status")
    assert len(re.findall(r"\bQueued\b", tasks)) == 4, tasks
    names = re.findall(r"^[0-9a-f]{7} .*", tasks, re.M)
    owner.dvc("queue", "remove", *(name.split()[0] for name in names[1:3]))  # two are enough to see that they run
    owner.dvc("queue", "start")
    for _ in range(100):
        status = owner.dvc("queue", "status")
        if not re.search(r"\b(Queued|Running)\b", status):
            break
        time.sleep(0.5)
    assert len(re.findall(r"\bSuccess\b", status)) == 2, status


def test_unknown_parameter_is_told_by_dvc(owner):
    output = owner.dvc("exp", "run", "-S", "+finetune.rnk=3", code=255)
    assert "unknown parameter 'finetune.rnk'; did you mean 'rank'?" in output
    owner.git("checkout", "-q", ".")
    owner.dvc("checkout")


def test_own_folder_and_its_changes(owner, tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                place = tmp_path / "own" / split / label / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                shape = (20, 31, 3) if number % 2 else (40, 25)
                Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(place)
    refused = owner.dvc("exp", "run", "-S", f"dataset.path={tmp_path / 'own'}", "encrypt", code=255)
    assert f"(ln -s {tmp_path / 'own'} data/local/own)" in refused
    (owner.root / "data/local/own").symlink_to(tmp_path / "own")
    settings = (
        "-S",
        "dataset.name=imagefolder",
        "-S",
        "dataset.path=data/local/own",
        "-S",
        "dataset.train_fraction=1.0",
    )
    assert stages_run(owner.dvc("exp", "run", *settings, "encrypt")) == ["settings", "download", "encrypt"]
    assert counts(owner) == {"train": 11, "val": 1, "test": 4}
    assert stages_run(owner.dvc("repro", "encrypt")) == []
    Image.new("RGB", (9, 9)).save(tmp_path / "own" / "train" / "cat" / "new.png")
    assert stages_run(owner.dvc("repro", "encrypt")) == ["download", "encrypt"]
    assert counts(owner) == {"train": 12, "val": 1, "test": 4}
    owner.git("checkout", "-q", ".")
    owner.dvc("checkout")


def counts(project: Project) -> dict[str, int]:
    folder = project.root / "data" / "encrypted" / "imagefolder"
    splits = ("train", "val", "test")
    return {split: json.loads((folder / split / "manifest.json").read_text())["count"] for split in splits}


def test_split_trust(owner):
    """A clone with neither key nor plain images trains and evaluates; the owner takes the result back and verifies."""
    owner.dvc("push")
    trainer = Project(owner.root.parent / "trainer", keyring=Path("/nonexistent"), python=owner.python)
    owner.git("clone", "-q", str(owner.root), str(trainer.root))
    output = trainer.dvc("exp", "run", "--pull", "--allow-missing", "-S", "finetune.rank=3", "evaluate")
    assert stages_run(output) == ["settings", "finetune", "evaluate"]
    assert not (trainer.root / "data" / "raw" / "digits").exists()
    assert trainer.result("finetune")["trainable_parameters"] != owner.result("finetune")["trainable_parameters"]
    trainer.commit()
    trainer.dvc("push", "finetune", "evaluate")

    owner.git("pull", "-q", str(trainer.root), "main")
    owner.dvc("pull", "finetune", "evaluate")
    assert stages_run(owner.dvc("repro", "verify")) == ["verify"]
    assert owner.result("verify")["accuracy_percent"] == trainer.result("evaluate")["accuracy_percent"]
    owner.git("reset", "-q", "--hard", "HEAD~1")
    owner.dvc("checkout")


def test_remote_holds_no_plain_image_and_no_key(owner):
    """Every file that a push sends is searched, tar members and all."""
    owner.dvc("push")
    remote = owner.root.parent / "remote"
    plain = [image for split in ("train", "test") for image in _images(owner.root / "data" / "raw" / "digits", split)]
    assert len(plain) == 1797
    pixels = {
        Image.open(io.BytesIO(image)).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC).tobytes()
        for image in plain
    }
    secrets = [
        path.read_text().strip().removeprefix("ppvit-key-v1:")
        for path in Path(owner._environment["PPVIT_KEYRING"]).glob("*.key")
    ]
    files = [path for path in remote.rglob("*") if path.is_file()]
    assert len(files) > 10
    encrypted = 0
    for path in files:
        data = path.read_bytes()
        assert not any(secret.encode() in data for secret in secrets)
        assert not any(image in data for image in plain)
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".png"):
                        encrypted += 1
                        assert Image.open(io.BytesIO(tar.extractfile(member).read())).tobytes() not in pixels
    assert encrypted > 400


def _images(folder: Path, split: str) -> list[bytes]:
    images = []
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            images += [tar.extractfile(member).read() for member in tar if member.name.endswith(".png")]
    return images


def test_no_secret_in_anything_written(owner):
    """Neither the key nor what is derived from it stands in lock file, parameters, results, manifests or models."""
    (key_id,) = {config["key_id"] for config in [yaml.safe_load((owner.root / "params.yaml").read_text())["cipher"]]}
    key = keys.load(key_id, Path(owner._environment["PPVIT_KEYRING"]))
    derived = [
        KeyStream(key, ("block", step, 4, 32)).permutation(size).tolist()
        for step, size in (("scramble", 64), ("shuffle", 48))
    ]
    needles = [key.secret, key.secret.hex().encode(), *(str(values)[1:-1].encode() for values in derived)]
    needles += [str(values)[1:-1].replace(" ", "").encode() for values in derived]
    places = [
        owner.root / name for name in ("dvc.lock", "params.yaml", "results", "models", "data/encrypted", ".dvc/tmp")
    ]
    searched = 0
    for place in places:
        for path in [place] if place.is_file() else [each for each in place.rglob("*") if each.is_file()]:
            data = path.read_bytes()
            searched += 1
            assert not any(needle in data for needle in needles), path
    assert searched > 20
    assert not any(needle in owner.first_output.encode() for needle in needles)
