"""`ppvit audit DIR`: somebody else's encrypted pictures, with no manifest."""

import json
import os

import numpy as np
import pytest
from conftest import claims_size, photographs
from PIL import Image
from typer.testing import CliRunner

from ppvit.audit import folder
from ppvit.ciphers import make_cipher
from ppvit.ciphers.keys import Key
from ppvit.cli.command import app
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data import decoding


def write_pictures(path, pictures):
    path.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize(("name", "size", "block"), [
    ("scramble", 64, 8), ("shuffle", 64, 8), ("block", 64, 8), ("block_np", 64, 8), ("etc", 64, 8),
    ("pixel_position", 64, 16), ("block", 32, 4), ("block", 224, 16), ("etc", 224, 16),
])  # fmt: skip
def test_the_block_side_is_guessed(name, size, block):
    encrypted = make_cipher(name, Key(bytes(range(32))), size, block).encrypt(photographs(20, size))
    assert folder.guess_block_size(encrypted) == block


def test_pictures_are_more_like_pictures_than_their_ciphertext():
    plain = photographs(4, 64)
    encrypted = make_cipher("block_np", Key(bytes(32)), 64, 8).encrypt(plain)
    assert folder.likeness(plain, 8) > 0.6
    assert folder.likeness(encrypted, 8) < 0.3
    assert folder.likeness(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8), 8) < 0.05


def test_one_key_for_all_is_broken_from_the_command_line(tmp_path):
    encrypted = make_cipher("block", Key(bytes(range(32))), 32, 4).encrypt(photographs(60, 32))
    pictures = write_pictures(tmp_path / "theirs", encrypted)
    done = CliRunner().invoke(app, ["audit", str(pictures), "--pictures", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "blocks of 4 px (guessed)" in done.output
    assert "Broken, by the look of it: pooled" in done.output
    values = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert values["pooled_likeness"] > 0.6 > 0.3 > values["ciphertext_likeness"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".gitignore", "audit.json", "pooled.png", "jigsaw.png", "feature_reconstruction.png", "min_difference.png",
    }  # fmt: skip


@pytest.mark.parametrize("number", [0, 7])
def test_what_is_no_picture_of_this_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch, number):
    pictures = write_pictures(tmp_path / "theirs", np.zeros((9, 32, 32, 3), np.uint8))
    path = pictures / f"{number}.png"
    for make, told in (
        (lambda: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda: os.mkfifo(path), "is no regular file"),
        (path.mkdir, "is no regular file"),
        (lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**33), "is larger than"),
        (lambda: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0"), "cannot be decoded"),
        (lambda: claims_size(path, 16_000, 16_000), "16000 x 16000 pixels"),
        (lambda: claims_size(path, 100_000, 100_000), "pixels are more than"),
        (lambda: claims_size(path, 8, 65_536), "8 x 65536 pixels"),
    ):
        path.unlink(missing_ok=True)
        make()
        with monkeypatch.context() as patch, pytest.raises(PpvitError, match=told) as caught:
            if number == 0:
                patch.setattr(decoding, "decode", lambda *_: pytest.fail("pixels were decoded"))
            folder.attack_folder(pictures, tmp_path / "out")
        assert str(path) in str(caught.value)
        assert not (tmp_path / "out").exists()
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_noise_is_not_called_broken(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    told = folder.attack_folder(write_pictures(tmp_path / "noise", noise), tmp_path / "out", block_size=8)
    assert "Nothing found" in told
    assert "no proof" in told


def test_plain_pictures_are_called_what_they_are(tmp_path):
    told = folder.attack_folder(write_pictures(tmp_path / "plain", photographs(3, 32)), tmp_path / "out", block_size=8)
    assert "look like pictures as they are" in told


def test_bad_folders_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    picture = photographs(1, 32)[0]
    sizes = write_pictures(tmp_path / "sizes", [picture, picture[:16, :16]])
    wide = write_pictures(tmp_path / "wide", [picture[:16]])
    broken = write_pictures(tmp_path / "broken", [picture])
    (broken / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    nothing = write_pictures(tmp_path / "nothing", [picture])
    (nothing / "1.png").write_bytes(b"")
    cases = [
        (tmp_path / "nowhere", None, UsageError, "is no folder"),
        (tmp_path / "empty", None, UsageError, "holds no pictures"),
        (sizes, None, UsageError, "has 16 x 16 pixels and 0.png has 32 x 32; audit pictures of one size"),
        (wide, None, UsageError, "need square pictures"),
        (broken, None, PpvitError, "1.png: this image cannot be decoded"),
        (nothing, None, PpvitError, r"1.png: this image cannot be decoded \(it is empty\)"),
        (write_pictures(tmp_path / "fine", [picture]), 5, UsageError, "--block-size 5 does not divide .* 32"),
    ]
    for path, block_size, error, told in cases:
        with pytest.raises(error, match=told) as caught:
            folder.attack_folder(path, tmp_path / "out", block_size)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "ending", "options"), [
    ("JPEG", "JPG", {"subsampling": 0}), ("WEBP", "webp", {}), ("AVIF", "avif", {"subsampling": "4:4:4"}),
])  # fmt: skip
def test_lossy_pictures_are_attacked_and_the_damage_is_told(tmp_path, kind, ending, options):
    """The attack works on JPEG of good quality, as it did on what people share."""
    pictures = tmp_path / "theirs"
    pictures.mkdir()
    encrypted = make_cipher("block", Key(bytes(range(32))), 32, 4).encrypt(photographs(60, 32))
    for number, picture in enumerate(encrypted):
        Image.fromarray(picture).save(pictures / f"{number}.{ending}", kind, quality=100, **options)
    told = folder.attack_folder(pictures, tmp_path / "out", 4)
    assert "60 of them are JPEG or as lossy, which damaged the ciphertext" in told
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["lossy_images"] == 60
    assert "Perhaps broken: " in told


def test_every_format_is_taken_and_what_systems_leave_behind_is_not(tmp_path):
    pictures = write_pictures(tmp_path / "theirs", photographs(2, 32))
    grey = photographs(1, 32)[0, ..., 0].astype(np.uint16)
    Image.fromarray(grey * 257).save(pictures / "deep.tif")
    Image.fromarray(photographs(1, 32)[0]).save(pictures / "a.TGA")
    Image.fromarray(photographs(1, 32)[0]).save(pictures / "a.jp2")
    (pictures / "__MACOSX").mkdir()
    for noise in ("._0.png", ".DS_Store", "__MACOSX/1.png", "Thumbs.db", "notes.txt"):
        (pictures / noise).write_bytes(b"\0" * 99)
    found, lossy = folder.read_folder(pictures)
    assert (found.shape, lossy) == ((5, 32, 32, 3), 0)
    spread = (grey - grey.min()) * (255 / (grey.max() - grey.min()))  # one range for all of the folder
    assert any((each[..., 0] == np.rint(spread)).all() for each in found)
