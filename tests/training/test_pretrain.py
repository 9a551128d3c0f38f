"""The embedded backbone: its glyphs, its training, and that the committed weights transfer to handwriting."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from conftest import make_config, make_places
from PIL import Image, ImageFont
from safetensors.torch import load_file
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ppvit.config import Config, Pretrain
from ppvit.core.errors import PpvitError
from ppvit.training import glyphs
from ppvit.training import pretraining as pretrain
from ppvit.verbs.pretrain import run

COMMITTED = Path(__file__).parents[2] / "models" / "pretrained" / "vit_micro_patch4_32.safetensors"
TRIAL_LINEAR_PROBE_PERCENT = 92.2  # the trial that the issue asks to beat


FEW = {"steps": 3, "batch_size": 8}


def few_steps(**changes) -> Pretrain:
    return Pretrain(**FEW | changes)


def few_steps_of_all(**changes) -> Config:
    return make_config(pretrain=FEW | changes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_classes_hold_every_letter_and_digit_once():
    text = "".join(glyphs.CLASSES)
    assert len(text) == len(set(text)) == 62
    assert text.isascii()
    assert text.isalnum()


@pytest.mark.parametrize("font", glyphs.FONTS)
def test_font_has_every_character(font):
    loaded = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf"), 48)
    missing = bytes(loaded.getmask("\U0010fffe"))  # no character, so what the font draws for unknown ones
    for character in "".join(glyphs.CLASSES):
        drawn = bytes(loaded.getmask(character))
        assert any(drawn), character
        assert drawn != missing, character


@pytest.mark.parametrize("font", ["DejaVuSans", "STIXGeneralItalic", "cmtt10"])
def test_every_class_looks_different_and_is_centred(font):
    masks = [glyphs.glyph_mask(text[0], font) for text in glyphs.CLASSES]
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    for mask in masks:
        for axis in (0, 1):
            inked = np.flatnonzero(mask.any(axis))
            assert abs(inked[0] + inked[-1] - (glyphs.FIELD - 1)) <= 2


@pytest.mark.parametrize(("character", "parts", "holes"), [("0", 1, 1), ("8", 1, 2), ("i", 2, 0), ("S", 1, 0)])
def test_thinning_keeps_parts_and_holes(character, parts, holes):
    mask = glyphs.glyph_mask(character, "DejaVuSans")
    line = glyphs.thin(mask[None])[0]
    assert not (line & ~mask).any()
    assert line.sum() < mask.sum() / 4
    assert ndimage.label(line, np.ones((3, 3)))[1] == parts
    assert ndimage.label(~line)[1] == holes + 1  # and the outside


def test_render_gives_rgb_pictures_and_labels():
    images, labels = glyphs.render(32, generator())
    assert images.shape == (32, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.shape == (32,)
    assert labels.dtype == torch.int64
    contrast = images.float().amax((1, 2, 3)) - images.float().amin((1, 2, 3))
    assert (contrast > 40).all()  # of 255: nothing is empty


def test_render_is_determined_by_the_generator():
    first, again, other = (glyphs.render(16, generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_classes_are_equally_frequent():
    draws = 100 * len(glyphs.CLASSES)
    stream = generator()
    labels = torch.cat([glyphs.render(100, stream)[1] for _ in range(draws // 100)])
    counts = torch.bincount(labels, minlength=len(glyphs.CLASSES))
    assert counts.min() > 50  # five standard deviations below 100
    assert counts.max() < 150


def test_same_seed_same_bytes_and_nothing_on_stderr(tmp_path, capsys):
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        run(few_steps_of_all(seed=seed), make_places(tmp_path, embedded=tmp_path / name))
    first, again, other = ((tmp_path / name).read_bytes() for name in ("first", "again", "other"))
    assert first == again
    assert first != other
    assert capsys.readouterr().err == ""  # no terminal, no progress bar


def test_training_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    pretrain.train(few_steps(steps=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_loss_falls_on_glyphs_seen_again(monkeypatch):
    # the same few glyphs at every step: new ones each time are learnt only after some hundred steps
    batch = glyphs.render(16, generator())
    monkeypatch.setattr(glyphs, "render", lambda count, generator: batch)
    monkeypatch.setattr(pretrain, "RECENT", 5)
    _, untrained = pretrain.train(few_steps(steps=1, batch_size=16, patch_drop=0.0))
    _, trained = pretrain.train(few_steps(steps=40, batch_size=16, patch_drop=0.0))
    assert trained["train_cross_entropy"] < untrained["train_cross_entropy"] / 2
    assert trained["train_accuracy_percent"] > 90


def test_diverged_training_is_one_line_and_writes_nothing(tmp_path):
    with pytest.raises(PpvitError, match=r"loss is (nan|inf).*pretrain\.learning_rate"):
        run(few_steps_of_all(learning_rate=1000.0, steps=20), make_places(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_learning_rate_rises_then_falls_to_zero():
    factors = [pretrain.learning_rate_factor(step, 200) for step in range(201)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert max(factors) == 1
    assert factors[-1] == pytest.approx(0)


def committed_model():
    model = pretrain.create_micro()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(COMMITTED).items()}, strict=True)
    return model.eval()


def test_committed_weights_fit_and_are_small():
    assert COMMITTED.stat().st_size <= 2e6
    assert all(parameter.isfinite().all() for parameter in committed_model().parameters())


def linear_probe_percent(model):
    """Test accuracy of logistic regression on class-token features of handwritten digits, 8 to 32 pixels, 80/20."""
    digits = load_digits()
    small = [Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)) for image in digits.images]
    pixels = np.stack([np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)) for image in small])
    images = torch.from_numpy(pixels)[:, None].expand(-1, 3, -1, -1)
    with torch.no_grad():
        tokens = [model.eval().forward_features(pretrain.normalize(batch)) for batch in images.split(128)]
        features = model.forward_head(torch.cat(tokens), pre_logits=True).numpy()
    train, test, train_labels, test_labels = train_test_split(
        features, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return 100 * probe.fit(train, train_labels).score(test, test_labels)


def test_committed_weights_transfer_to_handwriting():
    torch.manual_seed(0)
    pretrained, untrained = linear_probe_percent(committed_model()), linear_probe_percent(pretrain.create_micro())
    assert pretrained > TRIAL_LINEAR_PROBE_PERCENT + 2
    assert pretrained > untrained + 5
