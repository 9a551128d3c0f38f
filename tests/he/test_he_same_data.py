"""What comes back is of the data that the owner encrypted last, whatever key both have; else it is refused."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_config, write_raw
from test_he_parties import PRETRAINED, configured, measured, places_with

from ppvit.config import Config
from ppvit.core.errors import PpvitError
from ppvit.core.files import write_json
from ppvit.he.parties import head, owner
from ppvit.he.parties.features import backbone_of, extract, fit_whitening
from ppvit.he.parties.folders import OwnersFiles, id_of_data, read_plan, write_manifest
from ppvit.he.parties.kept import Kept
from ppvit.he.parties.trainer import run as run_trainer

pytest.importorskip("tenseal")


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "1")


def seeded(seed: int) -> Config:
    config = configured(iterations=1)
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"seed": seed})})


def parties(root: Path, raw: str = "raw") -> tuple:
    return places_with(root, root / raw), OwnersFiles(root / "owner"), root / "trainer"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run up to `train`, and raw images of another data set with the same classes and sizes."""
    root = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate(("raw", "other")):
        write_raw(root / name, {"train": 90, "test": 30}, seed=seed)
    owner.make_keys(seeded(0), *parties(root))
    owner.encrypt(seeded(0), *parties(root))
    run_trainer(root / "trainer")
    return root


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    for name in ("owner", "trainer", "raw", "other"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


def refused(root: Path, config: Config, raw: str = "raw") -> str:
    with pytest.raises(PpvitError) as caught:
        head.run(config, *parties(root, raw))
    told = str(caught.value)
    assert "\n" not in told
    assert not (root / "models" / "he").exists()
    assert not (root / "results" / "he.json").exists()
    return told


@pytest.mark.parametrize(("seed", "raw"), [(0, "raw"), (1, "raw"), (0, "other")], ids=["same", "seed", "images"])
def test_weights_of_an_earlier_encryption_are_refused(trained, copy, seed, raw):
    """The key is the same; in the first case settings and images are too, and only the ciphertexts are others."""
    owner.encrypt(seeded(seed), *parties(copy, raw))
    before, now = id_of_data(trained / "trainer" / "data"), id_of_data(copy / "trainer" / "data")
    weights = copy / "trainer" / "weights"
    shutil.copytree(trained / "trainer" / "weights", weights)  # they come back late
    told = refused(copy, seeded(seed), raw)
    assert told.startswith(f"{weights} is of {before}, {copy / 'owner' / 'encrypt.json'} of {now}: ")
    assert told.endswith(" or train again: ppvit he train")
    run_trainer(copy / "trainer")  # the remedy
    head.run(seeded(seed), *parties(copy, raw))
    assert measured(copy)["max_weight_error"] < 5e-3


def test_a_trainers_folder_that_came_back_whole_over_newer_data_takes_another_encryption(trained, copy):
    owner.encrypt(seeded(1), *parties(copy))
    shutil.rmtree(copy / "trainer")
    shutil.copytree(trained / "trainer", copy / "trainer")
    assert refused(copy, seeded(1)).endswith(" or encrypt and train again: ppvit he encrypt")


def test_weights_that_name_no_data_are_refused(copy):
    write_manifest(copy / "trainer" / "weights", read_plan(copy / "owner")[1])
    assert "weights is of data that it does not name, " in refused(copy, seeded(0))


@pytest.mark.parametrize("name", ["kept.safetensors", "encrypt.json"])
def test_an_encryption_that_was_ended_on_its_way_is_told(trained, copy, name):
    """One of the owner's two files is still of the encryption before."""
    owner.encrypt(seeded(1), *parties(copy))
    run_trainer(copy / "trainer")
    shutil.copy(trained / "owner" / name, copy / "owner" / name)
    told = refused(copy, seeded(int(name != "encrypt.json")))
    assert told.startswith(str(copy / "owner" / "kept.safetensors"))
    assert told.endswith("run ppvit he encrypt again")


def test_other_images_than_those_of_encrypt_are_refused_at_decrypt(copy):
    told = refused(copy, seeded(0), "other")
    assert told.startswith(f"{copy / 'other'} is another data set than at ppvit he encrypt")
    assert told.endswith("decrypt with those of encrypt, or encrypt and train again")


def test_another_backbone_than_that_of_encrypt_is_refused_at_decrypt(tmp_path):
    config = make_config(he={"features": "backbone"})
    places = places_with(tmp_path, write_raw(tmp_path / "raw", {"train": 12, "test": 6}, size=32))
    backbone = backbone_of(config, PRETRAINED)
    features, labels = extract(config, places.raw, "train", 12, backbone)
    whitening = fit_whitening(features, 4)
    kept = Kept(
        whitening, np.zeros((3, 5)), whitening(features), labels, "data-" + "0" * 16, np.zeros((0, 5)), labels[:0]
    )
    head._require_same_features(config, places, kept, backbone)
    with torch.no_grad():
        for weights in backbone.model.parameters():
            weights += 0.1 * weights.std() * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(PpvitError, match=f"another data set, or {PRETRAINED} another backbone than at ppvit he encr"):
        head._require_same_features(config, places, kept, backbone)


def test_encrypt_refuses_a_trainer_with_another_plan_under_the_same_key(copy):
    path = copy / "trainer" / "plan.json"
    record = json.loads(path.read_text())
    record["plan"]["learning_rate"] *= 1.01
    write_json(path, record)
    with pytest.raises(PpvitError, match="trainer belongs to another key or plan than .*; run ppvit he keys again"):
        owner.encrypt(seeded(0), *parties(copy))


def test_refresh_renews_no_weights_of_other_data_and_takes_no_answer_of_others(tmp_path, monkeypatch):
    monkeypatch.setenv("PPVIT_HE_WAIT", "60")
    config = make_config(
        dataset={"image_size": 8},
        he={"features": "grey", "components": 3, "train_images": 30, "mode": "refresh", "iterations": 2},
    )
    write_raw(tmp_path / "raw", {"train": 30, "test": 6}, size=8)
    data, told = tmp_path / "trainer" / "data", []
    owner.make_keys(config, *parties(tmp_path))
    owner.encrypt(config, *parties(tmp_path))
    before = id_of_data(data)
    shutil.copytree(data, tmp_path / "before")
    owner.encrypt(config, *parties(tmp_path))
    now = id_of_data(data)

    def train() -> None:
        try:
            run_trainer(tmp_path / "trainer", tmp_path / "before")
        except PpvitError as error:
            told.append(str(error))

    trainer = threading.Thread(target=train, daemon=True)
    trainer.start()
    with pytest.raises(PpvitError, match=f"request is of {before}, .*encrypt.json of {now}: .* or train again"):
        owner.refresh(*parties(tmp_path)[1:])
    (request,) = (tmp_path / "trainer" / "refresh").glob("*/*/request")
    assert not request.with_name("answer").exists()

    answer = tmp_path / "answer"
    shutil.copytree(request, answer)
    write_manifest(answer, read_plan(tmp_path / "owner")[1], data=now)
    answer.rename(request.with_name("answer"))
    trainer.join(30)
    (only,) = told
    assert f"answer is of {now}, {tmp_path / 'before' / 'manifest.json'} of {before}: " in only
    assert not (tmp_path / "trainer" / "weights").exists()


def test_a_helper_that_waits_learns_of_newer_data(tmp_path, monkeypatch):
    """`refresh` was started before `encrypt` ran again; it renews what is trained on the newer data."""
    monkeypatch.setenv("PPVIT_HE_WAIT", "60")
    config = make_config(
        dataset={"image_size": 8},
        he={"features": "grey", "components": 3, "train_images": 30, "mode": "refresh", "iterations": 2},
    )
    write_raw(tmp_path / "raw", {"train": 30, "test": 6}, size=8)
    owner.make_keys(config, *parties(tmp_path))
    owner.encrypt(config, *parties(tmp_path))
    answered: list[int] = []
    helper = threading.Thread(target=lambda: answered.append(owner.refresh(*parties(tmp_path)[1:])), daemon=True)
    helper.start()
    time.sleep(0.2)
    owner.encrypt(config, *parties(tmp_path))
    run_trainer(tmp_path / "trainer")
    helper.join(30)
    assert answered == [1]
    head.run(config, *parties(tmp_path))
