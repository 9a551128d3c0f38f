"""`ppvit audit DIR`: somebody else's encrypted pictures, with no manifest."""

import io
import itertools
import json
import os
import warnings

import numpy as np
import pytest
from conftest import claims_size, photographs
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from ppvit.audit import folder
from ppvit.audit.attacks import pooled
from ppvit.audit.folder import colours, structure
from ppvit.audit.folder.attempts import attempts, left_out
from ppvit.audit.score import mean_ssim
from ppvit.audit.solvers.symmetry import best_over_symmetries
from ppvit.audit.view import decrypt
from ppvit.ciphers import AffineMap, make_cipher
from ppvit.ciphers.keys import Key
from ppvit.cli.command import app
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import read_json
from ppvit.data import decoding


def write_pictures(path, pictures):
    path.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{number}.png")
    return path


def noise(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def drawings(count, size):
    """Black lines and red rings on white."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        picture = Image.new("RGB", (size, size), "white")
        pen = ImageDraw.Draw(picture)
        for _ in range(6):
            x, y, radius = (int(rng.integers(3, size // 2)) for _ in range(3))
            pen.line((x, y, size - y, radius), "black")
            pen.ellipse((x, y, x + radius, y + radius), outline="red")
        found.append(np.asarray(picture))
    return np.stack(found)


def digits(count):
    """Handwritten digits, 8 px, as the default run has them: grey, each pixel 4 x 4 times."""
    grey = (load_digits().images[:count] * 15).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return np.repeat(grey[..., None], 3, axis=-1)


def stored_as_jpeg(pictures, quality):
    found = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(buffer)))
    return np.stack(found)


@pytest.mark.parametrize(("name", "size", "block"), [
    ("scramble", 64, 8), ("shuffle", 64, 8), ("block", 64, 8), ("block_np", 64, 8), ("etc", 96, 12), ("np", 64, 16),
    ("pixel_position", 64, 16), ("block", 32, 4), ("block", 224, 16), ("etc", 224, 32), ("subblock_etc", 64, 8),
])  # fmt: skip
def test_the_block_side_is_guessed(name, size, block):
    encrypted = make_cipher(name, Key(bytes(range(32))), size, block).encrypt(photographs(20, size))
    found = structure.examine(encrypted)
    assert (found.kind, found.block_size) == ("blocks", block)
    assert found.confidence > 0.9


@pytest.mark.parametrize("count", [1, 20])
def test_what_is_no_ciphertext_is_told_from_noise(count):
    for plain in (photographs(count, 64), drawings(count, 64), digits(count), photographs(count, 224)):
        assert structure.examine(plain).kind == "plain"
    assert structure.examine(stored_as_jpeg(photographs(count, 224), 30), lossy=True).kind == "plain"
    for nothing, lossy in ((noise(count, 32), False), (stored_as_jpeg(noise(count, 64), 75), True)):
        assert structure.examine(nothing, lossy).kind == "noise"


def test_a_side_that_is_not_sure_is_said_to_be_so():
    """Of fewer pictures the side is less sure, and of noise none is."""
    encrypted = make_cipher("block_np", Key(bytes(range(32))), 64, 8).encrypt(photographs(20, 64))
    assert structure.examine(encrypted[:1]).confidence < structure.examine(encrypted).confidence
    assert max(structure.side_probabilities(noise(20, 64)).values()) < 0.5


def test_pictures_are_more_like_pictures_than_their_ciphertext():
    plain = photographs(4, 64)
    encrypted = make_cipher("block_np", Key(bytes(32)), 64, 8).encrypt(plain)
    assert structure.likeness(plain, 8) > 0.6
    assert structure.likeness(encrypted, 8) < 0.3
    assert structure.likeness(noise(4, 64), 8) < 0.05


def test_one_key_for_all_is_broken_from_the_command_line(tmp_path):
    plain = photographs(120, 32)
    encrypted = make_cipher("block", Key(bytes(range(32))), 32, 4).encrypt(plain)
    pictures = write_pictures(tmp_path / "theirs", encrypted)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["audit", str(pictures), "--pictures", str(out)])
    assert done.exit_code == 0, done.output
    assert "blocks of 4 px (guessed, " in done.output
    assert "Broken, by the look of it: pooled" in done.output
    values = json.loads((out / "audit.json").read_text())
    assert values["pooled_likeness"] > 0.6 > 0.3 > values["ciphertext_likeness"]
    assert {path.name for path in out.iterdir()} == {
        ".gitignore", "audit.json", "decrypted", "key.npz", "overview.png",
    }  # fmt: skip
    # all of them, not those alone that gave the key, each under its name, right but for a flip of all
    names = {path.name for path in pictures.iterdir()}
    assert {path.name for path in (out / "decrypted").iterdir()} == names
    decrypted = np.stack([np.asarray(Image.open(out / "decrypted" / f"{number}.png")) for number in range(120)])
    flips = [np.rot90(each, quarter, axes=(1, 2)) for each in (plain, plain[:, :, ::-1]) for quarter in range(4)]
    assert max(np.mean(flipped == decrypted) for flipped in flips) > 0.9  # colours too
    # and the key decrypts pictures that were not in the folder
    with np.load(out / "key.npz") as saved:
        key = AffineMap(saved["block_permutation"], saved["value_permutation"], saved["sign"])
        np.testing.assert_array_equal(decrypt(encrypted, key, int(saved["block_size"])), decrypted)


@pytest.mark.parametrize(("name", "attack", "images"), [("scramble", "jigsaw", 1), ("etc", "jigsaw", 3)])
def test_whole_blocks_are_put_in_order_again(tmp_path, name, attack, images):
    plain = photographs(images, 96)
    encrypted = make_cipher(name, Key(bytes(range(32))), 96, 12).encrypt(plain)
    told = folder.attack_folder(write_pictures(tmp_path / "theirs", encrypted), tmp_path / "out")
    assert "blocks of 12 px" in told
    assert f"Broken, by the look of it: {attack}" in told
    found = np.asarray(Image.open(tmp_path / "out" / "decrypted" / "0.png"))
    assert mean_ssim(best_over_symmetries(found[None], plain[:1], mean_ssim, negative=True)[0], plain[:1]) > 0.9


def test_a_key_for_each_picture_is_no_hindrance_where_blocks_are_whole(tmp_path):
    plain = photographs(3, 64)
    encrypted = [
        make_cipher("scramble", Key(bytes([number] * 32)), 64, 16).encrypt(plain[number : number + 1])[0]
        for number in range(3)
    ]
    told = folder.attack_folder(write_pictures(tmp_path / "theirs", encrypted), tmp_path / "out")
    assert "Broken" in told
    assert not (tmp_path / "out" / "key.npz").exists()
    for number in range(3):
        found = np.asarray(Image.open(tmp_path / "out" / "decrypted" / f"{number}.png"))
        np.testing.assert_array_equal(found, plain[number])


def test_grey_pictures_are_explained(tmp_path):
    grey = np.repeat(photographs(30, 64)[..., :1], 3, axis=-1)
    encrypted = make_cipher("block", Key(bytes(range(32))), 64, 8).encrypt(grey)
    told = folder.attack_folder(write_pictures(tmp_path / "theirs", encrypted), tmp_path / "out")
    assert "They are grey: which of three equal values was red, green or blue cannot be told" in told
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["grey"] is True


def test_several_sizes_are_audited_apart(tmp_path):
    pictures = write_pictures(tmp_path / "theirs", photographs(3, 32))
    cipher = make_cipher("scramble", Key(bytes(range(32))), 64, 16)
    write_pictures(pictures / "more", cipher.encrypt(photographs(2, 64)))
    told = folder.attack_folder(pictures, tmp_path / "out").splitlines()
    assert told[0] == "3 pictures, 32 x 32 px"
    assert told[1].startswith("Not encrypted")
    assert told[2].startswith("2 pictures, 64 x 64 px, blocks of 16 px (guessed")
    assert sorted(path.name for path in (tmp_path / "out" / "64x64" / "decrypted" / "more").iterdir()) == [
        "0.png",
        "1.png",
    ]
    values = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert {size: each["kind"] for size, each in values["sizes"].items()} == {"32x32": "plain", "64x64": "blocks"}


def test_green_lies_between_red_and_blue_and_red_is_brighter():
    pictures = photographs(30, 32)
    for order in itertools.permutations(range(3)):
        found = colours.colour_order(pictures[..., list(order)])
        assert [order[channel] for channel in found.order] == [0, 1, 2]
        assert 0.8 < found.confidence <= found.green


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
        (lambda: claims_size(path, 100_000, 100_000), "pixels are more than"),
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


@pytest.mark.parametrize("size", [(16_000, 16_000), (8, 65_536)])
def test_what_is_too_large_is_left_out_before_it_is_decoded(tmp_path, size):
    pictures = write_pictures(tmp_path / "theirs", photographs(3, 64))
    claims_size(pictures / "large.png", *size)  # and has no pixels
    told = folder.attack_folder(pictures, tmp_path / "out")
    assert "of all pictures, 1 of more than 8192 pixels a side were left out" in told
    assert "3 pictures, 64 x 64 px" in told
    assert read_json(tmp_path / "out" / "audit.json", "audit")["left_out_images"] == 1
    for path in pictures.glob("[0-9].png"):
        path.unlink()
    with pytest.raises(UsageError, match=rf"large.png has {size[0]}x{size[1]} pixels; .* up to 8192 pixels a side"):
        folder.attack_folder(pictures, tmp_path / "again")


def test_plain_pictures_of_many_sizes_are_called_what_they_are(tmp_path):
    """Only what is encrypted needs an audit of its own."""
    (tmp_path / "theirs").mkdir()
    for number in range(9):
        Image.fromarray(photographs(1, 64 + 8 * number)[0]).save(tmp_path / "theirs" / f"{number}.png")
    encrypted = make_cipher("block", Key(bytes(range(32))), 160, 8).encrypt(photographs(1, 160))[0]
    Image.fromarray(encrypted).save(tmp_path / "theirs" / "encrypted.png")
    told = folder.attack_folder(tmp_path / "theirs", tmp_path / "out")
    assert told.count("Not encrypted") == 4
    assert "of all pictures, 5 of further sizes: not encrypted" in told
    assert "of all pictures, 1 of further sizes were left out; audit each size in its own folder" in told
    found = read_json(tmp_path / "out" / "audit.json", "audit")
    assert (found["plain_images"], found["left_out_images"]) == (5, 1)


@pytest.mark.parametrize("made", ["two values", "colours of two values", "few white"])
def test_noise_of_two_values_has_no_structure(tmp_path, made):
    rng = np.random.default_rng(0)
    shape = (64, 64, 3) if made == "colours of two values" else (64, 64)
    share = 0.05 if made == "few white" else 0.5
    write_pictures(tmp_path / "noise", [(rng.random(shape) < share).astype(np.uint8) * 255 for _ in range(20)])
    assert "No structure found" in folder.attack_folder(tmp_path / "noise", tmp_path / "out")


@pytest.mark.parametrize(("rows", "columns", "side"), [(4, 4, 56), (2, 2, 128), (3, 4, 56), (3, 3, 40)])
def test_sheets_of_plain_pictures_are_not_called_encrypted(tmp_path, rows, columns, side):
    tiles = photographs(10 * rows * columns, side)
    np.random.default_rng(0).shuffle(tiles)
    sheets = tiles.reshape(10, rows, columns, side, side, 3).swapaxes(2, 3)
    write_pictures(tmp_path / "sheets", sheets.reshape(10, rows * side, columns * side, 3))
    told = folder.attack_folder(tmp_path / "sheets", tmp_path / "out")
    assert f"Hardly encrypted, if at all: all is in order in blocks of {side} px" in told


def test_large_blocks_are_attacked_where_their_pixels_are_in_order_and_else_that_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(pooled, "value_layout", lambda *_: pytest.fail("memory grows with the square of the values"))
    plain = photographs(12, 224)
    for name, told in (
        ("scramble", "Broken, by the look of it: jigsaw"),
        ("etc", "Broken, by the look of it: jigsaw"),
        ("block", "9,408 values a block are more than 3,072"),  # 3 x 56 x 56
    ):
        encrypted = make_cipher(name, Key(bytes(range(32))), 224, 56).encrypt(plain)
        said = folder.attack_folder(write_pictures(tmp_path / name, encrypted), tmp_path / "out")
        assert "blocks of 56 px" in said
        assert told in said


def test_the_whole_picture_as_one_block(tmp_path):
    pictures = write_pictures(tmp_path / "theirs", noise(3, 64))
    told = folder.attack_folder(pictures, tmp_path / "out", block_size=64)
    assert "12,288 values a block are more than 3,072" in told


@pytest.mark.parametrize("alpha", ["none is seen", "moved as the colours"])
def test_what_transparency_hides_is_looked_at(tmp_path, alpha):
    encrypted = make_cipher("block", Key(bytes(range(32))), 64, 8).encrypt(photographs(60, 64))
    shown = np.zeros((60, 64, 64, 1), np.uint8) if alpha == "none is seen" else encrypted[..., :1]
    told = folder.attack_folder(
        write_pictures(tmp_path / "theirs", np.concatenate([encrypted, shown], axis=3)), tmp_path / "out"
    )
    assert "Broken, by the look of it: pooled" in told


def test_each_way_of_one_attack_is_told_apart(tmp_path):
    """Small pictures leave two sides of the blocks open."""
    pictures = make_cipher("block", Key(bytes(range(32))), 16, 4).encrypt(photographs(30, 16))
    seen = structure.examine(pictures)
    found = structure.Structure("blocks", 4, seen.confidence, (2,), seen.likeness)
    words = [make().words for attack, make in attempts(pictures, found) if attack == "pooled"]
    assert words == ["blocks of 4 px", "blocks of 2 px"]


def test_noise_is_not_called_broken(tmp_path):
    pictures = write_pictures(tmp_path / "noise", noise(20, 32))
    told = folder.attack_folder(pictures, tmp_path / "out")
    assert "No structure found" in told
    assert "no proof" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".gitignore", "audit.json"}
    told = folder.attack_folder(pictures, tmp_path / "out", block_size=8)  # attacked all the same
    assert "Nothing found" in told


def test_plain_pictures_are_called_what_they_are(tmp_path):
    pictures = write_pictures(tmp_path / "plain", photographs(3, 32))
    Image.fromarray(photographs(1, 64)[0, :48]).save(pictures / "wide.png")  # of any shape
    told = folder.attack_folder(pictures, tmp_path / "out")
    assert told.count("Not encrypted, by the look of it") == 2


@pytest.mark.parametrize("side", [1, 2, 5, 7])
def test_pictures_of_a_few_pixels_are_too_small_to_tell(tmp_path, side):
    write_pictures(tmp_path / "pictures", list(noise(3, side)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = folder.attack_folder(tmp_path / "pictures", tmp_path / "out")
    assert "Too small to tell" in told


def test_pictures_of_one_colour_are_plain(tmp_path):
    write_pictures(tmp_path / "pictures", [np.full((32, 32, 3), value, np.uint8) for value in (0, 128, 255)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "Not encrypted" in folder.attack_folder(tmp_path / "pictures", tmp_path / "out")


def test_a_prime_side_has_no_blocks_and_single_pixels_are_attacked(tmp_path):
    """Each pixel of 37 x 37 is inverted or not; no block divides 37."""
    inverted = np.random.default_rng(1).random((37, 37, 1)) < 0.5
    plain = photographs(8, 37)
    write_pictures(tmp_path / "pictures", list(np.where(inverted, 255 - plain, plain)))
    folder.attack_folder(tmp_path / "pictures", tmp_path / "out")
    found = read_json(tmp_path / "out" / "audit.json", "audit")
    assert (found["kind"], found["block_size"]) == ("pixels", None)
    assert found["attack"] == "feature_reconstruction"


def test_nothing_is_said_of_blocks_where_there_are_none(tmp_path):
    """Values that vary together over the pictures, and that none of the attacks can use."""
    rng = np.random.default_rng(0)
    common = rng.integers(0, 2, (20, 1, 1, 1))
    pictures = np.where(rng.random((64, 64, 3)) < 0.5, common, 1 - common) * 200 + rng.integers(0, 55, (20, 64, 64, 3))
    told = folder.attack_folder(write_pictures(tmp_path / "theirs", pictures.astype(np.uint8)), tmp_path / "out")
    assert read_json(tmp_path / "out" / "audit.json", "audit")["kind"] == "pixels"
    assert "a picture are more than" not in told


def test_the_first_picture_of_an_animation_counts(tmp_path):
    (tmp_path / "pictures").mkdir()
    first, *others = map(Image.fromarray, photographs(4, 64))
    first.save(tmp_path / "pictures" / "a.gif", save_all=True, append_images=others)
    assert "1 picture, 64 x 64 px" in folder.attack_folder(tmp_path / "pictures", tmp_path / "out")


def test_what_a_folder_of_pictures_does_not_read_is_refused(tmp_path):
    write_pictures(tmp_path / "pictures", list(photographs(1, 32)))
    for words, told in (
        (["--block-size", "8"], "name their folder: audit DIR"),
        ([str(tmp_path / "pictures"), "-S", "cipher.name=np"], "reads no parameters; leave out -S cipher.name=np"),
        ([str(tmp_path / "pictures"), "--raw", "x"], "leave out --raw"),
    ):
        done = CliRunner().invoke(app, ["audit", *words])
        assert isinstance(done.exception, UsageError)
        assert told in str(done.exception)


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    write_pictures(tmp_path / "pictures", list(photographs(1, 32)))
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"mine\.png is a file, where a folder is to be written"):
        folder.attack_folder(tmp_path / "pictures", tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_bad_folders_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    picture = photographs(1, 32)[0]
    broken = write_pictures(tmp_path / "broken", [picture])
    (broken / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    nothing = write_pictures(tmp_path / "nothing", [picture])
    (nothing / "1.png").write_bytes(b"")
    cases = [
        (tmp_path / "nowhere", None, UsageError, "is no folder"),
        (tmp_path / "empty", None, UsageError, "holds no pictures"),
        (broken, None, PpvitError, "1.png: this image cannot be decoded"),
        (nothing, None, PpvitError, r"1.png: this image cannot be decoded \(it is empty\)"),
        (
            write_pictures(tmp_path / "fine", [picture]),
            5,
            UsageError,
            "--block-size 5 does not .* 32x32 pixels; take 2, 4, 8",
        ),
        (broken / "1.png", None, UsageError, "is no folder; name one that holds encrypted pictures, unpacked"),
    ]
    for path, block_size, error, told in cases:
        with pytest.raises(error, match=told) as caught:
            folder.attack_folder(path, tmp_path / "out", block_size)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "ending", "options", "verdict"), [
    ("JPEG", "JPG", {"subsampling": 0}, "Broken, by the look of it: pooled"),
    ("AVIF", "avif", {"subsampling": "4:4:4"}, "Broken, by the look of it: pooled"),
    ("WEBP", "webp", {}, "Nothing found"),  # of four colours it keeps the mean
])  # fmt: skip
def test_lossy_pictures_are_attacked_and_the_damage_is_told(tmp_path, kind, ending, options, verdict):
    """The attack works on JPEG of good quality, as it did on what people share."""
    pictures = tmp_path / "theirs"
    pictures.mkdir()
    encrypted = make_cipher("block", Key(bytes(range(32))), 32, 4).encrypt(photographs(60, 32))
    for number, picture in enumerate(encrypted):
        Image.fromarray(picture).save(pictures / f"{number}.{ending}", kind, quality=100, **options)
    told = folder.attack_folder(pictures, tmp_path / "out", 4)
    assert "60 of them are JPEG or as lossy, which damaged the ciphertext" in told
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["lossy_images"] == 60
    assert verdict in told


def test_noise_that_was_stored_with_loss_is_no_proof(tmp_path):
    """JPEG of low quality makes smooth areas of noise, which a jigsaw puts side by side; only if asked for blocks."""
    pictures = tmp_path / "theirs"
    pictures.mkdir()
    for number, picture in enumerate(noise(12, 64)):
        Image.fromarray(picture).save(pictures / f"{number}.jpg", quality=6)
    assert "No structure found" in folder.attack_folder(pictures, tmp_path / "out")
    assert "Perhaps broken: jigsaw" in folder.attack_folder(pictures, tmp_path / "out", block_size=8)


def test_jpeg_of_whole_blocks_is_broken(tmp_path):
    """What block scrambling is used for: JPEG may follow it."""
    pictures = tmp_path / "theirs"
    pictures.mkdir()
    encrypted = make_cipher("scramble", Key(bytes(range(32))), 96, 16).encrypt(photographs(10, 96))
    for number, picture in enumerate(encrypted):
        Image.fromarray(picture).save(pictures / f"{number}.jpg", quality=85)
    assert "Broken, by the look of it: jigsaw" in folder.attack_folder(pictures, tmp_path / "out")


def test_every_format_is_taken_and_what_systems_leave_behind_is_not(tmp_path):
    pictures = write_pictures(tmp_path / "theirs", photographs(2, 32))
    grey = photographs(1, 32)[0, ..., 0].astype(np.uint16)
    Image.fromarray(grey * 257).save(pictures / "deep.tif")
    Image.fromarray(photographs(1, 32)[0]).save(pictures / "a.TGA")
    Image.fromarray(photographs(1, 32)[0]).save(pictures / "a.jp2")
    (pictures / "__MACOSX").mkdir()
    for noise in ("._0.png", ".DS_Store", "__MACOSX/1.png", "Thumbs.db", "notes.txt"):
        (pictures / noise).write_bytes(b"\0" * 99)
    (group,) = folder.read_folder(pictures)
    found, lossy, _ = group.looked_at()
    assert (found.shape, lossy) == ((5, 32, 32, 3), 0)
    spread = (grey - grey.min()) * (255 / (grey.max() - grey.min()))  # one range for all of the folder
    assert any((each[..., 0] == np.rint(spread)).all() for each in found)


def test_what_is_too_large_to_be_tried_is_told():
    assert left_out(224, 16) == ""  # 196 blocks
    assert "784 a picture are more than 400" in left_out(224, 8)
    assert "12,544 a picture are more than 4,096" in left_out(448, 4)
