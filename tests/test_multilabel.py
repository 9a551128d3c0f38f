"""A data set whose images carry several labels, from shards of the user to the report: two digits side by side."""

import csv
import io
import json
import math
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import make_config, make_places, read_result, tiny_backbone, write_raw
from imports import ROOT
from PIL import Image
from safetensors.numpy import load_file
from sklearn import metrics
from sklearn.datasets import load_digits

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.cli import tools
from ppvit.config import Config, default_yaml
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.data.images import encode_png
from ppvit.data.plain import PlainImages
from ppvit.export import export
from ppvit.he.parties import head
from ppvit.he.parties.features import extract
from ppvit.he.parties.folders import OwnersFiles
from ppvit.he.parties.owner import encrypt, make_keys
from ppvit.he.parties.planning import planned
from ppvit.he.parties.trainer import run as train_on_ciphertexts
from ppvit.he.tiles.plan import make_plan
from ppvit.he.tiles.twin import train
from ppvit.models import model_input, save_model
from ppvit.pipeline import STAGES
from ppvit.places import Places
from ppvit.training.finetuning import finetune
from ppvit.tuners import load_finetuned
from ppvit.verbs import predict, rekey

NAMES = ["has 0", "has 1", "has 2", "has <b>$\\never"]
DIGITS = (0, 1, 2)
STAGES_RUN = ("finetune", "evaluate", "robustness", "verify", "audit", "threats")
COUNTS = {"train": 300, "test": 120}


def pairs(count: int, seed: int) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Two digits side by side, uint8 (n, 16, 16), and which of 0, 1 and 2 are among them."""
    digits = load_digits()
    chosen = np.random.default_rng(seed).integers(len(digits.images), size=(count, 2))
    both = (digits.images[chosen] * 15.9).astype(np.uint8).repeat(2, axis=2)  # (n, 2, 16, 8)
    labels = [tuple(k for k in DIGITS if k in digits.target[pair]) for pair in chosen]
    return np.concatenate([both[:, 0], both[:, 1]], axis=2), labels


def write_shards(folder: Path, **splits: int) -> Path:
    """WebDataset shards as a user has them, and the file that says of the labels what they are."""
    folder.mkdir(parents=True)
    for number, (split, count) in enumerate(splits.items()):
        images, labels = pairs(count, number)
        with tarfile.open(folder / f"{split}-000000.tar", "w") as tar:
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                content = {"png": encode_png(image), "cls": " ".join(map(str, label)).encode()}
                for extension, data in content.items():
                    member = tarfile.TarInfo(f"{index:04d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (folder / "multilabel.txt").write_text("\n".join(NAMES) + "\n")
    return folder


def configured(root: Path, **sections: dict) -> Config:
    return make_config(
        dataset={"name": "webdataset", "path": str(root / "own"), "image_size": 16, **sections.pop("dataset", {})},
        finetune={"method": "full", "epochs": 4, "learning_rate": 3e-3, **sections.pop("finetune", {})},
        audit={"attacks": ["known_plaintext"], "known_pairs": [2], "images": 4},
        robustness={"images": 20},
        **sections,
    )


def prepared(root: Path, config: Config) -> Places:
    """Raw and encrypted shards and an adapted model."""
    places = make_places(root, config)
    for stage in ("download", "encrypt"):
        STAGES[stage].run(config, places)
    backbone, cipher = tiny_backbone(), load_cipher(config)
    measured = adapt_model(backbone, cipher)
    save_model(places.adapted, backbone, {**cipher.record, "model": config.model.name, "adapted": True})
    places.results.mkdir()
    (places.results / "adapt.json").write_text(json.dumps({**measured, "adapted": True}))
    return places


@pytest.fixture(scope="module")
def template(tmp_path_factory, request) -> Path:
    root = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PPVIT_KEYRING", "PPVIT_SCRATCH", "PPVIT_CACHE"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        write_shards(root / "own", **COUNTS)
        config = configured(root)
        places = prepared(root, config)
        patch.setattr("ppvit.audit.collect.backbone_of", lambda *_, **__: tiny_backbone())
        for stage in STAGES_RUN:
            STAGES[stage].run(config, places)
    return root


@pytest.fixture
def world(template, tmp_path):
    shutil.copytree(template, tmp_path / "world", symlinks=True)
    root = tmp_path / "world"
    config = configured(root)
    return config, make_places(root, config)


def logits_and_targets(places: Places) -> tuple[np.ndarray, np.ndarray]:
    """What the fine-tuned model says of every encrypted test image."""
    images = EncryptedImages(places.encrypted, "test")
    model = load_finetuned(places.adapted, places.finetuned, len(NAMES))
    [(batch, targets)] = load_batches(images, [np.arange(len(images))])
    with torch.inference_mode():
        return model(model_input(batch)).double().numpy(), targets.numpy().astype(int)


def test_figures_are_those_of_scikit_learn(world):
    _, places = world
    logits, targets = logits_and_targets(places)
    assert targets.shape == (COUNTS["test"], 4)
    result = read_result(places, "evaluate")
    areas = [metrics.roc_auc_score(targets[:, label], logits[:, label]) for label in range(3)]
    assert result["auroc"] == pytest.approx(np.mean(areas), abs=1e-5)
    assert result["auroc"] > 0.7  # it has learned
    assert result["scored_labels"] == 3
    precision = metrics.average_precision_score(targets[:, :3], logits[:, :3], average="macro")
    assert result["average_precision"] == pytest.approx(precision, abs=1e-5)
    assert result["exact_match_percent"] == pytest.approx(100 * ((logits > 0) == targets).all(1).mean())
    with open(places.plots / "labels.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["positives"]) for row in rows] == targets.sum(0).tolist()
    assert [float(row["auroc"]) for row in rows[:3]] == pytest.approx(areas, abs=1e-5)
    assert rows[3]["auroc"] == ""


def test_every_table_that_dvc_plots_is_there(world):
    _, places = world
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    about = [about for plot in plots for about in plot.values() if "y" in about]  # the others are folders
    columns = [(path, axis) for each in about for path, axis in each["y"].items()]
    assert "results/plots/confusion.csv" in dict(columns)
    for path, axis in columns:
        table = places.results / Path(path).relative_to("results")
        assert axis in re.split("[,\t\n]", table.read_text())


def test_labels_are_those_of_the_source_in_the_order_of_the_shards(world):
    config, places = world
    images, labels = pairs(COUNTS["test"], 1)
    plain = PlainImages(places.raw, "test", config.dataset, config.encrypt)
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    found = [known[image[..., 0].tobytes()] for image in plain.read(0, len(plain))]
    assert [tuple(np.flatnonzero(row)) for row in plain.labels] == found
    assert np.array_equal(EncryptedImages(places.encrypted, "test").labels(), plain.labels)


def test_the_owner_measures_what_the_trainer_says(world):
    _, places = world
    trainer, owner = read_result(places, "evaluate"), read_result(places, "verify")
    assert owner["auroc"] == pytest.approx(trainer["auroc"], abs=1e-6)
    assert owner["plain_auroc"] == pytest.approx(trainer["auroc"], abs=1e-6)  # adaptation is exact
    assert owner["wrong_key_auroc"] < trainer["auroc"] - 0.1
    assert owner["chance_auroc"] == 0.5
    metrics_file = json.loads((places.results / "metrics" / "verify.json").read_text())
    assert metrics_file["verify"].keys() == {"plain_auroc", "wrong_key_auroc"}


def test_stages_that_attack_one_class_say_so_and_do_not_fail(world):
    _, places = world
    logits, targets = logits_and_targets(places)
    robustness, threats = read_result(places, "robustness"), read_result(places, "threats")
    assert robustness["verdict"].startswith("Not measured by the trainer: images carry several labels")
    assert threats["verdict"].startswith("Not measured: images carry several labels")
    assert "headline_accuracy_percent" not in {**robustness, **threats}
    right = ((logits > 0) == targets).mean(1)
    assert any(robustness["clean_accuracy_percent"] == pytest.approx(100 * right[chosen].mean())
               for chosen in [np.random.default_rng((0, len(right))).permutation(len(right))[:20]])  # fmt: skip


def test_the_page_tells_every_label(world, capsys):
    config, places = world
    STAGES["report"].run(config, places)
    page, told = places.page.read_text(), capsys.readouterr().out
    result = read_result(places, "evaluate")
    assert f"<b>{result['auroc']:.4f}</b>mean AUROC on encrypted test images" in page
    assert '<th scope="row">has 0</th>' in page
    cells = re.sub(r"<t[dh][^>]*>", "|", page).replace("</td>", "").replace("</th>", "")
    assert "|has &lt;b&gt;$\\never|0 of 120|not measured|" in cells
    assert "confusion matrix" not in page
    assert "worst class" not in page
    assert "accuracy against the size of the perturbation" not in page
    assert f"mean AUROC, encrypted anew by the owner      {result['auroc']:.4f}" in told
    assert "accuracy, encrypted" not in told


def change_labels(places: Places, line: int, **cells: str) -> None:
    path = places.plots / "labels.csv"
    with open(path) as file:
        rows = list(csv.DictReader(file))
    rows[line].update(cells)
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def change_result(places: Places, stage: str, **figures) -> None:
    path = places.result(stage)
    path.write_text(json.dumps({**json.loads(path.read_text()), **figures}))


HALF = {"predicted": "20", "true_positives": "10"}
BAD = {
    "another number of images": (lambda places: change_labels(places, 0, positives="3"), "it has 3 images that carry"),
    "more right than there are": (lambda places: change_labels(places, 0, true_positives="100"), "do not agree"),
    "more than all images": (lambda places: change_labels(places, 0, predicted="121"), "do not agree"),
    "right ones that were not said": (lambda places: change_labels(places, 3, true_positives="1"), "do not agree"),
    "an area beyond its bounds": (lambda places: change_labels(places, 0, **HALF, auroc="1.0"), "is not between"),
    "an area below its bounds": (lambda places: change_labels(places, 0, **HALF, auroc="0.0"), "is not between"),
    "an area of nothing": (lambda places: change_labels(places, 3, auroc="0.9"), "where there is none"),
    "no area": (lambda places: change_labels(places, 0, auroc=""), "no area under the curve where it should"),
    "an area of 2": (lambda places: change_labels(places, 0, auroc="2"), "less than or equal to 1"),
    "no number": (lambda places: change_labels(places, 0, auroc="nan"), "row 1"),
    "labels in another order": (lambda places: change_labels(places, 0, label="1"), "the labels 0 to 3, one a row"),
    "a label beyond": (lambda places: change_labels(places, 3, label="4"), "the labels 0 to 3, one a row"),
    "another mean": (
        lambda places: change_result(places, "evaluate", auroc=0.5, auroc_low=0.0, auroc_high=1.0),
        "it gives 'auroc'",
    ),
    "beside its interval": (lambda places: change_result(places, "evaluate", auroc_low=1.0), "is not between 'auroc_l"),
    "another precision": (lambda places: change_result(places, "evaluate", average_precision=0.99), "it gives"),
    "another F1": (lambda places: change_result(places, "evaluate", f1=1.0), "it gives 'f1'"),
    "an accuracy": (lambda places: change_result(places, "evaluate", accuracy_percent=100.0), "it gives 'accuracy_p"),
    "no share": (lambda places: change_result(places, "evaluate", accuracy_percent=99.99), "no share of 480 answers"),
    "all right": (lambda places: change_result(places, "evaluate", exact_match_percent=100.0), "a share between"),
    "more labels": (lambda places: change_result(places, "evaluate", scored_labels=4), "it gives 'scored_labels'"),
    "calibration": (lambda places: change_result(places, "evaluate", calibration_error_percent=0.0), "calibration.csv"),
    "one class": (lambda places: change_result(places, "evaluate", class_accuracy_min_percent=0.0), "does not belong"),
    "beyond 1": (lambda places: change_result(places, "evaluate", auroc=1.5), "less than or equal to 1"),
    "a figure of attacks": (
        lambda places: change_result(places, "robustness", headline_accuracy_percent=100.0),
        "figures of attacks, which are made on images of one class alone",
    ),
    "another model": (lambda places: change_result(places, "verify", finetuned_id="0" * 16), "'finetuned_id' is"),
    "no table": (lambda places: (places.plots / "labels.csv").unlink(), "labels.csv is missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_claims_that_cannot_be_right_are_refused(world, kind):
    config, places = world
    change, told = BAD[kind]
    change(places)
    with pytest.raises(PpvitError) as caught:
        STAGES["report"].run(config, places)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not places.page.exists()


def test_a_trainer_that_is_not_confirmed_stands_at_the_top(world, capsys):
    config, places = world
    change_result(places, "verify", auroc=read_result(places, "evaluate")["auroc"] - 0.1)
    STAGES["report"].run(config, places)
    assert "Do not trust the trainer's figures: it says a mean AUROC of" in capsys.readouterr().out


def test_predict_names_labels_above_a_threshold(world, tmp_path):
    config, places = world
    images, _ = pairs(8, 1)
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    plain = np.repeat(images[..., None], 3, axis=3)
    cipher = load_cipher(config)
    model = load_finetuned(places.adapted, places.finetuned, len(NAMES))
    with torch.inference_mode():
        inputs = model_input(torch.from_numpy(cipher.encrypt(plain)).permute(0, 3, 1, 2))
        expected = 100 * model(inputs).sigmoid().numpy()
    for threshold in (None, 0.2, 0.0):
        answers = predict.run(config, places, paths, threshold=threshold)
        for answer, percents in zip(answers, expected, strict=True):
            above = {
                name: value for name, value in zip(NAMES, percents, strict=True) if value > 100 * (threshold or 0.5)
            }
            if threshold == 0:
                above = dict(zip(NAMES, percents, strict=True))
            assert {each.name: each.percent for each in answer} == pytest.approx(above, rel=1e-3)
            assert answer == sorted(answer, key=lambda each: -each.percent)
    assert all(len(answer) <= 1 for answer in predict.run(config, places, paths, top=1, threshold=0.0))


def test_no_label_above_the_threshold_is_said(world, tmp_path, capsys):
    _, places = world
    Image.fromarray(pairs(1, 1)[0][0]).save(tmp_path / "one.png")
    (tmp_path / "params.yaml").write_text(default_yaml())
    folders = {name: getattr(places, name) for name in ("raw", "adapted", "finetuned")}
    sets = ["dataset.image_size=16", "dataset.name=webdataset"]
    tools.predict([tmp_path / "one.png"], sets, tmp_path / "params.yaml", threshold=1.0, **folders).show()
    assert capsys.readouterr().out == f"{tmp_path / 'one.png'}: no label above the threshold\n"


def test_the_card_tells_the_area(world, tmp_path):
    config, places = world
    export(STAGES["report"].narrowed(config), places, tmp_path / "out", with_key_material=True)
    card = (tmp_path / "out" / "README.md").read_text()
    result = read_result(places, "evaluate")
    assert f"- **Mean AUROC:** {result['auroc']:.4f} on 120 encrypted test images" in card
    assert "- roc_auc" in card
    assert "`logits.sigmoid()`" in card
    assert f"average precision {result['average_precision']:.4f}" in card
    assert "always the most frequent class" not in card


@pytest.mark.parametrize("attack", ["at", "trades"])
def test_training_against_an_attack(world, attack, tmp_path):
    _, places = world
    against = {"steps": 2, "epsilon": 4.0}
    trained_so = {"adversarial": attack, "epochs": 1}
    config = configured(tmp_path, dataset={"val_fraction": 0.1}, finetune=trained_so, adversarial=against)
    places = replace(places, encrypted=tmp_path / "encrypted")
    STAGES["encrypt"].run(config, places)
    trained = finetune(config.finetune, config.adversarial, places.encrypted, places.adapted)
    trained.written()
    assert trained.record["task"] == "multilabel"
    assert 0 < trained.values["train_loss"] < 2
    assert 0 < trained.values["val_robust_accuracy_percent"] < 100
    assert 0 < trained.values["val_auroc"] < 1
    if attack == "trades":
        assert trained.values["train_robust_loss"] >= 0


def test_models_and_data_of_one_class_and_of_several_are_not_mixed(world, tmp_path):
    config, places = world
    raw = write_raw(tmp_path / "raw", {"train": 16, "test": 8}, classes=4)
    other = make_places(tmp_path / "one", config, raw=raw, adapted=places.adapted, finetuned=places.finetuned)
    STAGES["encrypt"].run(config, other)
    for stage in ("evaluate", "verify", "robustness", "threats"):
        with pytest.raises(PpvitError, match="task"):
            STAGES[stage].run(config, other)
    with pytest.raises(UsageError, match="--threshold is for data sets whose images carry several labels"):
        predict.run(config, other, [tmp_path / "nothing.png"], threshold=0.5)


def test_nothing_to_tell_apart_is_refused_before_anything_is_encrypted(tmp_path):
    config = configured(tmp_path)
    write_shards(tmp_path / "own", train=20, test=4)
    (tmp_path / "own" / "test-000000.tar").unlink()
    with tarfile.open(tmp_path / "own" / "test-000000.tar", "w") as tar:
        for number in range(3):
            for extension, data in {"png": encode_png(np.full((16, 16), number, np.uint8)), "cls": b""}.items():
                member = tarfile.TarInfo(f"{number}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    places = make_places(tmp_path, config)
    STAGES["download"].run(config, places)
    with pytest.raises(PpvitError, match="no label is carried by some of the 3 test images and not by others"):
        STAGES["encrypt"].run(config, places)
    assert not places.encrypted.exists()


def test_another_key_keeps_the_labels_and_the_figures(world):
    config, places = world
    before, result = EncryptedImages(places.encrypted, "test").labels(), read_result(places, "evaluate")
    new = keys.generate()
    keys.save(new)
    rekey.run(places, config.cipher.key_id, new.id, None)
    assert np.array_equal(EncryptedImages(places.encrypted, "test").labels(), before)
    STAGES["evaluate"].run(config, places)
    assert read_result(places, "evaluate")["auroc"] == pytest.approx(result["auroc"], abs=1e-6)


def test_sealed_labels_tell_neither_which_nor_how_many(tmp_path):
    key = keys.generate()
    keys.save(key)
    write_shards(tmp_path / "own", train=60, test=30)
    plain, sealed = (configured(tmp_path, download={"key_id": key_id}) for key_id in ("none", key.id))
    places = [make_places(tmp_path / config.download.key_id, config) for config in (plain, sealed)]
    for config, each in zip((plain, sealed), places, strict=True):
        STAGES["download"].run(config, each)
    with tarfile.open(places[1].raw / "train-000000.tar") as tar:
        sizes = {member.size for member in tar if member.name.endswith(".cls")}
    assert sizes == {16 + len("0 1 2 3")}  # the tag and the longest label that there can be
    first, second = (PlainImages(each.raw, "train", plain.dataset, plain.encrypt) for each in places)
    assert np.array_equal(first.labels, second.labels)
    assert 0 in first.labels.sum(1)  # an image without any label is among them


def test_one_classifier_a_label_is_trained_on_ciphertexts(tmp_path):
    pytest.importorskip("tenseal")
    write_shards(tmp_path / "own", train=120, test=60)
    config = configured(tmp_path, he={"features": "grey", "components": 6, "train_images": 90})
    places = make_places(tmp_path, config)
    STAGES["download"].run(config, places)
    owners, trainer = OwnersFiles(tmp_path / "owner"), tmp_path / "trainer"
    make_keys(config, places, owners, trainer)
    encrypt(config, places, owners, trainer)
    train_on_ciphertexts(trainer)
    head.run(config, places, owners, trainer)
    result = read_result(places, "he")
    assert result["auroc"] == pytest.approx(result["twin_auroc"], abs=0.01)
    assert result["auroc"] > 0.55
    features, labels = extract(config, places.raw, "test", 1000, None)
    linear = load_file(places.he / "head.safetensors")
    scores = features @ linear["weight"].T + linear["bias"]
    areas = [metrics.roc_auc_score(labels[:, label], scores[:, label]) for label in range(3)]
    assert result["folded_auroc"] == pytest.approx(np.mean(areas), abs=1e-4)
    softmax = configured(tmp_path, he={"features": "grey", "loss": "softmax"})
    with pytest.raises(UsageError, match="he.loss softmax is for images of one class each"):
        planned(softmax, places)


def test_labels_are_learned_on_their_own():
    random = np.random.default_rng(0)
    features, labels = np.hstack([random.normal(size=(40, 5)), np.ones((40, 1))]), random.integers(0, 2, (40, 3))
    plan = make_plan(40, 6, 3, 2, "levelled", 1.0, 0.0, 0, "sigmoid")
    one = make_plan(40, 6, 1, 2, "levelled", 1.0, 0.0, 0, "sigmoid")
    together = train(plan, features, labels).weights
    apart = [train(one, features, labels[:, [label]]).weights[0] for label in range(3)]
    np.testing.assert_allclose(together, apart, rtol=1e-12)
    # labels of one class each are the special case in which every image carries exactly one
    classes = random.integers(0, 3, 40)
    np.testing.assert_array_equal(
        train(plan, features, classes).weights, train(plan, features, np.eye(3, dtype=np.int64)[classes]).weights
    )


def test_rare_labels_are_weighed_and_sampled_and_what_they_lack_is_refused(world, tmp_path):
    config, places = world
    settings = config.finetune.model_copy(update={"class_weights": "balanced", "sampling": "balanced"})
    trained = finetune(settings, config.adversarial, places.encrypted, places.adapted)
    assert trained.values["train_loss"] < math.log(2)  # what saying one half of everything has, whatever the weights
    with pytest.raises(UsageError, match=r"finetune\.select_by balanced_accuracy is for images of one class each"):
        wrong = settings.model_copy(update={"select_by": "balanced_accuracy"})
        finetune(wrong, config.adversarial, places.encrypted, places.adapted)
