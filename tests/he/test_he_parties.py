"""The parties of homomorphic training as separate processes: who holds what, and what is told when files are wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_python
import yaml
from conftest import make_config, make_places, read_result, write_raw
from safetensors.numpy import load_file

from ppvit.config import Config, He
from ppvit.core.effort import amount
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.results import read_times
from ppvit.data.plain import PlainImages
from ppvit.evaluation.owner_checks import plain_batches
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.ckks.session import Session
from ppvit.he.parties import effort, owner
from ppvit.he.parties.features import backbone_of, extract
from ppvit.he.parties.folders import OwnersFiles, read_manifest, read_plan, weights_name
from ppvit.he.parties.model import save_model_with_head
from ppvit.he.parties.score import accuracy_percent
from ppvit.he.parties.trainer import run as run_trainer
from ppvit.he.volley_revolver import quadratic_gradient
from ppvit.models import model_input
from ppvit.models.flops import forward_flops
from ppvit.pipeline import STAGES
from ppvit.places import Places
from ppvit.tuners import load_finetuned
from ppvit.verbs import adapt, encrypt, evaluate, he

pytest.importorskip("tenseal")
PRETRAINED = Path(__file__).parents[2] / "models" / "pretrained" / "vit_micro_patch4_32.safetensors"
SETTINGS = {"features": "pixels", "components": 6, "train_images": 90}


def ppvit(*arguments: object, cwd: Path, code: int = 0) -> str:
    command = [warm_python.python(), "-m", "ppvit.cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PPVIT_WORKERS": "1"}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def places_with(root: Path, raw: Path) -> Places:
    """Where these tests have things: raw images, the committed backbone, and what is written into ``root``."""
    return make_places(root, raw=raw, embedded=PRETRAINED)


def measured(root: Path) -> dict:
    """What the stage measured, times and sizes too."""
    return {**read_result(make_places(root), "he"), **read_times(root / "results" / "he.json")}


def configured(**settings: object) -> Config:
    return make_config(dataset={"image_size": 16}, he={**SETTINGS, **settings})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run party by party; while the trainer works, the owner's folder and the raw images are elsewhere."""
    root = tmp_path_factory.mktemp("parties")
    (root / "params.yaml").write_text(yaml.safe_dump(configured().model_dump()))
    write_raw(root / "raw", {"train": 90, "test": 60})
    mine = ("--raw", root / "raw", "--owner", root / "owner", "--trainer", root / "trainer")
    ppvit("he", "keys", *mine, cwd=root)
    ppvit("he", "encrypt", *mine, cwd=root)
    alone = root / "elsewhere"
    alone.mkdir()
    shutil.copytree(root / "trainer", alone / "trainer")
    for name in ("owner", "raw", "trainer", "params.yaml"):
        (root / name).rename(root / f"{name} away")
    ppvit("he", "train", "--trainer", alone / "trainer", cwd=alone)
    for name in ("owner", "raw", "trainer", "params.yaml"):
        (root / f"{name} away").rename(root / name)
    shutil.copytree(alone / "trainer" / "weights", root / "trainer" / "weights")
    ppvit("he", "decrypt", *mine, "--out", root / "models/he", "--results", root / "results", cwd=root)
    return root


def test_trainer_needs_no_secret_and_gives_the_twins_head(finished):
    result = measured(finished)
    assert result["max_weight_error"] < 5e-3
    assert result["accuracy_percent"] == result["twin_accuracy_percent"]
    assert result["accuracy_percent"] > result["chance_percent"] + 40
    assert result["logistic_regression_accuracy_percent"] >= result["accuracy_percent"] - 5
    uploaded = [path.stat().st_size for path in (finished / "trainer" / "data").iterdir()]
    assert result["upload_bytes"] == sum(uploaded) > 100_000
    features, labels = extract(configured(), finished / "raw", "test", 1000, None)
    head = load_file(finished / "models/he/head.safetensors")
    assert accuracy_percent(features @ head["weight"].T + head["bias"], labels) == pytest.approx(
        result["folded_accuracy_percent"]
    )


def test_no_file_of_the_trainer_is_or_holds_the_secret_key(finished):
    secret = (finished / "owner" / "secret.key").read_bytes()
    assert (finished / "owner" / "secret.key").stat().st_mode & 0o777 == 0o600
    algorithm, _ = read_plan(finished / "trainer")
    session = Session(algorithm.plan.parameters)
    session.from_bytes("SecretKey", secret)  # the check below can find one
    files = [path for path in (finished / "trainer").rglob("*") if path.is_file()]
    assert len(files) > 8
    pieces = {secret[start : start + 32] for start in range(64, len(secret) - 32, 4096)}
    for path in files:
        data = path.read_bytes()
        assert not any(piece in data for piece in pieces)
        with pytest.raises(PpvitError):
            session.from_bytes("SecretKey", data)


def test_two_encryptions_of_the_same_differ(finished, tmp_path):
    """Seeds of ciphertexts come from the operating system, never from parameters."""
    algorithm, fingerprint = read_plan(finished / "owner")
    plan = algorithm.plan
    session = owner.open_session(OwnersFiles(finished / "owner"), plan, fingerprint)
    x, labels = np.ones((plan.images, plan.columns)), np.zeros(plan.images, np.int64)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        owner.encrypt_data(session, algorithm, x, labels, tmp_path / name)
    assert all(path.read_bytes() != (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())


def test_wrong_key_is_told_and_gives_chance_when_forced(finished, tmp_path):
    places = places_with(tmp_path, finished / "raw")
    owner.make_keys(configured(), places, OwnersFiles(tmp_path / "owner"), tmp_path / "trainer")
    with pytest.raises(PpvitError, match="keys were mixed up"):
        owner.decrypt(OwnersFiles(tmp_path / "owner"), finished / "trainer", np.zeros((1, 1)))
    algorithm, fingerprint = read_plan(tmp_path / "owner")
    wrong = owner.open_session(OwnersFiles(tmp_path / "owner"), algorithm.plan, fingerprint)
    weights = owner.decrypt_weights(wrong, algorithm, finished / "trainer" / "weights", np.zeros((1, 1)))
    right = owner.decrypt(OwnersFiles(finished / "owner"), finished / "trainer", np.zeros((1, 1)))
    assert np.abs(weights).max() > 4 * np.abs(right).max()  # noise as large as the modulus
    kept = load_file(finished / "owner" / "kept.safetensors")
    features, labels = kept["features"], kept["labels"]
    wrongly = [
        accuracy_percent(features @ random.permutation(weights.ravel()).reshape(weights.shape).T, labels)
        for random in map(np.random.default_rng, range(50))
    ]
    # three classes: one draw of a random head may be lucky, the mean over its rearrangements is chance
    assert np.mean(wrongly) == pytest.approx(100 / 3, abs=8)
    assert accuracy_percent(features @ right.T, labels) > 80
    with pytest.raises(PpvitError, match="keys were mixed up"):
        shutil.copytree(finished / "trainer" / "data", tmp_path / "trainer" / "data")
        run_trainer(tmp_path / "trainer")
    shutil.copy(finished / "owner" / "secret.key", tmp_path / "owner" / "secret.key")
    with pytest.raises(PpvitError, match=r"secret.key is not the key he-"):
        owner.open_session(OwnersFiles(tmp_path / "owner"), algorithm.plan, fingerprint)


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_ciphertext_is_told_in_one_line(finished, tmp_path, damage):
    shutil.copytree(finished / "trainer", tmp_path / "trainer")
    path = next((tmp_path / "trainer" / "data").glob("x-*.ct"))
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[:-7])
    elif damage == "altered":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    told = ppvit("he", "train", "--trainer", tmp_path / "trainer", cwd=tmp_path, code=1)
    assert told.startswith(f"error: {path}")
    assert told.count("\n") == 1
    assert "fetch it again" in told


def test_other_mistakes_are_told(finished, tmp_path):
    places = places_with(tmp_path, finished / "raw")
    with pytest.raises(PpvitError, match="other settings or another data set; run ppvit he keys again"):
        owner.encrypt(configured(iterations=3), places, OwnersFiles(finished / "owner"), finished / "trainer")
    with pytest.raises(UsageError, match="128 bits of security allow"):
        owner.make_keys(configured(iterations=9), places, OwnersFiles(tmp_path / "owner"), tmp_path / "trainer")
    assert not (tmp_path / "owner").exists()
    with pytest.raises(PpvitError, match="plan.json is missing"):
        run_trainer(tmp_path)
    told = ppvit("he", "-S", "he.iterations=3", "train", cwd=finished, code=2)
    assert "write options after the verb: ppvit he train -S name=value" in told
    manifest = finished / "trainer" / "weights" / "manifest.json"
    record = json.loads(manifest.read_text())
    escaping = tmp_path / "weights"
    shutil.copytree(manifest.parent, escaping)
    files = {**record["files"], "../plan.json": "0" * 64}
    (escaping / "manifest.json").write_text(json.dumps({**record, "files": files}))
    with pytest.raises(PpvitError, match=r"names '../plan.json', which does not belong there"):
        read_manifest(escaping, "train", record["fingerprint"], dict.fromkeys(record["files"], 2**20))


def test_the_same_seed_gives_the_same_twin_under_another_key(finished, tmp_path):
    """The owner's half again, and with another seed of the data set: same images, order and twin, or others."""
    kept = {}
    for name, seed in (("again", 0), ("other", 1)):
        config = configured()
        config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"seed": seed})})
        owners = OwnersFiles(tmp_path / name / "owner")
        parties = (places_with(tmp_path, finished / "raw"), owners, tmp_path / name / "trainer")
        owner.make_keys(config, *parties)
        owner.encrypt(config, *parties)
        kept[name] = load_file(tmp_path / name / "owner" / "kept.safetensors")
    arrays = load_file(finished / "owner" / "kept.safetensors")
    assert set(arrays) == set(kept["again"])
    for name, values in arrays.items():
        np.testing.assert_array_equal(kept["again"][name], values)
    assert (kept["other"]["labels"] != arrays["labels"]).any()
    assert (kept["other"]["twin_weights"] != arrays["twin_weights"]).any()
    keys = {(place / "owner" / "secret.key").read_bytes() for place in (finished, tmp_path / "again")}
    assert len(keys) == 2


def test_evaluate_measures_the_head_as_decrypt_did(tmp_path):
    """`ppvit evaluate --finetuned models/he` on plain shards, cipher none."""
    raw = write_raw(tmp_path / "raw", {"train": 24, "test": 21}, size=32)
    config = make_config(cipher={"name": "none"}, he={"train_images": 24, "components": 6})
    places = places_with(tmp_path, raw)
    he.run(config, places)
    encrypt.run(config, places)
    adapt.run(config, places)
    evaluate.run(config, replace(places, finetuned=places.he))
    result = measured(tmp_path)
    assert (
        read_result(places, "evaluate")["accuracy_percent"]
        == result["folded_accuracy_percent"]
        > result["chance_percent"] + 20
    )
    assert result["wall_seconds"] == pytest.approx(
        sum(result[f"{step}_seconds"] for step in ("keys", "encrypt", "train", "decrypt")), abs=0.01
    )
    assert result["peak_memory_bytes"] >= result["trainer_memory_bytes"]


def test_trainer_refuses_what_does_not_fit_its_memory(finished, monkeypatch):
    free = type("Memory", (), {"available": 2**20})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    with pytest.raises(PpvitError, match="MiB of memory and 1 MiB are free; lower he.batch_images"):
        run_trainer(finished / "trainer")


def test_stage_with_refresh_and_mini_batches(finished, tmp_path):
    config = configured(mode="refresh", iterations=3, batch_images=60)
    STAGES["he"].run(config, places_with(tmp_path, finished / "raw"))  # on the values that it reads alone
    result = measured(tmp_path)
    assert result["max_weight_error"] < 5e-3
    assert result["iterations"] == 3
    assert result["accuracy_percent"] > result["chance_percent"] + 40


@pytest.mark.parametrize(
    ("algorithm", "iterations", "start", "ciphertexts", "whole"),
    [
        ("volley_revolver", 1, quadratic_gradient.INITIAL_WEIGHT, 4, 4 * 2 * 16384 * (56 + 9 * 36) // 8),
        ("diagonals", 1, 0.0, 1, 2 * 8192 * (60 + 2 * 40) // 8),
    ],
)
def test_stage_with_the_published_algorithm(algorithm, iterations, start, ciphertexts, whole, tmp_path):
    """The same parties; its arithmetic is `quadratic_gradient` on raw features."""
    config = make_config(
        dataset={"image_size": 8},
        he={"algorithm": algorithm, "features": "grey", "train_images": 8, "iterations": iterations},
    )
    raw = write_raw(tmp_path / "raw", {"train": 8, "test": 30}, size=8)
    he.run(config, places_with(tmp_path, raw))
    result = measured(tmp_path)
    assert (result["algorithm"], result["columns"]) == (algorithm, 65)
    assert (result["ciphertexts"], result["ciphertext_bytes"]) == (ciphertexts, whole)
    assert result["upload_bytes"] < whole  # half of each is a seed
    assert result["max_weight_error"] < 5e-3
    assert result["accuracy_percent"] == result["folded_accuracy_percent"] == result["twin_accuracy_percent"]
    features, labels = extract(config, raw, "train", 8, None)
    expected = quadratic_gradient.train(np.c_[features, np.ones(8)], labels, 3, iterations, start).weights
    head = load_file(tmp_path / "models/he/head.safetensors")
    np.testing.assert_allclose(np.c_[head["weight"], head["bias"]], expected, atol=1e-5)
    assert np.ptp(expected) > 1e-4  # noise teaches little in one step, but more than the tolerance


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"components": 5}, "takes 0 alone; set he.components=0 or he.algorithm=tiles"),
        ({"mode": "refresh"}, "takes levelled alone; set he.mode=levelled"),
        ({"loss": "softmax"}, "takes sigmoid alone; set he.loss=sigmoid"),
        ({"iterations": 4}, "takes 3 at most at 128 bits of security"),
    ],
)
def test_what_the_published_algorithm_does_not_have_is_refused(setting, told):
    with pytest.raises(ValueError, match=told):
        He(algorithm="volley_revolver", **setting)


def test_work_is_told_before_it_begins(finished, monkeypatch):
    """Key switches are those that training then did; features are of all images, train and test."""
    monkeypatch.setattr(SecretSession, "key_switch_seconds", lambda _: 0.5)
    owners = OwnersFiles(finished / "owner")
    algorithm, fingerprint = read_plan(owners.folder)
    session = owner.open_session(owners, algorithm.plan, fingerprint)
    places = places_with(finished, finished / "raw")
    told = effort.told(configured(), places, algorithm, session, None)
    switches = measured(finished)["key_switches"]
    assert switches > 10
    assert (
        told
        == f"he: {switches} key switches in training: at least {round(0.5 * switches / algorithm.processes())} s here"
    )
    config = make_config(he={**SETTINGS, "features": "backbone"})
    backbone = backbone_of(config, PRETRAINED)
    operations = 150 * forward_flops(backbone.model, (3, 32, 32))
    assert f"features of 150 images: about {amount(operations)}, " in effort.told(
        config, places, algorithm, session, backbone
    )


def test_a_key_switch_is_timed(finished):
    owners = OwnersFiles(finished / "owner")
    algorithm, fingerprint = read_plan(owners.folder)
    session = owner.open_session(owners, algorithm.plan, fingerprint)
    assert 1e-5 < session.key_switch_seconds() < 10
    assert (session.key_switches, session.relinearisation) == (0, None)


def test_the_stage_leaves_memory_to_the_owner(finished, tmp_path, monkeypatch):
    algorithm, _ = read_plan(finished / "owner")
    available = algorithm.plan.memory_bytes(algorithm.processes()) + 50 * 2**20
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": available}))
    with pytest.raises(PpvitError, match="MiB are free"):
        he.run(configured(), places_with(tmp_path, finished / "raw"))
    algorithm.require_memory(available)


@pytest.mark.parametrize("signal", [15, 9])
def test_a_trainer_that_is_ended_is_told(signal, finished, tmp_path, monkeypatch):
    """As it ends where it hears the signal, and where it cannot."""

    def ended(command, **options):
        does = "sys.exit(143)" if signal == 15 else "os.kill(os.getpid(), 9)"
        return real([sys.executable, "-c", f"import os, sys; {does}"], **options)

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", ended)
    with pytest.raises(PpvitError, match=f"^the trainer was ended by signal {signal}; "):
        he.run(configured(), places_with(tmp_path, finished / "raw"))


def test_an_owner_that_fails_ends_the_stage_before_the_trainer_starts(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(UsageError, match="9 iterations in mode levelled"):
        he.run(configured(iterations=9), places_with(tmp_path, finished / "raw"))
    assert not (tmp_path / "models/he").exists()


@pytest.mark.parametrize("mode", ["levelled", "refresh"])
def test_a_trainer_that_fails_ends_the_stage_with_one_line(mode, finished, tmp_path, capfd, monkeypatch):
    def lossy(config, places, owners, trainer):
        encrypt(config, places, owners, trainer)
        next((trainer / "data").glob("*.ct")).unlink()
        capfd.readouterr()

    encrypt = owner.encrypt
    monkeypatch.setattr(owner, "encrypt", lossy)
    with pytest.raises(SystemExit, match="1"):
        he.run(configured(mode=mode), places_with(tmp_path, finished / "raw"))
    told = capfd.readouterr().err
    assert told.startswith("error: ")
    assert "is missing" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "models/he").exists()


def test_head_on_its_backbone_is_what_finetune_linear_would_write(tmp_path):
    raw = write_raw(tmp_path / "raw", {"train": 6, "test": 6}, size=32)
    config = make_config()
    backbone = backbone_of(config, PRETRAINED)
    features, labels = extract(config, raw, "test", 6, backbone)
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(3, features.shape[1])), random.normal(size=3)
    folder = tmp_path / "head"
    folder.mkdir()
    save_model_with_head(folder, backbone, weight, bias, 32)
    model = load_finetuned(tmp_path / "unused", folder, 3)
    (images, read_labels), *_ = plain_batches(PlainImages(raw, "test", config.dataset, config.encrypt), None)
    with torch.inference_mode():
        logits = model(model_input(images)).numpy()
    np.testing.assert_allclose(logits, features @ weight.T + bias, atol=1e-3)
    assert (read_labels.numpy() == labels).all()


def test_owner_warns_before_upload_when_scores_leave_the_cubic(finished, tmp_path, capsys):
    config = configured(learning_rate=20.0, iterations=3, mode="refresh")
    parties = (places_with(tmp_path, finished / "raw"), OwnersFiles(tmp_path / "owner"), tmp_path / "trainer")
    owner.make_keys(config, *parties)
    owner.encrypt(config, *parties)
    told = capsys.readouterr().err
    assert "warning: scores reach" in told
    assert "beyond 12 the polynomial leaves the sigmoid" in told


def test_owner_refuses_before_upload_when_training_diverges(finished, tmp_path):
    config = configured(learning_rate=60.0, iterations=8, mode="refresh")
    parties = (places_with(tmp_path, finished / "raw"), OwnersFiles(tmp_path / "owner"), tmp_path / "trainer")
    owner.make_keys(config, *parties)
    with pytest.raises(UsageError, match=r"training diverges: scores reach .*; set he.learning_rate=\d"):
        owner.encrypt(config, *parties)
    assert not (tmp_path / "trainer" / "data").exists()
    assert not (tmp_path / "owner" / "kept.safetensors").exists()


def test_without_tenseal_the_stage_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tenseal", None)
    monkeypatch.setitem(sys.modules, "tenseal.sealapi", None)
    with pytest.raises(PpvitError, match=r"pip install 'ppvit\[he\]'"):
        he.run(make_config(), places_with(tmp_path, tmp_path))


def test_trainers_process_loads_neither_keys_nor_raw_data_nor_torch(finished, tmp_path):
    """The process that the stage starts, after it has trained: it is given a folder, and finds no params.yaml."""
    shutil.copytree(finished / "trainer", tmp_path / "trainer")
    shutil.rmtree(tmp_path / "trainer" / "weights")
    code = (
        "import runpy, sys; sys.argv[1:] = ['trainer'];"
        "runpy.run_module('ppvit.he.parties', run_name='__main__'); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, cwd=tmp_path, text=True, check=True, capture_output=True).stdout.split()
    secret = {
        "ppvit.ciphers.keys",
        "ppvit.ciphers.keyed",
        "ppvit.config",
        "ppvit.he.parties.owner",
        "ppvit.he.parties.features",
        "ppvit.data.encrypted",
        "torch",
    }
    assert "ppvit.he.parties.trainer" in loaded
    assert not secret & set(loaded)
    assert not any(path.name == "secret.key" for path in (tmp_path / "trainer").rglob("*"))
    assert (tmp_path / "trainer" / "weights" / weights_name(0)).exists()
