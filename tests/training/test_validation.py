"""The validation images choose the epoch, and nothing else does; early ends, resumed runs, several labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_config, tiny_backbone
from sklearn.metrics import log_loss, roc_auc_score
from test_finetune import changed, make_world, places_of, train

from ppvit.ciphers.keyed import load_cipher
from ppvit.core.errors import PpvitError
from ppvit.core.files import write_json
from ppvit.core.reading import sha256_of
from ppvit.data.batches import EncryptedImages
from ppvit.data.images import encode_png
from ppvit.data.shards import SCHEMA, shard_records, write_shard, write_shards
from ppvit.evaluation.ranking import Ranking
from ppvit.models import model_input, save_model
from ppvit.training import checkpoint, finetuning
from ppvit.training import loop as training
from ppvit.training.endings import Diverged
from ppvit.training.loop import make_accelerator
from ppvit.training.selection import Selection
from ppvit.training.validation import Validation, _parts
from ppvit.verbs import encrypt, finetune

ADAPTER = "adapter_model.safetensors"
# at such rates the accuracy on a few images goes up and down: best after 5 epochs of 6, and worse after the third
SETTINGS = {
    "select": "best",
    "epochs": 6,
    "schedule": "constant",
    "warmup_fraction": 0.0,
    "learning_rate": 0.1,
    "dropout": 0.0,
    "seed": 2,
}
FALLS = {**SETTINGS, "learning_rate": 0.2, "seed": 0}


class Script:
    """Figures of one epoch after another, read from a list."""

    def __init__(self, *figures):
        self._figures = list(figures)

    def measure(self, model):
        accuracy, loss = self._figures.pop(0)
        return {"val_accuracy_percent": accuracy, "val_loss": loss}


def selection(*figures, **settings) -> Selection:
    return Selection([Script(*figures)], ("val_accuracy_percent", "val_loss"), **settings)


def epochs_of(chosen: Selection, epochs: int, model=None) -> list[int]:
    """The epoch that is kept after each, with the number of the epoch in the bias of the head."""
    model = model or tiny_backbone().model
    kept = []
    for epoch in range(1, epochs + 1):
        with torch.no_grad():
            model.head.bias.fill_(float(epoch))
        chosen.end_epoch(epoch, model)
        kept.append(chosen.epoch)
    return kept


def test_the_best_figure_is_kept_then_the_lower_loss_then_the_earlier():
    figures = [(50, 1.0), (70, 0.9), (60, 0.1), (70, 0.8), (70, 0.8), (69, 0.0)]
    chosen, model = selection(*figures), tiny_backbone().model
    assert epochs_of(chosen, 6, model) == [1, 2, 2, 4, 4, 4]
    chosen.finish(model)
    assert (model.head.bias == 4).all()


def test_the_last_is_kept_where_that_is_asked_or_nothing_measured():
    for chosen in (selection((50, 1.0), (40, 1.0), select="last"), Selection()):
        model = tiny_backbone().model
        assert epochs_of(chosen, 2, model) == [1, 2]
        chosen.finish(model)
        assert (model.head.bias == 2).all()


@pytest.mark.parametrize("select", ["best", "last"])
def test_patience_counts_epochs_since_the_best(select):
    figures = [(50, 1.0), (60, 1.0), (55, 1.0), (55, 1.0), (61, 1.0), (1, 1.0), (1, 1.0), (1, 1.0)]
    chosen, model = selection(*figures, select=select, patience=3), tiny_backbone().model
    enough = []
    for epoch in range(1, 9):
        chosen.end_epoch(epoch, model)
        enough.append(chosen.enough(epoch))
    assert enough == [False] * 7 + [True]
    assert not Selection(patience=3).enough(100)  # where nothing is measured


def test_figures_are_those_of_another_library(tmp_path):
    config = make_world(tmp_path, val_fraction=0.3)
    images = EncryptedImages(tmp_path / "encrypted", "val")
    model = tiny_backbone(num_classes=3).model.train()
    measured = Validation(images, make_accelerator("fp32")).measure(model)
    assert model.training
    with torch.no_grad():
        logits = model.eval()(model_input(torch.stack([images[index][0] for index in range(len(images))]))).double()
    labels = images.labels()
    assert config.dataset.val_fraction == 0.3
    assert measured["val_accuracy_percent"] == pytest.approx(100 * np.mean(logits.argmax(1).numpy() == labels))
    assert measured["val_loss"] == pytest.approx(
        log_loss(labels, logits.softmax(1).numpy(), labels=[0, 1, 2]), rel=1e-5
    )


@pytest.mark.parametrize(("chosen", "areas"), [("auto", 0), ("balanced_accuracy", 0), ("auroc", 3)])
def test_areas_are_computed_where_they_choose_alone(tmp_path, monkeypatch, chosen, areas):
    """One for each class, which is seconds an epoch where there are a thousand."""
    make_world(tmp_path, val_fraction=0.3)
    images, model = EncryptedImages(tmp_path / "encrypted", "val"), tiny_backbone(num_classes=3).model
    computed, compute = [], Ranking._areas
    monkeypatch.setattr(Ranking, "_areas", lambda self, number: computed.append(number) or compute(self, number))
    validation = Validation(images, make_accelerator("fp32"), chosen)
    measured = validation.measure(model)
    assert len(computed) == areas
    assert {"val_accuracy_percent", "val_loss", validation.figure} == measured.keys()


def test_processes_share_every_batch_and_its_order_comes_back():
    """As gathered by process: rank r has image r, r + world, ..., and whoever would have fewer the first one again."""
    batches = np.split(np.arange(21), [8, 16])
    for world in (1, 2, 3, 5):
        for number, batch in enumerate(batches):
            parts = [torch.from_numpy(_parts(batches, rank, world)[number]) for rank in range(world)]
            gathered = torch.cat(parts).unflatten(0, (world, -1)).transpose(0, 1).flatten(0, 1)
            assert gathered[: len(batch)].tolist() == batch.tolist()


def history_of(folder: Path, config, name: str) -> tuple[dict, list[dict]]:
    history = []
    values = train(folder, config, name, log=lambda _, metrics: history.append(metrics))
    return values, history


def test_the_kept_weights_are_those_of_the_best_epoch_on_val(tmp_path):
    """Training for so many epochs alone gives the same bytes."""
    config = make_world(tmp_path, val_fraction=0.3, **SETTINGS)
    values, history = history_of(tmp_path, config, "whole")
    best = max(range(6), key=lambda epoch: (history[epoch]["val_accuracy_percent"], -history[epoch]["val_loss"]))
    assert values["selected_epoch"] == best + 1 < 6
    assert {name: values[name] for name in history[best] if name.startswith(("train_", "val_"))} == {
        name: value for name, value in history[best].items() if name != "learning_rate"
    }
    assert (values["val_images"], values["epochs"]) == (15, 6)
    train(tmp_path, changed(config, epochs=best + 1, select="last"), "short")
    assert sha256_of(tmp_path / "whole" / ADAPTER) == sha256_of(tmp_path / "short" / ADAPTER)
    last = train(tmp_path, changed(config, select="last"), "last")
    assert last["selected_epoch"] == 6
    assert last["val_loss"] == history[5]["val_loss"]
    assert sha256_of(tmp_path / "last" / ADAPTER) != sha256_of(tmp_path / "whole" / ADAPTER)


def exchange(split: Path) -> None:
    """Other images and other labels in the shards of a split, as many as before."""
    manifest = json.loads((split / "manifest.json").read_text())
    random = np.random.default_rng(99)
    shards = []
    for record in manifest["shards"]:
        labels = random.permutation(record["samples"]) % manifest["num_classes"]
        samples = [
            {"png": encode_png(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)), "cls": str(label).encode()}
            for label in labels
        ]
        shards.append(write_shard(split / record["name"], samples))
    write_json(split / "manifest.json", {**manifest, "shards": shard_records(shards)})


@pytest.mark.parametrize("track_test", [False, True])
def test_test_images_choose_nothing(tmp_path, track_test, monkeypatch):
    """Other test images and labels, other test figures, the same adapter; without track_test they are not even read."""
    config = make_world(tmp_path, val_fraction=0.3, track_test=track_test, patience=3, **SETTINGS)
    opened, images = [], finetuning.EncryptedImages

    def noted(folder, split):
        opened.append(split)
        return images(folder, split)

    monkeypatch.setattr(finetuning, "EncryptedImages", noted)
    values, history = history_of(tmp_path, config, "before")
    assert ("test" in opened) == track_test
    exchange(tmp_path / "encrypted" / "test")
    other_values, other_history = history_of(tmp_path, config, "after")
    assert sha256_of(tmp_path / "before" / ADAPTER) == sha256_of(tmp_path / "after" / ADAPTER)
    passing = ("images_per_second", "attack_time_percent")
    assert {name: value for name, value in values.items() if name not in passing} == {
        name: value for name, value in other_values.items() if name not in passing
    }
    assert not any(name.startswith("test_") for name in values)  # what is measured at the end is for `evaluate` to say
    curves = [[metrics.get("test_loss") for metrics in each] for each in (history, other_history)]
    assert (curves[0] != curves[1]) == track_test
    assert all((loss is not None) == track_test for loss in curves[0])
    exchange(tmp_path / "encrypted" / "val")  # which do choose
    third = history_of(tmp_path, config, "third")[1]
    assert [metrics["val_loss"] for metrics in third] != [metrics["val_loss"] for metrics in history][: len(third)]


def test_measuring_changes_no_weight(tmp_path):
    """Not even the stream of random numbers that dropout takes."""
    config = make_world(tmp_path, val_fraction=0.3, **{**SETTINGS, "dropout": 0.3, "select": "last", "epochs": 2})
    for name, settings in {"plain": {}, "tracked": {"track_test": True}}.items():
        train(tmp_path, changed(config, **settings), name)
    write_empty_val(tmp_path / "encrypted" / "val")
    train(tmp_path, config, "none")
    assert len({sha256_of(tmp_path / name / ADAPTER) for name in ("plain", "tracked", "none")}) == 1


def write_empty_val(split: Path) -> None:
    manifest = json.loads((split / "manifest.json").read_text())
    write_json(split / "manifest.json", {**manifest, "count": 0, "shards": []})


@pytest.mark.parametrize("patience", [0, 1])
def test_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, patience):
    """Stopped in each of the first epochs, with a checkpoint at every step; an early end stays one."""
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    config = make_world(tmp_path, val_fraction=0.3, patience=patience, track_test=True, **FALLS)
    whole, history = history_of(tmp_path, config, "whole")
    step, made = training.Training._optimizer_step, []

    def stopping(self, number):
        step(self, number)
        made.append(number)
        if len(made) in (3, 8, 13):
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_optimizer_step", stopping)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, config, "resumed")
    resumed, again = history_of(tmp_path, config, "resumed")
    assert len(made) == 5 * whole["epochs"] + 3  # 35 images in batches of 8; each stop loses the step not yet saved
    assert again == history
    assert sha256_of(tmp_path / "whole" / ADAPTER) == sha256_of(tmp_path / "resumed" / ADAPTER)
    for name in ("selected_epoch", "epochs", "val_loss", "val_accuracy_percent"):
        assert resumed[name] == whole[name]
    assert whole["epochs"] == (whole["selected_epoch"] + patience if patience else 6)
    assert whole["epochs"] == (3 if patience else 6)


def test_a_run_that_ended_early_is_not_gone_on_with(tmp_path, monkeypatch):
    """Killed after its last epoch, before the result was written."""
    config = make_world(tmp_path, val_fraction=0.3, patience=1, **FALLS)
    monkeypatch.setattr(finetuning.Finetuned, "written", lambda self: None)
    first = train(tmp_path, config, "first")
    monkeypatch.setattr(training.Training, "_optimizer_step", None)  # nothing is trained any more
    second = train(tmp_path, config, "second")
    assert first["epochs"] == second["epochs"] < 6
    assert sha256_of(tmp_path / "first" / ADAPTER) == sha256_of(tmp_path / "second" / ADAPTER)


def test_other_validation_images_start_anew(tmp_path, monkeypatch):
    """What was chosen by others is no part of the result."""
    config = make_world(tmp_path, val_fraction=0.3, **SETTINGS)
    monkeypatch.setattr(finetuning.Finetuned, "written", lambda self: None)
    train(tmp_path, config, "first")
    exchange(tmp_path / "encrypted" / "val")
    made, step = [], training.Training._optimizer_step
    monkeypatch.setattr(training.Training, "_optimizer_step", lambda self, each: (made.append(each), step(self, each)))
    train(tmp_path, config, "second")
    assert len(made) == 6 * 5


def test_without_validation_images_the_last_epoch_is_kept_and_told(tmp_path, capsys):
    config = make_world(tmp_path, **{**SETTINGS, "epochs": 2})
    values = train(tmp_path, config)
    assert (values["selected_epoch"], values["val_images"]) == (2, 0)
    assert "warning: there are no validation images in " in capsys.readouterr().err
    train(tmp_path, changed(config, select="last"))
    assert capsys.readouterr().err == ""
    with pytest.raises(
        PpvitError, match=r"finetune\.patience 2: there are no validation images in .*raise dataset\.val_"
    ):
        train(tmp_path, changed(config, patience=2), "refused")
    assert not (tmp_path / "refused").exists()


def test_the_stage_writes_the_curves(tmp_path):
    config = make_world(tmp_path, val_fraction=0.3, track_test=True, **{**SETTINGS, "epochs": 2})
    places = places_of(tmp_path)
    finetune.run(config, places)
    for name in ("val_accuracy_percent", "val_loss", "test_accuracy_percent", "test_loss", "train_loss"):
        rows = (places.live / "plots/metrics" / f"{name}.tsv").read_text().splitlines()
        assert rows[0] == f"step\t{name}"
        assert [int(row.split("\t")[0]) for row in rows[1:]] == [1, 2]
    result = json.loads((places.results / "finetune.json").read_text())
    assert {"val_accuracy_percent", "selected_epoch"} <= result.keys()


def test_splits_that_were_not_made_alike_are_refused(tmp_path):
    config = make_world(tmp_path, val_fraction=0.3, track_test=True, **SETTINGS)
    for split in ("val", "test"):
        path = tmp_path / "encrypted" / split / "manifest.json"
        before = path.read_text()
        write_json(path, {**json.loads(before), "crop": "pad"})
        with pytest.raises(PpvitError, match=rf"encrypt\.crop.*encrypted/{split} with pad"):
            train(tmp_path, config)
        path.write_text(before)


# --- several labels


def several_labels(folder: Path, carried: np.ndarray, **settings):
    """A world of 40 training and 12 test images with labels (52, C)."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    random, shards = np.random.default_rng(0), {}
    for split, rows in (("train", carried[:40]), ("test", carried[40:])):
        samples = [
            {
                "png": encode_png((random.integers(0, 100, (16, 16, 3)) + 50 * row.sum()).astype(np.uint8)),
                "cls": " ".join(map(str, np.flatnonzero(row))).encode(),
                "txt": b"made",
            }
            for row in rows
        ]
        shards[split] = shard_records(write_shards(raw, split, samples, 64))
    manifest = {"schema": SCHEMA, "name": "raw", "classes": ["a", "b", "c"], "task": "multilabel", "source": "test"}
    write_json(raw / "dataset.json", {**manifest, "counts": {"train": 40, "test": 12}, "shards": shards})
    config = make_config(
        dataset={"image_size": 16, "val_fraction": 0.3}, finetune={**SETTINGS, "batch_size": 8, **settings}
    )
    places = places_of(folder)
    encrypt.run(config, places)
    save_model(places.adapted, tiny_backbone(), load_cipher(config).record)
    return config


def test_logits_that_are_no_numbers_end_training_as_diverged(tmp_path):
    """As a loss does, so that a search passes over such a trial."""
    several_labels(tmp_path, np.random.default_rng(1).random((52, 3)) < [0.5, 0.4, 0.2])
    model = tiny_backbone(num_classes=3).model.eval()
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    validation = Validation(EncryptedImages(tmp_path / "encrypted", "val"), make_accelerator("fp32"))
    with pytest.raises(Diverged, match=r"^the logits of val images are not numbers; lower finetune\.learning_rate"):
        validation.measure(model)


def test_several_labels_are_chosen_by_their_mean_auroc(tmp_path):
    carried = np.random.default_rng(1).random((52, 3)) < [0.5, 0.4, 0.2]
    config = several_labels(tmp_path, carried)
    images = EncryptedImages(tmp_path / "encrypted", "val")
    assert len(images) == 12
    model = tiny_backbone(num_classes=3).model.eval()
    measured = Validation(images, make_accelerator("fp32")).measure(model)
    with torch.no_grad():
        logits = model(model_input(torch.stack([images[index][0] for index in range(12)])))
    labels = images.labels()
    told = [each for each in range(3) if 0 < labels[:, each].sum() < 12]
    areas = [roc_auc_score(labels[:, each], logits[:, each].double().sigmoid()) for each in told]
    assert measured["val_auroc"] == pytest.approx(np.mean(areas), abs=1e-6)
    values, history = history_of(tmp_path, config, "whole")
    best = max(range(6), key=lambda epoch: (history[epoch]["val_auroc"], -history[epoch]["val_loss"]))
    assert values["selected_epoch"] == best + 1
    assert values["val_auroc"] == history[best]["val_auroc"]


def test_labels_that_tell_no_validation_image_from_another_choose_nothing(tmp_path, capsys):
    """Every image carries label 0 and none another, but for two, which stay in training."""
    carried = np.zeros((52, 3), bool)
    carried[:, 0] = True
    carried[[0, 45], 1], carried[[1, 46], 2] = True, True
    config = several_labels(tmp_path, carried, epochs=2)
    values = train(tmp_path, config)
    assert values["selected_epoch"] == 2
    assert "warning: no label tells the validation images apart in " in capsys.readouterr().err
    assert not any(name.startswith("val_") and name != "val_images" for name in values)


# --- the average of weights


def test_an_average_that_is_measured_and_kept_survives_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    settings = {**SETTINGS, "epochs": 3, "learning_rate": 0.02}
    config = make_world(tmp_path, val_fraction=0.3, **settings)
    plain = train(tmp_path, config, "plain")
    config = changed(config, ema_decay=0.8)
    averaged = train(tmp_path, config, "averaged")
    assert averaged["val_loss"] != plain["val_loss"]
    step, made = training.Training._optimizer_step, []

    def stopping(self, number):
        step(self, number)
        made.append(number)
        if len(made) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_optimizer_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, config, "resumed")
    assert train(tmp_path, config, "resumed")["val_loss"] == averaged["val_loss"]
    assert sha256_of(tmp_path / "averaged" / ADAPTER) == sha256_of(tmp_path / "resumed" / ADAPTER)
    assert sha256_of(tmp_path / "averaged" / ADAPTER) != sha256_of(tmp_path / "plain" / ADAPTER)
