"""What the owner checks, and predictions: the trainer's accuracy again, plain images, wrong keys."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import claims_size, make_config, read_result
from PIL import Image
from test_finetune import make_world, places_of, train

from ppvit.ciphers.keyed import load_cipher
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.plain import PlainImages
from ppvit.evaluation.owner_checks import undo_adaptation
from ppvit.evaluation.prediction import read_images
from ppvit.models import model_input
from ppvit.report.pictures import examples
from ppvit.tuners import load_finetuned
from ppvit.verbs import evaluate, predict, show, verify


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("PPVIT_SCRATCH", str(folder / "scratch"))
    config = make_world(folder, "block_np", method="lora_patch", learning_rate=2e-2, epochs=8)
    train(folder, config)
    patch.undo()
    return folder, config


def test_accuracies(world):
    folder, config = world
    places = places_of(folder)
    evaluate.run(config, places)
    verify.run(config, places)
    trainer, owner = (read_result(places, stage) for stage in ("evaluate", "verify"))
    assert owner["accuracy_percent"] == trainer["accuracy_percent"]
    assert owner["plain_accuracy_percent"] == trainer["accuracy_percent"]
    assert owner["chance_percent"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("method", ["full", "lora_patch", "linear"])
def test_undone_model_gives_the_same_logits_on_plain_images(tmp_path, method):
    """Also where training has changed the patch embedding."""
    config = make_world(tmp_path, "block_np", method=method, learning_rate=1e-2)
    train(tmp_path, config)
    plain = PlainImages(tmp_path / "raw", "test", config.dataset, config.encrypt).read(0, 12)
    cipher = load_cipher(config)
    model = load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 3)
    with torch.no_grad():
        expected = model(model_input(torch.from_numpy(cipher.encrypt(plain)).permute(0, 3, 1, 2)))
        undo_adaptation(model, cipher)
        found = model(model_input(torch.from_numpy(plain).permute(0, 3, 1, 2)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_model_of_another_key_is_refused(world):
    folder, _ = world
    other = make_config(dataset={"image_size": 16}, cipher={"name": "block"})
    places = replace(places_of(folder), results=folder / "other")
    with pytest.raises(
        PpvitError,
        match=r"finetuned was made with cipher \{'name': 'block_np', .*; make them again: dvc repro finetune, "
        r"or set cipher back$",
    ):
        verify.run(other, places)
    assert not places.results.exists()


def test_predict_encrypts_and_names_classes(world, tmp_path):
    folder, config = world
    image = PlainImages(folder / "raw", "test", config.dataset, config.encrypt).read(0, 1)[0]
    Image.fromarray(image).save(tmp_path / "query.png")
    Image.new("L", (50, 31), 120).save(tmp_path / "odd.jpg")  # another size, grey
    paths = [tmp_path / "query.png", tmp_path / "odd.jpg"]
    answers = predict.run(config, places_of(folder), paths, top=3)
    model = load_finetuned(folder / "adapted", folder / "finetuned", 3)
    encrypted = load_cipher(config).encrypt(image[None])
    with torch.no_grad():
        expected = model(model_input(torch.from_numpy(encrypted).permute(0, 3, 1, 2))).softmax(1)[0]
    assert answers[0][0].name == f"class {int(expected.argmax())}"
    assert answers[0][0].percent == pytest.approx(100 * expected.max().item(), rel=1e-4)
    assert all(sum(each.percent for each in answer) == pytest.approx(100) for answer in answers)


def test_predict_errors(world, tmp_path):
    folder, config = world
    places = places_of(folder)
    with pytest.raises(PpvitError, match="nowhere.png: No such file or directory; name an image file"):
        predict.run(config, places, [tmp_path / "nowhere.png"], top=1)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(PpvitError, match="text.png: this image cannot be decoded"):
        predict.run(config, places, [tmp_path / "text.png"], top=1)


def test_show_draws_plain_encrypted_decrypted(world, tmp_path):
    folder, config = world
    show.run(config, places_of(folder), tmp_path / "show.png", count=2)
    columns = examples(config, folder / "raw", 2)
    np.testing.assert_array_equal(columns["plain"], columns["decrypted"])
    assert (columns["plain"] != columns["encrypted (block_np)"]).mean() > 0.9
    picture = np.asarray(Image.open(tmp_path / "show.png"))
    # every pixel of a 16-px image is drawn as a square of 10 x 10
    left, top = 8, 24
    np.testing.assert_array_equal(picture[top : top + 160 : 10, left : left + 160 : 10], columns["plain"][0])
    with pytest.raises(UsageError, match="--count must be 1 or more"):
        show.run(config, places_of(folder), tmp_path / "show.png", count=0)


def test_pictures_to_predict_are_regular_files_of_bounded_size(tmp_path):
    path = tmp_path / "query.png"
    for make, told in (
        (lambda: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda: os.mkfifo(path), "is no regular file"),
        (lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**33), "is larger than"),
        (lambda: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0"), "cannot be decoded"),
        (lambda: claims_size(path, 100_000, 100_000), "10000000000 pixels are more than"),
        (lambda: None, "name an image file"),
    ):
        make()
        with pytest.raises(PpvitError, match=told) as caught:
            read_images([path], 32)
        assert str(path) in str(caught.value)
        path.unlink(missing_ok=True)
