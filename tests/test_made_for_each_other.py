"""Every verb that takes two artefacts refuses a pair of which one was made with something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_config, tiny_backbone, write_raw
from PIL import Image

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.errors import PpvitError
from ppvit.export import export
from ppvit.models import save_model
from ppvit.pipeline import STAGES
from ppvit.places import Places
from ppvit.verbs import predict

ARTEFACTS = ("raw", "encrypted", "adapted", "finetuned")
# what another run differs in, and what of it is then another
OTHERS = {
    "key": ("encrypted", "adapted", "finetuned"),
    "cipher": ("encrypted", "adapted", "finetuned"),
    "cipher option": ("encrypted", "adapted", "finetuned"),
    "image size": ("encrypted", "adapted", "finetuned"),
    "classes": ("raw", "encrypted", "finetuned"),
    "weights": ("adapted", "finetuned"),
    "crop": ("encrypted", "finetuned"),
    "images": ("raw", "encrypted"),
}
# what each verb takes
VERBS = {
    "finetune": ("encrypted", "adapted"),
    "evaluate": ("encrypted", "adapted", "finetuned"),
    "robustness": ("encrypted", "adapted", "finetuned"),
    "verify": ("raw", "adapted", "finetuned"),
    "audit": ("raw", "encrypted", "adapted", "finetuned"),
    "threats": ("raw", "adapted", "finetuned"),
    "predict": ("raw", "adapted", "finetuned"),
    "export": ("encrypted", "adapted", "finetuned"),
}
# raw images of another data set make another accuracy, which only their own shards could tell from a right one
UNKNOWABLE = {
    ("images", verb, artefact)
    for verb in ("finetune", "evaluate", "robustness", "verify", "threats", "predict", "export")
    for artefact in ("raw", "encrypted")
}
# a model under the key may be trained on any images under it: that is what makes a new run
UNKNOWABLE |= {
    ("classes", "finetune", "encrypted"),
    ("crop", "finetune", "encrypted"),
    ("weights", "finetune", "adapted"),
}
CASES = [
    (other, verb, artefact)
    for other, changed in OTHERS.items()
    for verb, taken in VERBS.items()
    for artefact in taken
    if artefact in changed and (other, verb, artefact) not in UNKNOWABLE
]


def settings(other: str) -> Config:
    key = keys.Key(bytes([other == "key"]) * 32)
    cipher = {"name": "pe", "key_id": key.id, "colour_order": other != "cipher option"}
    return make_config(
        cipher=cipher | ({"name": "block"} if other == "cipher" else {}),
        dataset={"image_size": 32 if other == "image size" else 16},
        encrypt={"crop": "squash" if other == "crop" else "center"},
        finetune={"method": "linear", "epochs": 1, "batch_size": 8},
        robustness={"attack": "pgd", "images": 2, "steps": 4, "epsilons": [8.0]},
        audit={"attacks": ["weights"], "known_pairs": [1], "images": 2, "pooled_images": [1]},
        threats={"images": 2, "surrogate_images": 8, "queries": 1},
        verify={"wrong_keys": 1},
    )


def build(root: Path, other: str) -> Places:
    config = settings(other)
    places = Places.of(config, root=root)
    write_raw(places.raw, {"train": 12, "test": 12}, classes=4 if other == "classes" else 3, seed=other == "images")
    STAGES["encrypt"].run(config, places)
    cipher = load_cipher(config)
    backbone = tiny_backbone(seed=other == "weights", img_size=config.dataset.image_size)
    adapt_model(backbone, cipher, True)
    save_model(places.adapted, backbone, {**cipher.record, "model": config.model.name, "adapted": True})
    for stage in ("finetune", "evaluate"):
        STAGES[stage].run(config, places)
    return places


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Places]:
    """A run, and others each of which differs in one thing."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPVIT_KEYRING", str(folder / "keyring"))
        patch.setenv("PPVIT_SCRATCH", str(folder / "scratch"))
        for number in (0, 1):
            keys.save(keys.Key(bytes([number]) * 32), folder / "keyring", "")
        return {other: build(folder / other.replace(" ", "-"), other) for other in ("same", *OTHERS)}


def take(runs: dict[str, Places], verb: str, root: Path, other: str = "", artefact: str = "") -> None:
    """Run a verb on the artefacts of the run, but one from another run."""
    config = settings("same")
    places = Places.of(config, root=root)
    shutil.copytree(runs["same"].results, places.results)
    for name in ARTEFACTS:
        source = runs[other if name == artefact else "same"]
        shutil.copytree(getattr(source, name), getattr(places, name), dirs_exist_ok=True)
    before = {path for path in root.rglob("*") if path.is_file()}
    try:
        if verb == "predict":
            Image.new("RGB", (16, 16)).save(root / "query.png")
            before.add(root / "query.png")
            predict.run(config, places, [root / "query.png"])
        elif verb == "export":
            export(config, places, root / "hub")
        else:
            STAGES[verb].run(config, places)
    except PpvitError:
        assert {path for path in root.rglob("*") if path.is_file()} == before  # nothing is written
        raise


@pytest.fixture(autouse=True)
def keyring(runs, monkeypatch):
    monkeypatch.setenv("PPVIT_KEYRING", str(runs["same"].results.parent.parent / "keyring"))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("audit", "threats", "robustness")])
def test_what_was_made_for_each_other_works(runs, verb, tmp_path):
    take(runs, verb, tmp_path)


@pytest.mark.parametrize(("other", "verb", "artefact"), CASES, ids=["-".join(case) for case in CASES])
def test_what_was_not_is_refused(runs, other, verb, artefact, tmp_path):
    with pytest.raises(PpvitError) as caught:
        take(runs, verb, tmp_path, other, artefact)
    told = str(caught.value)
    assert "\n" not in told
    assert "dvc repro" in told
    places = Places.of(settings("same"), root=tmp_path)
    named = [name for name in ARTEFACTS if str(getattr(places, name)) in told]
    assert artefact in named or "params.yaml" in told, told
    assert len(named) > 1 or "params.yaml" in told, told  # both sides


def test_the_model_of_he_is_for_plain_images(runs, tmp_path):
    """`evaluate --finetuned models/he` on encrypted shards: the head knows plain features only."""
    from ppvit.he.parties.model import save_model_with_head

    config, backbone = settings("same"), tiny_backbone()
    features = backbone.model.num_features
    save_model_with_head(
        tmp_path, backbone, np.zeros((3, features), np.float32), np.zeros(3, np.float32), config.dataset.image_size
    )
    places = Places.of(config, root=runs["same"].results.parent, finetuned=tmp_path, results=tmp_path / "results")
    with pytest.raises(PpvitError, match=r"digits/test was made with cipher\.key_id pk-.* with None"):
        STAGES["evaluate"].run(config, places)
