"""Fine-tuning: exact batches, exact gradients, resume to the identical result, clear ends."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_python
from conftest import make_config, make_places, read_result, tiny_backbone, write_raw
from hypothesis import given
from hypothesis import strategies as st

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import sha256_of
from ppvit.core.results import read_times
from ppvit.data.batches import epoch_batches
from ppvit.models import save_model
from ppvit.pipeline import STAGES
from ppvit.pipeline.settings import write_settings
from ppvit.places import Places
from ppvit.training.checkpoint import Checkpoint, Extent
from ppvit.training.finetuning import finetune as fine_tune
from ppvit.training.schedule import learning_rate_factor
from ppvit.tuners import save_finetuned
from ppvit.verbs import encrypt, finetune

QUICK = {"epochs": 3, "batch_size": 8, "rank": 2, "dropout": 0.1, "target_modules": ["attn.qkv"]}


def places_of(folder: Path, name: str = "finetuned") -> Places:
    """Places of a world in ``folder``; the model ``name`` and its results lie apart from those of other trainings."""
    inputs = {place: folder / place for place in ("raw", "encrypted", "adapted")}
    return make_places(folder, **inputs, finetuned=folder / name, results=folder / "results" / name)


def make_world(folder: Path, cipher: str = "block", val_fraction: float = 0.0, **settings) -> Config:
    """Shards and adapted model in ``folder``; the configuration that made them."""
    dataset = {"image_size": 16, "val_fraction": val_fraction}
    config = make_config(dataset=dataset, cipher={"name": cipher}, finetune={**QUICK, **settings})
    places = places_of(folder)
    if not places.raw.exists():
        write_raw(places.raw, {"train": 50, "test": 12})
    encrypt.run(config, places)
    backbone, used = tiny_backbone(), load_cipher(config)
    adapt_model(backbone, used)
    save_model(places.adapted, backbone, used.record)
    return config


def changed(config: Config, **settings) -> Config:
    """The same configuration with other values in ``finetune``."""
    return config.model_copy(update={"finetune": config.finetune.model_copy(update=settings)})


def train(folder: Path, config: Config, name: str = "finetuned", log=None) -> dict:
    """What the stage does, without result files and live metrics; returns what it measured."""
    places = places_of(folder, name)
    trained = fine_tune(
        config.finetune, config.adversarial, places.encrypted, places.adapted, log, augment=config.augment
    )
    save_finetuned(trained.tuner, trained.model, places.finetuned, places.adapted, trained.record)
    trained.written()
    return trained.values


def with_tests_on_the_path() -> dict[str, str]:
    """The environment of a process that imports this module."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def world(tmp_path):
    return tmp_path, make_world(tmp_path)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
def test_every_sample_once_an_epoch_over_all_processes(samples, batch_size, world, epoch):
    parts = [epoch_batches(samples, batch_size, 7, epoch, rank, world) for rank in range(world)]
    assert sorted(np.concatenate([batch for part in parts for batch in part]).tolist()) == list(range(samples))
    whole = epoch_batches(samples, batch_size, 7, epoch)
    assert {len(part) for part in parts} == {len(whole)} == {-(-samples // batch_size)}
    for step, batch in enumerate(whole):  # together the processes see the very batches that one would
        assert sorted(np.concatenate([part[step] for part in parts]).tolist()) == sorted(batch.tolist())


def test_epochs_and_seeds_differ():
    first = np.concatenate(epoch_batches(100, 10, 0, 0))
    assert (first != np.concatenate(epoch_batches(100, 10, 0, 1))).any()
    assert (first != np.concatenate(epoch_batches(100, 10, 1, 0))).any()


def test_byte_identical_rerun_and_counts(world):
    folder, config = world
    for name in ("a", "b"):
        finetune.run(config, places_of(folder, name))
    result = read_result(places_of(folder, "a"), "finetune")
    assert result == read_result(places_of(folder, "b"), "finetune")
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md", "ppvit.json"):
        assert sha256_of(folder / "a" / name) == sha256_of(folder / "b" / name)
    # LoRA r (in + out) on two qkv layers of width 24, head 24 * 3 + 3
    assert result["trainable_parameters"] == 2 * 2 * (24 + 72) + 75
    assert result["adapter_bytes"] == sum(path.stat().st_size for path in (folder / "a").iterdir())
    assert read_times(places_of(folder, "a").result("finetune"))["images_per_second"] > 0
    losses = (places_of(folder, "a").live / "plots/metrics/train_loss.tsv").read_text().splitlines()
    assert len(losses) == 1 + config.finetune.epochs  # a header first
    assert float(losses[-1].split("\t")[-1]) == pytest.approx(result["train_loss"])


def test_workers_do_not_change_the_result(world, monkeypatch):
    folder, config = world
    losses = []
    for workers in ("0", "2"):
        monkeypatch.setenv("PPVIT_WORKERS", workers)
        losses.append(train(folder, changed(config, epochs=1))["train_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_accumulated_micro_batches_equal_one_large_batch(tmp_path, optimizer):
    # 50 images: the last effective batch is short, where averaging means of micro-batches would go wrong
    settings = {"dropout": 0.0, "optimizer": optimizer, "learning_rate": 1e-2, "label_smoothing": 0.1}
    large = train(tmp_path, make_world(tmp_path, batch_size=20, **settings))
    small = train(tmp_path, make_world(tmp_path, batch_size=4, accumulation=5, **settings))
    assert small["train_loss"] == pytest.approx(large["train_loss"], rel=1e-4)


@pytest.mark.parametrize("method", ["full", "linear", "melo", "lora_patch", "lora"])
def test_training_on_adapted_ciphertext_equals_training_on_plain(tmp_path, method):
    """The exactness claim carried through training: same seed, same losses."""
    losses = {}
    for cipher in ("none", "block_np"):
        config = make_world(tmp_path, cipher, method=method, dropout=0.0, learning_rate=1e-3, epochs=2)
        losses[cipher] = train(tmp_path, config)["train_loss"]
    assert losses["block_np"] == pytest.approx(losses["none"], rel=1e-3)


def test_killed_run_resumes_to_the_identical_result(tmp_path):
    """SIGKILL in the middle of an epoch, with a checkpoint at every step, twice; then on to the end."""
    config = make_world(tmp_path, epochs=4, drop_path=0.2, ema_decay=0.9, layer_decay=0.7)
    uninterrupted = train(tmp_path, config, "uninterrupted")
    script = (
        "import os, signal, sys, threading, time; from pathlib import Path\n"
        "import ppvit.training.checkpoint as checkpoint, ppvit.training.loop as loop\n"
        "from ppvit.config import Config; from ppvit.verbs import finetune; from test_finetune import places_of\n"
        "checkpoint.SAVE_SECONDS = 0.0\n"
        "step = loop.Training._optimizer_step\n"
        "def slow(self, number):\n"
        "    step(self, number)\n"
        "    print(number, flush=True)\n"
        "    if number == int(sys.argv[3]): threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        "    time.sleep(0.05)\n"
        "loop.Training._optimizer_step = slow\n"
        "finetune.run(Config.model_validate_json(sys.argv[2]), places_of(Path(sys.argv[1]), 'resumed'))\n"
    )
    command = [warm_python.python(), "-c", script, str(tmp_path), config.model_dump_json()]
    steps = []
    for last, code in ((9, 128 + signal.SIGKILL), (17, 128 + signal.SIGKILL), (99, 0)):  # 7 steps an epoch
        done = subprocess.run(
            [*command, str(last)], stdout=subprocess.PIPE, text=True, env=with_tests_on_the_path(), check=False
        )
        assert done.returncode == code
        steps += [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert set(steps) == set(range(28))
    assert len(steps) < 28 + 2 * 3  # it went on, it did not start again
    first, second = (tmp_path / name / "adapter_model.safetensors" for name in ("uninterrupted", "resumed"))
    assert first.read_bytes() == second.read_bytes()
    assert read_result(places_of(tmp_path, "resumed"), "finetune")["train_loss"] == uninterrupted["train_loss"]


def test_resume_replays_the_log_and_changed_settings_start_anew(world, monkeypatch):
    folder, config = world
    seen: list[tuple[int, float]] = []

    def stop_after_two(epoch: int, metrics: dict) -> None:
        seen.append((epoch, metrics["train_loss"]))
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, config, log=stop_after_two)
    before, seen = seen, []
    train(folder, config, log=lambda epoch, metrics: seen.append((epoch, metrics["train_loss"])))
    assert seen[0] == before[0]
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert not list(Path(os.environ["PPVIT_SCRATCH"]).rglob("*.pt"))  # forgotten once the result is there


class Bomb:
    """What a hostile checkpoint may hold: a call."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["BOMB"],)


EXTENT = Extent(epochs=3, steps=4, measures=1)
NO_CHOICE = {"best": [], "epochs": [0, 1], "weights": {}}
NO_PROGRESS = (
    *({"epoch": each} for each in ("1", 10**6, -1, 2, 1.0)),
    *({"step": each} for each in (-5, 4, None)),
    *({"history": [each]} for each in ("x", {"train_loss": "x"}, {"train_loss": math.nan}, 1)),
    *({"sums": each} for each in ([], [1.0, 2.0], [math.inf], ["1"], 5)),
    {"objective": []},
    *({"selection": {**NO_CHOICE, **each}} for each in ({"best": [1.0]}, {"epochs": [0, 2]}, {"epochs": 1})),
    *({"selection": {**NO_CHOICE, "weights": each}} for each in ([], {"weight": torch.zeros(2, 3)})),
    {"selection": None},
    {"average": []},
    *({"average": {"steps": steps, "weights": {"weight": torch.zeros(2, 2)}}} for steps in (0, "1", 1)),
    {"average": {"steps": 1, "weights": {"weight": torch.full((2, 2), math.nan), "bias": torch.zeros(2)}}},
)
PROGRESS = {"epoch": 1, "step": 0, "history": [{"train_loss": 1.0}], "sums": [0.5], "objective": {}, "scaler": None}
PROGRESS |= {"selection": NO_CHOICE, "average": {}}


@pytest.mark.parametrize("damage", ["cut", "bit", "code", "model", "types", "weights", *NO_PROGRESS], ids=str)
def test_checkpoint_that_cannot_be_used_is_told_and_changes_nothing(tmp_path, monkeypatch, capsys, damage):
    monkeypatch.setenv("BOMB", str(tmp_path / "executed"))
    progress = PROGRESS
    trained = torch.nn.Linear(2, 2)
    checkpoint = Checkpoint({"a": 1}, tmp_path)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    checkpoint.save(trained, optimizer, progress)
    assert checkpoint.load(trained, optimizer, EXTENT) == progress
    (path,) = tmp_path.glob("*.pt")
    data, weights = path.read_bytes(), trained.weight.detach().numpy().tobytes()
    if damage == "cut":
        path.write_bytes(data[:-100])
    elif damage == "bit":
        where = data.index(weights)
        path.write_bytes(data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :])
    elif damage == "code":
        torch.save({"model": Bomb()}, path)
    elif damage == "model":
        checkpoint.save(torch.nn.Linear(2, 3), optimizer, progress)
    elif damage == "types":
        checkpoint.save(torch.nn.Linear(2, 2).double(), optimizer, progress)
    elif damage == "weights":
        with torch.no_grad():
            trained.weight[0, 0] = math.nan
        checkpoint.save(trained, optimizer, progress)
    else:
        checkpoint.save(trained, optimizer, {**progress, **damage})
    model = torch.nn.Linear(2, 2)
    mine = torch.optim.SGD(model.parameters(), lr=0.5)
    before, random = model.weight.clone(), torch.get_rng_state()
    assert checkpoint.load(model, mine, EXTENT) is None
    told = capsys.readouterr().err
    assert told.startswith(f"warning: the checkpoint {path} cannot be used (")
    assert told.count("\n") == 1
    assert torch.equal(model.weight, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert mine.param_groups[0]["lr"] == 0.5
    assert not (tmp_path / "executed").exists()


def test_checkpoints_are_due_by_a_clock_that_nobody_sets(tmp_path, monkeypatch):
    checkpoint = Checkpoint({}, tmp_path)
    now, wall = time.monotonic(), time.time()
    for jump in (-1e9, 1e9):
        monkeypatch.setattr("time.time", lambda jump=jump: wall + jump)
        assert not checkpoint.due()
    monkeypatch.setattr("time.monotonic", lambda: now + 61)
    assert checkpoint.due()


def test_runs_that_share_a_checkpoint_do_not_disturb_each_other(tmp_path):
    """Two runs of the same parameters: one ends and forgets it while the other still saves."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    progress = PROGRESS
    first, second = Checkpoint({}, tmp_path), Checkpoint({}, tmp_path)
    first.save(model, optimizer, progress)
    second.save(model, optimizer, progress | {"epoch": 2, "history": 2 * progress["history"]})
    assert first.load(model, optimizer, EXTENT)["epoch"] == 2
    first.remove()
    second.save(model, optimizer, progress | {"epoch": 3})
    second.remove()
    first.remove()
    assert list(tmp_path.iterdir()) == []


def test_loss_that_is_no_number_stops_with_a_clear_error(tmp_path):
    config = make_world(tmp_path, learning_rate=1000.0, optimizer="sgd", gradient_clip=0.0, warmup_fraction=0.0)
    with pytest.raises(
        PpvitError, match=r"the training loss is not a number in epoch 1; lower finetune\.learning_rate"
    ):
        finetune.run(config, places_of(tmp_path))
    assert not (tmp_path / "finetuned").exists()


def test_shards_and_model_of_different_keys_are_refused(world):
    folder, config = world
    record = json.loads((folder / "adapted" / "config.json").read_text())
    record["ppvit"]["key_id"] = "pk-0123456789abcdef"
    (folder / "adapted" / "config.json").write_text(json.dumps(record))
    with pytest.raises(
        PpvitError,
        match=r"encrypted/train was made with cipher\.key_id pk-6a84562a80f3ffa0, .*adapted with pk-0123456789abcdef; "
        "make them again: dvc repro encrypt adapt$",
    ):
        finetune.run(config, places_of(folder))


def test_half_precision_needs_a_gpu(world):
    folder, config = world
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"finetune\.precision fp16 needs a GPU; use bf16 or fp32"):
            train(folder, changed(config, precision="fp16"))


def test_bf16_trains(tmp_path):
    assert train(tmp_path, make_world(tmp_path, precision="bf16"))["train_loss"] < 3


def test_trainer_needs_no_key(world, monkeypatch):
    """No module of the key or the ciphers is loaded, and no keyring is read."""
    folder, config = world
    monkeypatch.setenv("PPVIT_KEYRING", "/nonexistent")
    code = (
        "import sys, ppvit.verbs.finetune, ppvit.verbs.evaluate, ppvit.verbs.tune\n"
        "loaded = {'ppvit.ciphers.keys', 'ppvit.ciphers.keyed', 'ppvit.ciphers', 'cryptography'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
    train(folder, config)


def train_in_two_processes(folder: Path, config: Config, name: str = "two") -> dict:
    """The verb in two processes of torchrun; on a CPU `accelerate launch --num_processes 2` starts one.

    Returns what it measured. Each process ends in an error unless it was one of two.
    """
    code = (
        "import sys; from pathlib import Path; from accelerate import PartialState\n"
        "from ppvit.config import Config; from ppvit.verbs import finetune; from test_finetune import places_of\n"
        "finetune.run(Config.model_validate_json(sys.argv[2]), places_of(Path(sys.argv[1]), sys.argv[3]))\n"
        "assert PartialState().num_processes == 2, 'trained alone'\n"
        "PartialState().destroy_process_group()\n"
    )
    (folder / "two.py").write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += [str(folder / "two.py"), str(folder), config.model_dump_json(), name]
    environment = {**with_tests_on_the_path(), "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return read_result(places_of(folder, name), "finetune")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("step", [0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ("cosine", [0.5, 1] + [0.5 * (1 + np.cos(np.pi * step / 8)) for step in range(8)]),
    ],
)
def test_schedule(schedule, expected):
    settings = make_config(finetune={"schedule": schedule, "warmup_fraction": 0.2}).finetune
    assert [learning_rate_factor(settings, step, 10) for step in range(10)] == pytest.approx(expected)


def test_a_repository_without_a_commit_is_told_at_the_start_and_refused_before_training(tmp_path, monkeypatch, capfd):
    config, places = make_config(), make_places(tmp_path / "work", make_config())
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    subprocess.run(["git", "init", "-q"], check=True)
    write_settings(config)
    assert "note: finetune will stop: this git repository has no commit yet" in capfd.readouterr().err
    with pytest.raises(PpvitError, match=r"no commit yet.*; make one: git add -A && git commit -m \"start\"$"):
        STAGES["finetune"].run(config, places)
    commit = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "start"]
    subprocess.run(commit, check=True)
    write_settings(config)
    assert "no commit" not in capfd.readouterr().err
    with pytest.raises(PpvitError, match="dvc repro encrypt$"):
        STAGES["finetune"].run(config, places)
