"""What `download` finds about images: bad files all at once, repeated and alike ones, ranges; and what it does then."""

import csv
import io
import itertools
import json
import os
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import make_config, make_places, photographs
from image_files import encoded, fill
from PIL import Image, ImageEnhance
from test_wds import shard
from typer.testing import CliRunner

from ppvit.ciphers import keys
from ppvit.ciphers.keys import Key
from ppvit.cli.command import app
from ppvit.config import default_yaml
from ppvit.core.errors import MissingPackage, PpvitError, UsageError
from ppvit.core.reading import sha256_of_folder
from ppvit.data.plain import PlainImages
from ppvit.data.sealed import read_dataset
from ppvit.data.shards import ShardReader, read_manifest
from ppvit.datasets import checked, raw
from ppvit.datasets.checked import Examiner, Seen
from ppvit.datasets.duplicates import NEAR_BITS, look, nearest, pixel_hash, repeats
from ppvit.datasets.findings_list import read_list
from ppvit.datasets.source import Sample, Source
from ppvit.verbs import download

KEY = Key(bytes(range(32)))


@pytest.fixture(autouse=True)
def empty_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPVIT_WORKERS", "0")


def settings(**dataset):
    return make_config(dataset={"name": "imagefolder", **dataset}).dataset


def downloaded(folder, key_id="none", name="imagefolder", **dataset):
    config = make_config(
        dataset={"name": name, "path": str(folder), "image_size": 32, **dataset}, download={"key_id": key_id}
    )
    places = make_places(Path(), config)
    download.run(config, places)
    return places.raw


def checks(folder):
    return {name: count for name, count in read_dataset(folder)[0]["checks"].items() if count}


def listed(text):
    return list(csv.reader(io.StringIO(text)))[1:]


def origins(folder, split):
    reader = ShardReader(folder, split, read_manifest(folder, "download", "dataset.json")["shards"][split])
    return [reader.name(index).partition("(from ")[2][:-1] for index in range(len(reader))]


def picture(values, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


PHOTOS = photographs(24, 48)
PNGS = [picture(photo) for photo in PHOTOS]
TRUNCATED = {
    "jpg": picture(PHOTOS[0], "JPEG"),
    "png": PNGS[0],
    "webp": picture(PHOTOS[0], "WEBP"),
    "tif": picture(PHOTOS[0], "TIFF"),
}
BAD = {
    "train/a/empty.png": b"",
    "train/a/gif.jpg": b"GIF",
    "train/b/eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "train/b/huge.ppm": b"P6 99999 99999 255 ",
    "train/b/svg.png": b"<svg></svg>",
    **{f"test/a/cut.{ending}": data[: len(data) * 2 // 3] for ending, data in TRUNCATED.items()},
    "test/b/header.bmp": picture(PHOTOS[0], "BMP")[:60],
}


def photos(folder, train=4, test=2, first=0):
    """Different photographs in two classes and two splits."""
    numbers = itertools.count(first)
    for split, count in (("train", train), ("test", test)):
        for name in ("a", "b"):
            fill(folder, *((f"{split}/{name}/{n}.png", PNGS[next(numbers)]) for n in range(count)))
    return folder


# --- bad files


@pytest.mark.parametrize("workers", [0, 2])
def test_all_bad_files_are_listed_at_once_and_nothing_else_is_written(tmp_path, monkeypatch, workers):
    before = sha256_of_folder(downloaded(photos(tmp_path / "d")))
    fill(tmp_path / "d", *BAD.items())
    monkeypatch.setenv("PPVIT_WORKERS", str(workers))
    monkeypatch.setattr(checked, "_ALONE_SECONDS", 0.0)
    with pytest.raises(
        PpvitError, match=r"train/a/empty\.png \(it is empty\), train/a/gif\.jpg \(.*\) and 7 more"
    ) as caught:
        downloaded(tmp_path / "d")
    assert "\n" not in str(caught.value)
    assert "dataset.bad_images=skip" in str(caught.value)
    refused = tmp_path / "data/raw/imagefolder.refused"
    assert str(Path("data/raw/imagefolder.refused/findings.csv")) in str(caught.value)
    rows = listed((refused / "findings.csv").read_text())
    assert [row[3] for row in rows] == [
        *sorted(name for name in BAD if "train" in name),
        *sorted(name for name in BAD if "test" in name),
    ]
    assert all(row[0].startswith("unreadable: ") and row[3].startswith(f"{row[1]}/{row[2]}/") for row in rows)
    assert "99,999" in str(rows) or "99999" in str(rows) or "268,435,456" in str(rows)
    assert sha256_of_folder(tmp_path / "data/raw/imagefolder") == before
    assert sorted(os.listdir(refused)) == [".gitignore", "findings.csv"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in refused.iterdir()} == {0o600}
    assert stat.S_IMODE(refused.stat().st_mode) == 0o700
    monkeypatch.setenv("PPVIT_WORKERS", "0")
    for name in BAD:
        (tmp_path / "d" / name).unlink()
    downloaded(tmp_path / "d")
    assert sha256_of_folder(tmp_path / "data/raw/imagefolder") == before
    assert not refused.exists()


def test_bad_files_can_be_skipped_and_are_told(tmp_path, capsys):
    good = downloaded(photos(tmp_path / "d", train=6, test=6))
    train = origins(good, "train")
    fill(tmp_path / "d", *BAD.items())
    out = downloaded(tmp_path / "d", bad_images="skip")
    assert origins(out, "train") == train
    assert checks(out)["unreadable"] == len(BAD)
    assert len(listed((out / "findings.csv").read_text())) == len(BAD)
    told = capsys.readouterr().err
    assert "train/a/empty.png (it is empty)" in told
    assert str(Path("data/raw/imagefolder/findings.csv")) in told


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("package", "extra", "name"), [("pillow_heif", "heic", "0.HEIC"), ("pydicom", "dicom", "0.dcm")]
)
def test_a_missing_library_is_never_skipped_as_a_bad_image(tmp_path, monkeypatch, workers, package, extra, name):
    folder = photos(tmp_path / "d", train=6, test=6)
    start = bytes(128) + b"DICM" if extra == "dicom" else b"\0\0\0\x18ftypheic"
    fill(folder, (f"train/a/{name}", start + bytes(100)))
    gone = tmp_path / "gone"
    fill(gone, (f"{package}.py", b"raise ImportError"))
    monkeypatch.setenv("PPVIT_WORKERS", workers)
    monkeypatch.setattr(checked, "_ALONE_SECONDS", 0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(gone), *sys.path]))
    monkeypatch.syspath_prepend(gone)
    monkeypatch.delitem(sys.modules, package, raising=False)
    for bad_images in ("error", "skip"):
        with pytest.raises(MissingPackage, match=rf"train/a/{name}: it is .* pip install 'ppvit\[{extra}\]'$"):
            downloaded(folder, bad_images=bad_images)
    assert not list(tmp_path.glob("data/raw/*"))


def test_a_film_under_the_name_of_a_photo_is_a_bad_image_whatever_is_installed(tmp_path, monkeypatch):
    folder = photos(tmp_path / "d", train=6, test=6)
    fill(folder, ("train/a/0.jpg", b"\0\0\0\x18ftypmp42" + bytes(100)))
    for package in ("no_package", "pillow_heif"):
        monkeypatch.setitem(sys.modules, package, None)
        assert checks(downloaded(folder, bad_images="skip"))["unreadable"] == 1


def test_skipping_must_leave_a_class_and_most_images(tmp_path):
    folder = photos(tmp_path / "d", train=3, test=3)
    fill(folder, ("test/c/0.png", b""), ("train/c/0.png", PNGS[20]))
    with pytest.raises(PpvitError, match="skipping bad files would leave no test image of class 'c'"):
        downloaded(folder, bad_images="skip")
    fill(folder, ("test/c/1.png", PNGS[21]), *((f"train/a/bad{n}.png", b"x") for n in range(8)))
    with pytest.raises(PpvitError, match="bad0.*most of the 15 of train"):  # 7 are good
        downloaded(folder, bad_images="skip")
    (folder / "train/a/bad0.png").unlink()
    assert checks(downloaded(folder, bad_images="skip"))["unreadable"] == 8  # 7 of 14, and test/c/0.png


def test_names_of_bad_files_run_nothing_in_a_spreadsheet(tmp_path):
    folder = photos(tmp_path / "d")
    fill(folder, ("train/a/=1+1.png", b""), ('train/a/x,"y\n.png', b""))
    source = Source(
        ["a"],
        lambda: iter([Sample(b"", "png", 0, "=cmd|' /C calc'!A1"), Sample(b"", "png", 0, "a\n,b")]),
        lambda: iter([]),
        "",
        0,
    )
    with pytest.raises(PpvitError):
        raw.write_raw(source, settings(), Path("out"))
    rows = listed(Path("out.refused/findings.csv").read_text())
    assert [row[3] for row in rows] == ["'=cmd|' /C calc'!A1", "a\\n,b"]


@pytest.mark.parametrize("kind", ["imagefolder", "zip", "tar", "webdataset"])
def test_every_layout_passes_bad_files_on(tmp_path, kind):
    files = {f"{split}/{name}/{n}.png": PNGS[n] for split in ("train", "test") for name in "ab" for n in range(2)}
    files |= {"train/a/bad.png": b"no image", "test/b/empty.jpg": b""}
    path = tmp_path / ("d.zip" if kind == "zip" else "d.tar" if kind == "tar" else "d")
    if kind == "imagefolder":
        fill(path, *files.items())
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif kind == "tar":
        shard(path, files)
    else:
        for split in ("train", "test"):
            members = {name.replace("/", "_"): data for name, data in files.items() if name.startswith(split)}
            labels = {f"{name.rpartition('.')[0]}.cls": b"%d" % ("_b_" in name) for name in members}
            shard(path / f"{split}-0.tar", dict(sorted({**members, **labels}.items())))
    name = kind if kind == "webdataset" else "imagefolder"
    with pytest.raises(PpvitError, match=r"bad\.png \(of no kind that is read\), .*empty\.jpg \(it is empty\);"):
        downloaded(path, name=name)
    assert checks(downloaded(path, name=name, bad_images="skip", duplicates="warn"))["unreadable"] == 2


# --- the same pixels


def test_the_same_pixels_in_other_files(tmp_path):
    folder = photos(tmp_path / "d")
    grey = np.asarray(Image.fromarray(PHOTOS[20]).convert("L"))
    fill(
        folder,
        ("test/a/copy.png", PNGS[0]),  # of train/a/0.png
        ("test/a/lossless.bmp", picture(PHOTOS[1], "BMP")),
        ("test/b/other_label.webp", picture(PHOTOS[2], "WEBP", lossless=True)),  # of train/a/2.png
        ("train/b/again.tif", picture(PHOTOS[4], "TIFF", compression="tiff_lzw")),  # of train/b/0.png
        ("train/b/grey.png", picture(grey)),
        ("test/b/grey_in_colour.png", picture(np.repeat(grey[..., None], 3, 2))),
        ("test/b/self.png", PNGS[12]),  # of test/a/... none
        ("test/b/self_again.png", PNGS[12]),
    )
    out = downloaded(folder)
    assert checks(out) == {"two_labels": 2, "train_repeated": 1, "test_known": 4, "test_repeated": 1} | {
        name: count for name, count in checks(out).items() if name == "test_near"
    }
    rows = {(row[3], row[6]): row for row in listed((out / "findings.csv").read_text())}
    assert rows["test/a/copy.png", "train/a/0.png"][:6] == ["same pixels", "test", "a", "test/a/copy.png", "train", "a"]
    assert rows["test/b/other_label.webp", "train/a/2.png"][0] == "same pixels, two labels"
    assert {("test/a/lossless.bmp", "train/a/1.png"), ("train/b/again.tif", "train/b/0.png")} <= rows.keys()
    assert {
        ("test/b/grey_in_colour.png", "train/b/grey.png"),
        ("test/b/self_again.png", "test/b/self.png"),
    } <= rows.keys()


def test_one_file_under_two_labels_of_one_split(tmp_path):
    folder = fill(photos(tmp_path / "d"), ("train/b/of_a.png", PNGS[0]))
    assert checks(downloaded(folder)) == {"two_labels": 2, "train_repeated": 1}
    with pytest.raises(PpvitError, match="images with the pixels of one under another label: 2"):
        downloaded(folder, duplicates="error")


def test_test_images_that_are_known_are_dropped_or_refused(tmp_path, capsys):
    folder = fill(
        photos(tmp_path / "d"),
        ("test/a/copy.png", PNGS[0]),
        ("test/b/small.jpg", picture(PHOTOS[5], "JPEG", quality=80)),
    )
    before = checks(downloaded(folder))
    assert before == {"test_known": 1, "test_near": 1}
    assert (
        "test images with the pixels of training images: 1, test images that look like training images: 1"
        in capsys.readouterr().err
    )
    with pytest.raises(PpvitError, match="set dataset.duplicates to drop_from_test or warn; all are in"):
        downloaded(folder, duplicates="error")
    out = downloaded(folder, duplicates="drop_from_test")
    assert checks(out) == {**before, "test_dropped": 2}
    assert origins(out, "test") == ["test/a/0.png", "test/a/1.png", "test/b/0.png", "test/b/1.png"]
    assert len(origins(out, "train")) == 8


def test_dropping_must_leave_every_class_a_test_image(tmp_path):
    folder = fill(photos(tmp_path / "d"), ("test/c/0.png", PNGS[0]), ("train/c/0.png", PNGS[20]))
    with pytest.raises(PpvitError, match="dropping test images that are known would leave no test image of class 'c'"):
        downloaded(folder, duplicates="drop_from_test")


def labelled(images, prefix):
    return lambda: (Sample(image, "png", label, f"{prefix}/{number}") for number, (image, label) in enumerate(images))


def test_labels_of_a_multi_label_set_are_compared_as_sets():
    train = [(PNGS[0], (0, 2)), (PNGS[1], ()), (PNGS[0], (0, 2)), (PNGS[2], (1,))]
    test = [(PNGS[1], (1,)), (PNGS[2], (1,)), (PNGS[3], (0, 2))]
    source = Source(["x", "y", "z"], labelled(train, "train"), labelled(test, "test"), "", 0, multilabel=True)
    raw.write_raw(source, settings(), Path("out"))
    assert checks(Path("out")) == {"two_labels": 2, "train_repeated": 1, "test_known": 2}
    assert [row[2] for row in listed(Path("out/findings.csv").read_text())] == ["x, z", "y", "y"]


def test_repeats_are_those_of_comparing_all_with_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        pixels, labels = rng.integers(0, 6, 12).astype(np.uint64), rng.integers(0, 2, 12)
        found = repeats(pixels, labels)
        for i in range(12):
            alike = [j for j in range(12) if pixels[j] == pixels[i]]
            assert found.first[i] == alike[0]
            assert found.two_labels[i] == (len({labels[j] for j in alike}) > 1)


def test_shape_and_type_are_a_part_of_the_pixels():
    zeros = np.zeros((4, 6, 3), np.uint8)
    kinds = [
        zeros,
        zeros.reshape(6, 4, 3),
        np.zeros((4, 6), np.float32),
        np.zeros((6, 4), np.float32),
        np.zeros((4, 6)),
    ]
    assert len({pixel_hash(each) for each in kinds}) == len(kinds)


# --- alike


def changed(photo):
    """A photograph as it comes back from other programs."""
    image = Image.fromarray(photo)
    return {
        "jpeg": picture(photo, "JPEG", quality=75),
        "half": picture(np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))),
        "double": picture(np.asarray(image.resize((96, 96), Image.Resampling.LANCZOS))),
        "brighter": picture(np.asarray(ImageEnhance.Brightness(image).enhance(1.1))),
        "grey": picture(np.asarray(image.convert("L"))),
        "16 bits": picture(np.asarray(image.convert("L")).astype(np.uint16) * 100),
    }


def test_changed_copies_look_alike_and_other_photographs_do_not():
    train = [(png, 0) for png in PNGS[:12]]
    copies = [(copy, 0) for photo in PHOTOS[:4] for copy in changed(photo).values()]
    others = [(png, 1) for png in PNGS[12:20]]
    looks = [look(photo) for photo in PHOTOS]
    bits = [(int.from_bytes(a) ^ int.from_bytes(b)).bit_count() for a, b in itertools.combinations(looks, 2)]
    assert min(bits) > NEAR_BITS  # of two photographs of scikit-learn, cut out here and there
    source = Source(["x", "y"], labelled(train, "train"), labelled(copies + others, "test"), "", 0)
    raw.write_raw(source, settings(), Path("out"))
    assert checks(Path("out")) == {"test_near": len(copies)}
    rows = listed(Path("out/findings.csv").read_text())
    assert [(row[3], row[6]) for row in rows] == [(f"test/{n}", f"train/{n // 6}") for n in range(len(copies))]


def test_nearest_is_that_of_comparing_all_with_all(monkeypatch):
    monkeypatch.setattr("ppvit.datasets.duplicates._TILE", 7)
    monkeypatch.setattr("ppvit.datasets.duplicates._ROWS", 3)
    rng = np.random.default_rng(1)
    known = rng.integers(0, 2**64, (40, 4), np.uint64)
    known[20:] = known[:20] ^ (np.uint64(1) << rng.integers(0, 64, (20, 4), np.uint64))  # 4 bits away
    queries = known[rng.permutation(40)[:16]].copy()
    for query in queries:
        for bit in rng.integers(0, 256, rng.integers(0, 45)):
            query[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    index, bits = nearest(queries, known)
    for query, i, b in zip(queries, index, bits, strict=True):
        distances = [
            sum(int(x ^ y).bit_count() for x, y in zip(query.tolist(), each.tolist(), strict=True)) for each in known
        ]
        if min(distances) <= NEAR_BITS:
            assert (i, b) == (distances.index(min(distances)), min(distances))
        else:
            assert i == -1
    assert (index >= 0).any()
    assert (index < 0).any()
    for few in (known[:0], known[:1]):
        assert nearest(queries, few)[0].max(initial=-1) <= 0
    assert len(nearest(known[:0], known)[0]) == 0


def test_pictures_of_one_grey_look_like_nothing():
    for value in (0, 7, 255):
        assert look(np.full((20, 20, 3), value, np.uint8)) == b""
    assert look(np.full((20, 20), 1e6, np.float32)) == b""
    ramp = np.arange(400, dtype=np.float64).reshape(20, 20)
    assert look(ramp) == look(-1e4 + 3.5 * ramp) != b""  # whatever the unit
    flat = [(picture(np.full((20, 20, 3), value, np.uint8)), 0) for value in (10, 20, 30)]
    source = Source(["x"], labelled(flat[:1], "train"), labelled(flat[1:], "test"), "", 0)
    raw.write_raw(source, settings(), Path("out"))
    assert checks(Path("out")) == {}


# --- processes and memory


def test_processes_change_nothing(tmp_path, monkeypatch):
    folder = fill(photos(tmp_path / "d"), *BAD.items(), ("test/b/copy.png", PNGS[0]))
    alone = sha256_of_folder(downloaded(folder, bad_images="skip"))
    monkeypatch.setenv("PPVIT_WORKERS", "3")
    monkeypatch.setattr(checked, "_ALONE_SECONDS", 0.0)
    monkeypatch.setattr(checked, "_BATCH_IMAGES", 2)
    assert sha256_of_folder(downloaded(folder, bad_images="skip")) == alone


def test_pictures_that_are_stored_inverted_are_taken_as_they_look():
    grey = np.arange(0, 40_000, 100, dtype=np.uint16).reshape(20, 20)
    buffer = io.BytesIO()
    Image.fromarray(40_000 - grey).save(buffer, "TIFF", tiffinfo={262: 0})  # white is zero
    inverted, plain = checked.examine([(buffer.getvalue(), "tif", "x"), (picture(grey), "png", "y")], "error")
    assert inverted.look == plain.look
    assert inverted.pixels != plain.pixels
    assert inverted.extremes == (100, 40_000)


def test_few_images_are_in_memory_and_their_order_stays(monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "2")
    monkeypatch.setattr(checked, "_ALONE_SECONDS", 0.0)
    monkeypatch.setattr(checked, "_BATCH_IMAGES", 4)
    read, most, seen = 0, 0, []

    def samples():
        nonlocal read
        for number in range(200):
            read += 1
            yield Sample(PNGS[number % 24], "png", 0, str(number))

    with Examiner("error") as examiner:
        for batch in examiner.batches(samples()):
            most = max(most, read - len(seen))
            seen += batch
    assert [sample.origin for sample, _ in seen] == [str(number) for number in range(200)]
    assert [each.pixels for _, each in seen] == [pixel_hash(PHOTOS[number % 24]) for number in range(200)]
    assert most <= 4 * (2 * 2 + 2) + 1  # batches that wait, the one that is handed on and the one that is filled


def test_large_images_go_alone():
    sizes = [
        len(batch) for batch in checked._batches(Sample(bytes(n), "png", 0, "") for n in (10, 2**23, 10, 10, 2**22, 1))
    ]
    assert sizes == [1, 1, 2, 1, 1]
    assert [len(batch) for batch in checked._batches(Sample(b"x", "png", 0, "") for _ in range(130))] == [64, 64, 2]


# --- sealed


def test_of_a_sealed_data_set_no_name_is_in_the_clear(tmp_path, monkeypatch):
    keys.save(KEY)
    folder = fill(photos(tmp_path / "d"), ("test/a/patient_meier.png", PNGS[0]), ("train/b/patient_huber.png", b""))
    params = tmp_path / "params.yaml"
    params.write_text(
        default_yaml().replace("  key_id: none", f"  key_id: {KEY.id}").replace("name: digits", "name: imagefolder")
    )
    with pytest.raises(PpvitError, match=r"findings\.sealed, which `ppvit show --findings` opens"):
        downloaded(folder, KEY.id)
    for bad_images in ("error", "skip"):
        if bad_images == "skip":
            downloaded(folder, KEY.id, bad_images="skip")
        written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert any(path.name == "findings.sealed" for path in written)
        assert not any(b"patient" in path.read_bytes() or b"meier" in path.read_bytes() for path in written)
        shown = CliRunner().invoke(app, ["show", "--findings"])
        assert shown.exit_code == 0
        assert "patient_huber.png" in shown.stdout
    assert "test/a/patient_meier.png,train,a,train/a/0.png" in shown.stdout
    manifest = json.loads((tmp_path / "data/raw/imagefolder/dataset.json").read_text())
    assert {"wide", "checks", "classes", "source"}.isdisjoint(manifest)
    assert checks(tmp_path / "data/raw/imagefolder") == {"unreadable": 1, "test_known": 1}
    sealed = tmp_path / "data/raw/imagefolder/findings.sealed"
    sealed.write_bytes(sealed.read_bytes()[:-1])
    shown = CliRunner().invoke(app, ["show", "--findings"])
    assert isinstance(shown.exception, PpvitError)


def test_nothing_found_no_list(tmp_path):
    out = downloaded(photos(tmp_path / "d"))
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "test-000000.tar", "train-000000.tar"]
    assert read_list(out, None) == ""


def test_that_nothing_was_found_is_said(tmp_path, monkeypatch):
    params = tmp_path / "params.yaml"
    params.write_text(default_yaml().replace("name: digits", "name: imagefolder"))
    shown = CliRunner().invoke(app, ["show", "--findings"])
    assert "dvc repro download" in str(shown.exception)  # nothing was looked at
    downloaded(photos(tmp_path / "d"))
    shown = CliRunner().invoke(app, ["show", "--findings"])
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert shown.stderr == "download found nothing wrong with the images of imagefolder\n"
    (tmp_path / "data/raw/imagefolder/findings.sealed").write_bytes(b"x")
    shown = CliRunner().invoke(app, ["show", "--findings"])
    assert isinstance(shown.exception, UsageError)
    assert "set download.key_id" in str(shown.exception)


# --- val, range, first images


@pytest.mark.parametrize("key_id", ["none", KEY.id])
def test_an_official_validation_split_is_kept(tmp_path, monkeypatch, key_id):
    keys.save(KEY)
    split = {
        "train": [(PNGS[n], n % 2) for n in range(6)],
        "val": [(PNGS[6], 0), (PNGS[0], 1), (PNGS[7], 1)],
        "test": [(PNGS[8], 0), (PNGS[9], 1), (PNGS[6], 0)],
    }
    source = Source(
        ["x", "y"], *(labelled(split[name], name) for name in ("train", "test")), "s", 0, labelled(split["val"], "val")
    )
    monkeypatch.setattr("ppvit.verbs.download.open_source", lambda *_, **__: source)
    out = downloaded("data/none", key_id, name="digits")
    manifest, seal = read_dataset(out)
    assert manifest["counts"] == {"train": 6, "val": 3, "test": 3}
    assert (seal is None) == (key_id == "none")
    opened = None if seal is None else lambda *place: seal.member("val", *place)
    reader = ShardReader(out, "val", manifest["shards"]["val"], opened=opened)
    assert [reader.image(n) for n in range(3)] == [image for image, _ in split["val"]]
    assert reader.labels().tolist() == [0, 1, 1]
    assert checks(out) == {"two_labels": 2, "val_known": 1, "test_known": 1}
    config = make_config(dataset={"image_size": 32})
    assert [len(PlainImages(out, name, config.dataset, config.encrypt)) for name in ("train", "test")] == [6, 3]


def test_the_range_is_that_of_wide_grey_training_images(tmp_path):
    def wide(low, high):
        return picture(np.linspace(low, high, 400).reshape(20, 20).astype(np.uint16))

    folder = photos(tmp_path / "d")
    fill(folder, ("train/a/w.png", wide(300, 4000)), ("train/b/w.png", wide(17, 900)), ("test/a/w.png", wide(0, 65535)))
    assert read_dataset(downloaded(folder))[0]["wide"] == {"images": 2, "low": 17.0, "high": 4000.0}
    signed = np.linspace(-1.5, 0.25, 400, dtype=np.float32).reshape(20, 20)
    fill(folder, ("train/a/f.tif", picture(signed, "TIFF")))
    assert read_dataset(downloaded(folder))[0]["wide"] == {"images": 3, "low": -1.5, "high": 4000.0}
    assert read_dataset(downloaded(photos(tmp_path / "e")))[0]["wide"] is None


def test_images_on_another_scale_than_the_range_are_told(tmp_path, capsys):
    """Fractions beside whole numbers would be black, and so would all images beside one with a stray value."""
    folder = photos(tmp_path / "d")
    grey = np.linspace(0, 1, 400).reshape(20, 20)
    wide = (grey * 4000).astype(np.uint16)
    fill(folder, *[(f"train/a/w{n}.png", picture(wide + n)) for n in range(3)])
    downloaded(folder)
    assert "sixteenth" not in capsys.readouterr().err
    fill(folder, ("test/a/f.tif", picture(grey.astype(np.float32), "TIFF")))
    downloaded(folder)
    told = capsys.readouterr().err
    assert "1 of 4 images above 8 bits use less than a sixteenth of 0 .. 4002, the range of the training images" in told
    fill(folder, ("train/b/stray.png", picture(np.where(grey == 1, 60_000, wide).astype(np.uint16))))
    downloaded(folder)
    assert "1 of 5 images above 8 bits" in capsys.readouterr().err  # 4000 is just more than a sixteenth
    fill(folder, *[(f"train/a/w{n}.png", picture(wide + n)) for n in range(3)])
    fill(folder, ("train/b/stray.tif", picture(np.where(grey == 1, 1e6, wide).astype(np.float32), "TIFF")))
    downloaded(folder)
    assert "5 of 6 images above 8 bits use less than a sixteenth of 0 .. 1e+06" in capsys.readouterr().err


def test_first_images_are_the_first_as_stored(tmp_path):
    out = downloaded(photos(tmp_path / "d", train=5))
    resize = make_config().encrypt
    part = PlainImages(out, "train", settings(image_size=48, first_images=7), resize)
    found = {image.tobytes() for image in part.read(0, 7)}
    assert found == {photo.tobytes() for photo in PHOTOS[:7]}
    assert sorted(part.labels) == [0] * 5 + [1] * 2
    assert len(PlainImages(out, "test", settings(first_images=7), resize)) == 4
    with pytest.raises(PpvitError, match=r"asks for 11 training images, data/raw/imagefolder has 10"):
        PlainImages(out, "train", settings(first_images=11), resize)
    with pytest.raises(PpvitError, match=r"none of the first 5 training images of .* is of class 'b'"):
        PlainImages(out, "train", settings(first_images=5), resize)
    with pytest.raises(ValueError, match=r"dataset.first_images 7 and dataset.train_fraction 0.5 both"):
        make_config(dataset={"first_images": 7, "train_fraction": 0.5})
    from ppvit.config import load

    with pytest.raises(UsageError, match="first_images"):
        load(None, ["dataset.first_images=7", "dataset.train_fraction=0.5"])


def test_a_look_says_nothing_of_an_image_that_cannot_be_decoded():
    assert checked.examine([(b"", "png", "x"), (encoded(), "png", "y")], "error")[0] == Seen("it is empty")
