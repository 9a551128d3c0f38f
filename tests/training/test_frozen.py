"""Features computed once: the bits of training on images, whole or absent, bounded, for nothing that changes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_finetune import changed, make_world, places_of, train

from ppvit.core.kept import FOLDER
from ppvit.core.scratch import scratch_folder
from ppvit.evaluation.shards import score_shards
from ppvit.models import features

LINEAR = {"method": "linear", "epochs": 3, "batch_size": 8, "dropout": 0.0, "target_modules": []}
VARIES = ("images_per_second",)


def kept() -> list[Path]:
    return sorted((scratch_folder() / FOLDER).glob("*"))


def run(folder: Path, config, name: str, keep: bool, monkeypatch) -> tuple[dict, dict, dict]:
    """Measured values, trained weights and scores of a run that may keep features, or may not."""
    monkeypatch.setenv("PPVIT_KEPT_GIB", "1" if keep else "0")
    values = {key: value for key, value in train(folder, config, name).items() if key not in VARIES}
    places = places_of(folder, name)
    scores = score_shards(places.encrypted, places.adapted, places.finetuned).summary()
    return values, load_file(places.finetuned / "model.safetensors"), scores


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder, **LINEAR)


@pytest.fixture
def forward_passes(monkeypatch):
    """Sizes of batches of which features are computed."""
    seen = []
    real = features.Frozen.features
    monkeypatch.setattr(features.Frozen, "features", lambda self, x: seen.append(len(x)) or real(self, x))
    return seen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 7},
        {"batch_size": 1, "epochs": 1},
        {"accumulation": 3, "optimizer": "sgd"},
        {"precision": "bf16"},
        {"track_test": True, "select": "best", "gradient_clip": 0.0, "label_smoothing": 0.1},
    ],
)
def test_training_and_scores_have_the_bits_of_a_run_without(world, settings, monkeypatch):
    folder, config = world
    if settings.get("epochs") == 1:
        settings = {**settings, "epochs": 2}
    config = changed(config, **settings)
    plain = run(folder, config, "plain", False, monkeypatch)
    assert not kept()
    for name in ("first", "again"):
        values, weights, scores = run(folder, config, name, True, monkeypatch)
        assert (values, scores) == (plain[0], plain[2])
        assert weights.keys() == plain[1].keys()
        assert all(torch.equal(weights[key], plain[1][key]) for key in weights)
    assert kept()
