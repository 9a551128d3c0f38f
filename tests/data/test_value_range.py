"""Grey images above 8 bits end to end: the very shards that the same images give in 8 bits."""

import io
import tarfile

import numpy as np
import pytest
from conftest import make_config, make_places
from PIL import Image
from sklearn.datasets import load_digits
from test_api import WEIGHTS
from test_dicom import dicom

import ppvit
from ppvit.config import Encrypt, checked
from ppvit.core import reading
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.provenance import Made, require_made_alike
from ppvit.data.plain import PlainImages, prepared
from ppvit.data.sealed import read_dataset
from ppvit.data.shards import read_manifest
from ppvit.evaluation.prediction import read_images
from ppvit.verbs import download, encrypt

DIGITS = np.rint(load_digits().images[:80] * (255 / 16)).astype(np.uint8)  # black and white are in each half
LABELS = load_digits().target[:80] % 3


def image(values, kind):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


# the same pictures as people have them: file ending, bytes of a picture of 8 bits, lowest and highest value
FORMS = {
    "8 bits": ("png", lambda grey: image(grey, "PNG"), None),
    "float 0..1": ("tif", lambda grey: image(grey.astype(np.float32) / np.float32(255), "TIFF"), [0, 1]),
    "12 bits": ("png", lambda grey: image(np.rint(grey * (4095 / 255)).astype(np.uint16), "PNG"), [0, 4095]),
    "10 bits": ("png", lambda grey: image(np.rint(grey * (1023 / 255)).astype(np.uint16), "PNG"), [0, 1023]),
    "8 in 16 bits": ("png", lambda grey: image(grey.astype(np.uint16), "PNG"), [0, 255]),
    "9 bits": ("png", lambda grey: image(grey.astype(np.uint16) + 1, "PNG"), [1, 256]),
    "below zero": ("tif", lambda grey: image(grey.astype(np.float32) * 10 - 1024, "TIFF"), [-1024, 1526]),
    "DICOM": (
        "dcm",
        lambda grey: dicom(grey.astype(np.uint16) * 8, bits=12, RescaleSlope="0.5", RescaleIntercept=-500),
        [-500, 520],
    ),
    "DICOM, low is white": ("dcm", lambda grey: dicom((255 - grey).astype(np.uint16) * 8, "MONOCHROME1"), [0, 2040]),
    "JPEG 2000": ("jp2", lambda grey: image(grey.astype(np.uint16) * 16, "JPEG2000"), [0, 4080]),
}


def written(folder, form):
    """A folder of 60 training and 20 test images in a form, with what a Mac leaves beside them."""
    ending, encoded, _ = FORMS[form]
    for number, (grey, label) in enumerate(zip(DIGITS, LABELS, strict=True)):
        path = folder / ("train" if number < 60 else "test") / str(label) / f"{number:02d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(grey))
    return folder


def encrypted_of(path, tmp_path, name="imagefolder", encrypting=(), **dataset):
    """The SHA-256 of all encrypted shards, their manifest and where the raw data lie."""
    own = {"name": name, "path": str(path), "image_size": 16, **dataset}
    config = make_config(dataset=own, encrypt={"images_per_shard": 16, **dict(encrypting)})
    places = make_places(tmp_path / "out", config)
    download.run(config, places, tmp_path / "cache")
    encrypt.run(config, places)
    digests = {name: digest for name, digest in reading.sha256_of_folder(places.encrypted).items() if ".tar" in name}
    return digests, read_manifest(places.encrypted / "train"), places.raw, config


@pytest.fixture(scope="module")
def of_8_bits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("8")
    return encrypted_of(written(folder / "own", "8 bits"), folder)[0]


@pytest.mark.parametrize("form", FORMS)
def test_images_of_more_bits_give_the_shards_of_8_bits(form, of_8_bits, tmp_path, capsys):
    digests, manifest, raw, config = encrypted_of(written(tmp_path / "own", form), tmp_path)
    assert digests == of_8_bits
    assert len(digests) == 6
    value_range = FORMS[form][2]
    assert manifest["value_range"] == value_range
    told = capsys.readouterr().out
    if value_range is None:
        assert "above 8 bits" not in told
        return
    low, high = value_range
    assert f"60 training images have values above 8 bits: {low} .. {high} become 0 .. 255 (the extremes);" in told
    # and predict brings a file to the same pixels
    files = sorted((tmp_path / "own" / "test").rglob("*.*"))
    asked = read_images(files, 16, **prepared(config.encrypt, read_dataset(raw)[0]))
    stored = PlainImages(raw, "test", config.dataset, config.encrypt).read(0, 20)
    assert sorted(each.tobytes() for each in asked) == sorted(each.tobytes() for each in stored)


def test_shards_of_others_and_archives_give_the_same(of_8_bits, tmp_path):
    (tmp_path / "own").mkdir()
    for split, numbers in (("train", range(60)), ("test", range(60, 80))):
        with tarfile.open(tmp_path / "own" / f"{split}-0.tar", "w") as tar:
            # by class, as a folder has them: the order in raw data decides that of the shards
            for number in sorted(numbers, key=lambda number: (LABELS[number], number)):
                for ending, content in (
                    ("tif", FORMS["float 0..1"][1](DIGITS[number])),
                    ("cls", b"%d" % LABELS[number]),
                ):
                    member = tarfile.TarInfo(f"{LABELS[number]}/{number:02d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    assert encrypted_of(tmp_path / "own", tmp_path, "webdataset")[0] == of_8_bits


def test_a_given_range_or_window_takes_the_place_of_the_extremes(of_8_bits, tmp_path, capsys):
    folder = written(tmp_path / "own", "below zero")
    for given in ({"value_range": [-1024, 1526]}, {"window": [251, 2550]}):
        digests, manifest, *_ = encrypted_of(folder, tmp_path, encrypting=given)
        assert digests == of_8_bits
        assert manifest["value_range"] == [-1024, 1526]
    digests, manifest, *_ = encrypted_of(folder, tmp_path, encrypting={"window": [40, 400]})
    assert digests != of_8_bits
    assert manifest["value_range"] == [-160, 240]
    assert "-160 .. 240 become 0 .. 255 (as given; the extremes are -1024 and 1526);" in capsys.readouterr().out


def test_images_of_8_bits_among_others_stay_as_they_are(tmp_path):
    folder = written(tmp_path / "own", "below zero")
    eight = folder / "test" / "0" / "8.png"
    eight.write_bytes(image(DIGITS[0], "PNG"))
    raw, config = encrypted_of(folder, tmp_path)[2:]
    plain = PlainImages(raw, "test", config.dataset, config.encrypt)
    expected = read_images([eight], 16)[0]
    assert any((each == expected).all() for each in plain.read(0, len(plain)))


def test_one_value_alone_is_no_range_and_wide_test_images_need_one(tmp_path):
    folder = written(tmp_path / "own", "8 bits")
    (folder / "test" / "0" / "wide.png").write_bytes(FORMS["12 bits"][1](DIGITS[0]))
    with pytest.raises(PpvitError, match=r"wide\.png\): its values have more than 8 bits; set encrypt\.value_range"):
        encrypted_of(folder, tmp_path)
    assert not list((tmp_path / "out" / "data" / "encrypted").rglob("*"))
    encrypted_of(folder, tmp_path, encrypting={"value_range": [0, 4095]})
    (folder / "train" / "0" / "flat.png").write_bytes(image(np.full((8, 8), 700, np.uint16), "PNG"))
    with pytest.raises(PpvitError, match=r"no range from 700 to 700; set encrypt\.value_range"):
        encrypted_of(folder, tmp_path)


def test_frames_are_chosen_for_the_data_set(of_8_bits, tmp_path):
    folder = written(tmp_path / "own", "8 bits")
    for path in folder.rglob("*.png"):
        grey = Image.open(path)
        grey.load()
        path.unlink()
        others = [Image.new("L", (8, 8), 99), Image.new("L", (8, 8), 7)]
        others[0].save(path.with_suffix(".tif"), save_all=True, append_images=[others[1], grey])
    with pytest.raises(PpvitError, match="it holds several frames; set dataset.frames"):
        encrypted_of(folder, tmp_path)
    digests, *_ = encrypted_of(folder, tmp_path, frames="last")
    assert digests == of_8_bits
    file = next(folder.glob("test/0/*"))
    with pytest.raises(PpvitError, match="it holds several frames"):
        read_images([file], 16)
    assert read_images([file], 16, frames="last").std() > 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"value_range": [1]}, "encrypt.value_range has one number, expected are two"),
        ({"value_range": [1, 1]}, "the lowest value comes first"),
        ({"value_range": [2, 1]}, "the lowest value comes first"),
        ({"value_range": [0, 1, 2]}, "value_range"),
        ({"window": [40, 0]}, "the width is more than 0"),
        ({"window": [40, -400]}, "the width is more than 0"),
        ({"window": [40, 400], "value_range": [0, 1]}, "both set"),
        ({"value_range": [0, float("inf")]}, "value_range"),
        ({"value_range": [0, "1"]}, "value_range"),
    ],
)
def test_ranges_that_are_none_are_refused(given, told):
    with pytest.raises(UsageError, match=told) as caught:
        checked(Encrypt, **given)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_range_is_refused():
    with pytest.raises(PpvitError, match=r"encrypt\.value_range \[0, 1\], b with None"):
        require_made_alike(Made("a", {"value_range": [0, 1]}), Made("b", {"value_range": None}))


def test_an_image_on_another_scale_is_told_where_it_is_classified(tmp_path, capsys):
    path = tmp_path / "a.tif"
    path.write_bytes(FORMS["float 0..1"][1](DIGITS[0]))
    read_images([path], 8, value_range=(0, 1))
    assert not capsys.readouterr().err
    assert not read_images([path], 8, value_range=(0, 4095)).any()
    told = capsys.readouterr().err
    assert "a.tif: its values, 0 .. 0.937255, use less than a sixteenth of the data set's range, 0 .. 4095" in told


def test_the_library_predicts_with_the_range_of_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cipher = ppvit.make_cipher("block", ppvit.generate_key(), image_size=32, block_size=4)
    folder = written(tmp_path / "own", "12 bits")
    plain = ppvit.import_images(folder, "raw", image_size=32)
    ppvit.encrypt_images(plain, cipher, "encrypted")
    ppvit.adapt("vit_micro_patch4_32", cipher, "adapted", checkpoint=WEIGHTS)
    ppvit.finetune("encrypted", "adapted", "finetuned", method="linear", epochs=1)
    files = sorted(folder.glob("test/*/*"))[:3]
    eight = np.stack(
        [np.asarray(Image.fromarray(DIGITS[int(file.stem)]).convert("RGB").resize((32, 32), 3)) for file in files]
    )
    answers = ppvit.predict(files, cipher, "adapted", "finetuned")
    np.testing.assert_array_equal(answers, ppvit.predict(eight, cipher, "adapted", "finetuned"))
