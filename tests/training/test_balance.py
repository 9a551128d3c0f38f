"""Rare classes: weights in the loss, balanced sampling, and an epoch chosen by a figure in which they count."""

import csv

import numpy as np
import pytest
import torch
from conftest import read_result, write_raw
from test_finetune import changed, make_world, places_of, train

from ppvit.config import Finetune, checked
from ppvit.core.errors import UsageError
from ppvit.data.batches import EncryptedImages, epoch_batches
from ppvit.models.tasks import MULTICLASS
from ppvit.pipeline import STAGES
from ppvit.training.loop import Training
from ppvit.verbs import finetune


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPVIT_SCRATCH", str(folder / "scratch"))
        write_raw(folder / "raw", {"train": 50, "val": 30, "test": 12})
        yield folder, make_world(folder, learning_rate=1e-2, dropout=0.0)


def test_balanced_weights_are_those_of_the_training_images(world, monkeypatch):
    """One step of plain gradient descent, held against the gradient of the weighted loss by hand."""
    folder, config = world
    config = changed(config, class_weights="balanced", epochs=1, batch_size=64, method="linear")
    labels = torch.from_numpy(EncryptedImages(folder / "encrypted", "train").labels())
    weights = MULTICLASS.balanced_weights(torch.bincount(labels, minlength=3).numpy(), len(labels))
    seen = []
    step = Training._backward

    def watched(self, images, labels, weight, *others):
        before = self._sums.clone()
        step(self, images, labels, weight, *others)
        with torch.no_grad():
            logits = self.model(images.float() / 127.5 - 1).double()
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        seen.append(((weights[labels] * each).sum().item(), (self._sums - before)[0].item()))

    monkeypatch.setattr(Training, "_backward", watched)
    train(folder, config, "weighted")
    ((expected, found),) = seen
    assert found == pytest.approx(expected, rel=1e-4)


def test_balanced_sampling_decides_what_is_seen(world, monkeypatch):
    folder, config = world
    config = changed(config, sampling="balanced", epochs=2)
    dataset = EncryptedImages(folder / "encrypted", "train")
    seen = []
    step = Training._backward

    def watched(self, images, labels, *others):
        seen.append(labels)
        step(self, images, labels, *others)

    monkeypatch.setattr(Training, "_backward", watched)
    train(folder, config, "sampled")
    expected = [
        dataset.labels()[batch]
        for epoch in range(2)
        for batch in epoch_batches(len(dataset), 8, 0, epoch, strata=dataset.labels())
    ]
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate(expected))
    assert np.ptp(np.bincount(np.concatenate(seen[: len(seen) // 2]))) <= 1


@pytest.mark.parametrize("figure", ["auroc", "balanced_accuracy"])
def test_the_epoch_is_the_best_by_the_chosen_figure(world, figure):
    folder, config = world
    places = places_of(folder, figure)
    config = changed(config, select="best", select_by=figure, epochs=4, learning_rate=0.05)
    finetune.run(config, places)
    name = "val_auroc" if figure == "auroc" else "val_balanced_accuracy_percent"

    def curve(name: str) -> list[float]:
        with open(places.live / "plots" / "metrics" / f"{name}.tsv") as file:
            return [float(row[name]) for row in csv.DictReader(file, delimiter="\t")]

    result = read_result(places, "finetune")
    values, losses = curve(name), curve("val_loss")
    best = max(range(4), key=lambda epoch: (values[epoch], -losses[epoch]))
    assert result["selected_epoch"] == best + 1
    assert result[name] == pytest.approx(values[best])
    assert len(curve("val_accuracy_percent")) == 4  # the headline has its curve all the same


def test_what_does_not_choose_reruns_nothing(world):
    _, config = world
    for settings, reads in (
        ({"select": "last"}, False),
        ({"select": "last", "patience": 2}, True),
        ({}, True),  # under auto, who names a figure wants the best epoch by it
        ({"select": "best"}, True),
    ):
        kept = STAGES["finetune"].narrowed(changed(config, select_by="auroc", **settings)).finetune
        assert ("select_by" in kept.model_fields_set) == reads
        assert kept.select_by == ("auroc" if reads else "auto")


def test_names_that_there_are_not_are_refused():
    for name in ("class_weights", "sampling", "select_by"):
        with pytest.raises(UsageError, match=f"parameter '{name}'"):
            checked(Finetune, **{name: "balanced_"})
