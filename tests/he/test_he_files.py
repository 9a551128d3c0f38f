"""What the parties find in their folders: old runs, other parameters, damage, dishonest weights, a signal to stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import make_config, write_raw
from safetensors.numpy import load_file
from test_he import weight_slots
from test_he_parties import configured, places_with
from typer.testing import CliRunner

from ppvit.cli.command import app
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import write_json
from ppvit.he.parties import head, owner
from ppvit.he.parties.folders import OwnersFiles, id_of_data, read_plan, weights_name, write_manifest
from ppvit.he.parties.trainer import run as run_trainer
from ppvit.he.tiles import plan as tiles_plan
from ppvit.he.volley_revolver import plan as published

pytest.importorskip("tenseal")


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folders of a run of one iteration, all in this process."""
    root = tmp_path_factory.mktemp("trained")
    write_raw(root / "raw", {"train": 90, "test": 30})
    parties = (places_with(root, root / "raw"), OwnersFiles(root / "owner"), root / "trainer")
    owner.make_keys(configured(iterations=1), *parties)
    owner.encrypt(configured(iterations=1), *parties)
    run_trainer(root / "trainer")
    return root


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    for name in ("owner", "trainer"):
        shutil.copytree(trained / name, tmp_path / name)
    (tmp_path / "raw").symlink_to(trained / "raw")
    return tmp_path


def decrypt(root: Path, raw: Path | None = None, **sections: dict) -> dict:
    config = configured(iterations=1)
    updated = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    places = places_with(root, raw or root / "raw")
    head.run(config.model_copy(update=updated), places, OwnersFiles(root / "owner"), root / "trainer")
    result, times = ((root / "results" / name / "he.json").read_text() for name in ("", "times"))
    return {**json.loads(result, parse_constant=pytest.fail), **json.loads(times, parse_constant=pytest.fail)["he"]}


def test_folders_of_others_are_never_replaced(tmp_path, capsys):
    raw = write_raw(tmp_path / "raw", {"train": 30, "test": 6})
    mine = tmp_path / "photographs"
    mine.mkdir()
    (mine / "a.jpg").write_text("dear")
    config = configured(train_images=30, iterations=1)
    places = places_with(tmp_path, raw)
    for folders in ((mine, tmp_path / "trainer"), (tmp_path / "owner", mine), (mine / "a.jpg", tmp_path / "trainer")):
        with pytest.raises(UsageError, match=r"has not made it \(it has no plan.json\); name another folder or remove"):
            owner.make_keys(config, places, OwnersFiles(folders[0]), folders[1])
    assert (mine / "a.jpg").read_text() == "dear"
    for folder in ("owner", "trainer"):
        (tmp_path / folder).mkdir()  # empty ones may be
    owner.make_keys(config, places, OwnersFiles(tmp_path / "owner"), tmp_path / "trainer")
    first = read_plan(tmp_path / "owner")[1]
    told = capsys.readouterr()
    assert told.err == ""
    assert "the trainer will take about " in told.out
    assert told.out.count("MiB") == 3
    assert told.out.count("\n") == 1
    owner.make_keys(config, places, OwnersFiles(tmp_path / "owner"), tmp_path / "trainer")
    told = capsys.readouterr().err
    assert f"took the place of {first}; what that key encrypted is lost" in told
    assert told.count("\n") == 1


def test_owners_folder_is_for_the_owner_alone(trained):
    assert (trained / "owner").stat().st_mode & 0o777 == 0o700
    for name in ("secret.key", "kept.safetensors"):
        assert (trained / "owner" / name).stat().st_mode & 0o777 == 0o600


def test_a_trainer_on_this_machine_is_refused_before_keys_are_made(trained, tmp_path):
    parties = (places_with(tmp_path, trained / "raw"), OwnersFiles(tmp_path / "owner"), tmp_path / "trainer")
    with pytest.raises(PpvitError, match="MiB of memory and 1 MiB are free"):
        owner.make_keys(configured(), *parties, memory=2**20)
    assert not (tmp_path / "owner").exists()
    owner.make_keys(configured(), *parties)  # the trainer is elsewhere
    assert (tmp_path / "trainer" / "keys").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": {"image_size": 8}}, "dataset.image_size is 8, at ppvit he encrypt it was 16"),
        ({"he": {"features": "grey"}}, "he.features is 'grey', at ppvit he encrypt it was 'pixels'"),
        ({"dataset": {"name": "cifar10"}}, "dataset.name is 'cifar10'"),
        ({"encrypt": {"crop": "pad"}}, "encrypt.crop is 'pad'"),
    ],
)
def test_decrypt_refuses_other_features_than_those_of_encrypt(copy, change, told):
    with pytest.raises(UsageError, match=told):
        decrypt(copy, **change)


def test_decrypt_refuses_another_backbone(copy):
    record = json.loads((copy / "owner" / "encrypt.json").read_text())
    record["settings"] |= {
        "he.features": "backbone",
        "model.name": "resnet18",
        "model.checkpoint": "",
        "model.pretrained": True,
    }
    write_json(copy / "owner" / "encrypt.json", record)
    with pytest.raises(UsageError, match="model.name is 'vit_micro_patch4_32', at ppvit he encrypt it was 'resnet18'"):
        decrypt(copy, he={"features": "backbone"})


def test_decrypt_refuses_another_data_set_of_the_same_name(copy):
    raw = write_raw(copy / "other", {"train": 90, "test": 30}, classes=5)
    with pytest.raises(PpvitError, match="5 classes or more, training had 768 and 3: it is another data set"):
        decrypt(copy, raw)


@pytest.mark.parametrize("field", ["train_seconds", "key_switches", "memory_bytes"])
@pytest.mark.parametrize(
    "value", [None, "fast", True, float("nan"), float("inf"), -1, 10**18, 10**400], ids=lambda value: str(value)[:6]
)
def test_a_trainers_record_without_figures_is_told(copy, field, value):
    path = copy / "trainer" / "weights" / "training.json"
    record = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(record))
    write_manifest(path.parent, read_plan(copy / "owner")[1], data=id_of_data(copy / "trainer" / "data"))
    with pytest.raises(PpvitError, match=r"^[^\n]*training.json[^\n]*(again)[^\n]*$") as told:
        decrypt(copy)
    assert field in str(told.value) or "no number" in str(told.value) or "digits" in str(told.value)


def test_honest_weights_pass_and_dishonest_ones_are_warned_of(copy, capsys):
    assert decrypt(copy)["max_weight_error"] < 5e-3
    assert "warning" not in capsys.readouterr().err
    algorithm, fingerprint = read_plan(copy / "owner")
    plan = algorithm.plan
    session = owner.open_session(OwnersFiles(copy / "owner"), plan, fingerprint)
    weights = load_file(copy / "owner" / "kept.safetensors")["twin_weights"][::-1]  # classes changed round
    for block in range(plan.blocks):
        session.save(
            session.encrypt(weight_slots(plan, weights, block)), copy / "trainer/weights" / weights_name(block)
        )
    write_manifest(copy / "trainer" / "weights", fingerprint, data=id_of_data(copy / "trainer" / "data"))
    assert decrypt(copy)["max_weight_error"] > 0.01
    told = capsys.readouterr().err
    assert told.startswith("warning: max_weight_error ")
    assert "a damaged or dishonest training" in told
    assert told.count("\n") == 1


def test_weights_that_are_no_numbers_are_refused(copy, monkeypatch):
    plan = read_plan(copy / "owner")[0].plan
    nothing = np.full((plan.classes, plan.columns), np.nan)
    monkeypatch.setattr("ppvit.he.parties.owner.decrypt", lambda *_: nothing)
    with pytest.raises(PpvitError, match="damaged or dishonest"):
        decrypt(copy)
    assert not (copy / "results" / "he.json").exists()


GOOD = tiles_plan.make_plan(90, 7, 3, 2).as_record()
PUBLISHED = published.make_plan(9, 7, 3, 2).as_record()


@pytest.mark.parametrize(
    "bad",
    [None, [], {}, GOOD | {"tile": 0}, GOOD | {"iterations": 3}, GOOD | {"iterations": 0}, GOOD | {"images": "9"},
     GOOD | {"learning_rate": 0}, GOOD | {"mode": "x"}, GOOD | {"loss": "x"}, GOOD | {"prime_bits": 3},
     GOOD | {"batch": 1000}, GOOD | {"more": 0}, GOOD | {"l2": "x"}, GOOD | {"prime_bits": [30, 30]}],
)  # fmt: skip
def test_plans_that_cannot_be_are_told(bad):
    assert tiles_plan.read_plan(json.loads(json.dumps(GOOD)), "plan.json") == tiles_plan.make_plan(90, 7, 3, 2)
    with pytest.raises(PpvitError, match=r"^plan.json.*make it again: ppvit he keys$"):
        tiles_plan.read_plan(bad, "plan.json")


@pytest.mark.parametrize(
    "bad", [None, {}, PUBLISHED | {"images": 0}, PUBLISHED | {"columns": 2.5}, PUBLISHED | {"iterations": 9}]
)
def test_published_plans_that_cannot_be_are_told(bad):
    assert published.read_plan(PUBLISHED, "plan.json").as_record() == PUBLISHED
    with pytest.raises(PpvitError, match=r"^plan.json.*make it again: ppvit he keys$"):
        published.read_plan(bad, "plan.json")


def test_plan_files_without_their_fields_are_told(copy):
    path = copy / "trainer" / "plan.json"
    record = json.loads(path.read_text())
    for name in ("plan", "fingerprint"):
        write_json(path, {key: value for key, value in record.items() if key != name})
        with pytest.raises(PpvitError, match=f"plan.json: '{name}' is missing; make it again: .*ppvit he keys"):
            run_trainer(copy / "trainer")


class Owner(threading.Thread):
    """``ppvit he refresh`` beside the trainer."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self._root, self.answered = root, -1
        self.start()

    def run(self) -> None:
        self.answered = owner.refresh(OwnersFiles(self._root / "owner"), self._root / "trainer")


def test_that_nothing_is_to_be_refreshed_is_said(copy):
    folders = ["--owner", str(copy / "owner"), "--trainer", str(copy / "trainer")]
    done = CliRunner().invoke(app, ["he", "refresh", *folders])
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith("nothing was refreshed: with he.mode=levelled")


def test_training_with_refresh_runs_again_whoever_starts_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PPVIT_HE_WAIT", "60")
    config = make_config(
        dataset={"image_size": 8},
        he={"features": "grey", "components": 3, "train_images": 30, "mode": "refresh", "iterations": 3},
    )
    raw = write_raw(tmp_path / "raw", {"train": 30, "test": 6}, size=8)
    parties = (places_with(tmp_path, raw), OwnersFiles(tmp_path / "owner"), tmp_path / "trainer")
    owner.make_keys(config, *parties)
    owner.encrypt(config, *parties)
    first = Owner(tmp_path)
    run_trainer(tmp_path / "trainer")
    first.join(30)
    assert first.answered == 2

    # the owner first: neither old weights nor old answers end or mislead it
    second = Owner(tmp_path)
    time.sleep(0.5)
    assert second.is_alive()
    run_trainer(tmp_path / "trainer")
    second.join(30)
    assert second.answered == 2

    # a trainer that was killed on its way: a folder without a request, and a request that nobody will fetch
    (run,) = (tmp_path / "trainer" / "refresh").iterdir()
    (run / "000002" / ".request.partial").mkdir(parents=True)
    shutil.rmtree(run / "000001" / "answer")
    shutil.rmtree(tmp_path / "trainer" / "weights")
    third = threading.Thread(target=run_trainer, args=(tmp_path / "trainer",), daemon=True)
    third.start()
    deadline = time.monotonic() + 30
    while run.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    helper = Owner(tmp_path)
    third.join(30)
    helper.join(30)
    assert not third.is_alive()
    assert helper.answered == 2
    assert (tmp_path / "trainer" / "weights" / "manifest.json").exists()


@pytest.mark.long
def test_a_stage_that_is_told_to_stop_leaves_neither_secret_nor_process(trained, tmp_path):
    config = configured(mode="refresh", iterations=1000, learning_rate=1e-4)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "from pathlib import Path; from ppvit import config; from ppvit.places import Places; "
        f"from ppvit.verbs import he; c = config.load(); he.run(c, Places.of(c, raw=Path({str(trained / 'raw')!r})))"
    )
    environment = {**os.environ, "TMPDIR": str(scratch), "PPVIT_WORKERS": "2"}
    stage = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while not list(scratch.glob("*/trainer/refresh/*/000001/answer")):
        assert stage.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [path.name for path in scratch.rglob("*") if path.name in ("secret.key", "kept.safetensors")] == []
    stage.send_signal(signal.SIGTERM)
    assert stage.wait(60) == 128 + signal.SIGTERM
    assert not list(scratch.iterdir())
    ours = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, str(scratch))]
    assert not ours


def _mentions(path: Path, text: str) -> bool:
    try:
        return text in path.read_text()
    except OSError:
        return False
