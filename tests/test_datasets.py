"""Sources of plain images: layouts nobody here prepared, official formats, and what must be refused."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import string
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ppvit.datasets import open_source
from ppvit.datasets.holdout import HoldOut
from ppvit.datasets.imagenette import _CLASSES, _MD5, _URL
from ppvit.datasets.medmnist_info import INFO
from ppvit.errors import PpvitError, UsageError


def encoded(value=0, extension="png", mode="RGB", size=(4, 3)):
    buffer = io.BytesIO()
    colour = {"L": value, "1": value % 2, "I;16": value, "P": value, "RGBA": (value, 0, 0, 9)}.get(mode, (value, 1, 2))
    file_format = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(extension, extension.upper())
    Image.new(mode, size, colour).save(buffer, file_format)
    return buffer.getvalue()


def fill(folder, *files):
    """Write images (or given content) at paths; ``a/{3}.png`` stands for three files."""
    for file in files:
        name, content = file if isinstance(file, tuple) else (file, None)
        head, brace, tail = name.partition("{")
        count, _, tail = tail.partition("}")
        for number in range(int(count)) if brace else [0]:
            path = Path(folder) / (f"{head}{number}{tail}" if brace else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number) if content is None else content)
    return Path(folder)


def open_at(path, name="imagefolder", test_fraction=0.2, seed=0):
    return open_source(name, path, Path(path).parent / "cache", test_fraction, seed)


def origins(source, split):
    return [sample.origin for sample in getattr(source, split)()]


def everything(source):
    return {split: [(s.label, s.origin, s.image) for s in getattr(source, split)()] for split in ("train", "test")}


# --- layouts of image folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["", "data/", "a/b/"])
@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("train", "val"), ("training", "valid"), ("Train", "Test")]
)
def test_split_folders(tmp_path, wrapper, train, test):
    fill(tmp_path / "d", *(f"{wrapper}{s}/{c}/x.png" for s in (train, test) for c in ("b", "a")))
    source = open_at(tmp_path / "d")
    assert source.classes == ["a", "b"]
    assert origins(source, "train") == [f"{wrapper}{train}/a/x.png", f"{wrapper}{train}/b/x.png"]
    assert origins(source, "test") == [f"{wrapper}{test}/a/x.png", f"{wrapper}{test}/b/x.png"]
    assert [s.label for s in source.test()] == [0, 1]


def test_test_is_preferred_to_val_and_val_is_reported(tmp_path, capsys):
    fill(tmp_path / "d", *(f"{s}/{c}/x.png" for s in ("train", "val", "test") for c in "ab"))
    assert origins(open_at(tmp_path / "d"), "test") == ["test/a/x.png", "test/b/x.png"]
    assert "2 images that lie outside train and test" in capsys.readouterr().err


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "d", "train/{5}.png", "plane/{5}.png")
    assert open_at(tmp_path / "d").classes == ["plane", "train"]


def test_grey_colour_odd_sizes_many_formats_and_nested_files(tmp_path):
    files = [
        ("Birds/a.JPG", encoded(1, "jpg", "L", (17, 3))),
        ("Birds/b.jpeg", encoded(2, "jpg", size=(1, 1))),
        ("Birds/deep/er/c.tiff", encoded(3, "tif", "I;16")),
        ("Birds/d.e.f.webp", encoded(4, "webp", "RGBA")),
        ("Äpfel & Birnen/ü 1.png", encoded(5, "png", "1")),
        ("Äpfel & Birnen/2.gif", encoded(6, "gif", "P")),
        ("Äpfel & Birnen/3.bmp", encoded(7, "bmp")),
        ("Äpfel & Birnen/4.pgm", encoded(8, "pgm", "L")),
    ]
    source = open_at(fill(tmp_path / "d", *files), test_fraction=0.5)
    assert source.classes == ["Birds", "Äpfel & Birnen"]
    samples = [*source.train(), *source.test()]
    assert {s.origin: s.image for s in samples} == dict(files)
    assert {s.extension for s in samples} == {"jpg", "tif", "webp", "png", "gif", "bmp", "pgm"}
    assert all((s.label == 0) == s.origin.startswith("Birds") for s in samples)


def test_hidden_files_leftovers_and_other_files_do_not_count(tmp_path, capsys):
    fill(
        tmp_path / "d",
        *("a/{4}.png", "b/{4}.png", ".git/x/{2}.png", "__MACOSX/a/._0.png", "a/.hidden.png", "b/._0.png"),
        *[(name, b"x") for name in ("a/Thumbs.db", "a/.DS_Store", "README.md", "a/notes.txt", "labels.csv")],
    )
    (tmp_path / "d" / "nothing").mkdir()
    source = open_at(tmp_path / "d")
    assert source.classes == ["a", "b"]
    assert sorted(origins(source, "train") + origins(source, "test")) == [
        f"{c}/{n}.png" for c in "ab" for n in range(4)
    ]
    warnings = capsys.readouterr().err
    assert "2 files that are no images were ignored" in warnings
    assert "nothing holds no images" in warnings


def test_loose_images_beside_class_folders_are_reported(tmp_path, capsys):
    open_at(fill(tmp_path / "d", "a/{2}.png", "b/{2}.png", "loose.png"))
    assert "1 images that lie in no class folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/{3}.png"], "at least two classes are needed, found only 'a'"),
        (["{3}.png"], "no class folders"),
        ([("a/x.txt", b"x"), ("b/x.txt", b"x")], "holds no images"),
        (["a/{3}.png", "b/x.png"], "class 'b' has a single image"),
        (["train/a/x.png", "train/b/x.png", "test/a/x.png"], "class missing in test: 'b'"),
        (["train/a/x.png", "test/b/x.png", "test/a/x.png"], "class missing in train: 'b'"),
        (["train/a/x.png", "train/b/x.png", "test/{3}.png"], "test/ holds images but no class folders"),
        (["train/a/x.png", "test/a/x.png"], "at least two classes"),
    ],
)
def test_layouts_that_cannot_be_trained_on(tmp_path, files, message):
    with pytest.raises(PpvitError, match=message) as caught:
        open_at(fill(tmp_path / "d", *files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"GIF", b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    source = open_at(fill(tmp_path / "d", "a/{3}.png", "b/{3}.png", ("b/bad.jpg", content)))
    with pytest.raises(PpvitError, match=r"b/bad\.jpg"):
        everything(source)


def test_links_inside_are_followed_links_out_are_refused(tmp_path):
    folder = fill(tmp_path / "d", "pool/a/{2}.png", "pool/b/{2}.png", "x/{2}.png")
    fill(tmp_path / "e", "train/a/{2}.png", "train/b/{2}.png", "outside.png")
    (tmp_path / "e/test").symlink_to("train")
    assert origins(open_at(tmp_path / "e"), "test") == [f"test/{c}/{n}.png" for c in "ab" for n in range(2)]
    (folder / "x/out.png").symlink_to(tmp_path / "e/outside.png")
    with pytest.raises(PpvitError, match=r"x/out\.png links out of"):
        open_at(folder)
    (folder / "x/out.png").unlink()
    (folder / "x/round").symlink_to(folder)
    with pytest.raises(PpvitError, match="links to a folder that holds it"):
        open_at(folder)


def test_a_link_to_the_folder_itself_is_fine(tmp_path):
    fill(tmp_path / "real", "a/{2}.png", "b/{2}.png")
    (tmp_path / "link").symlink_to("real")
    assert open_at(tmp_path / "link").classes == ["a", "b"]


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    return fill(tmp_path / "pets", "cat/{7}.png", "dog/in/{5}.png", "owl/{2}.png")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.xz", "tar.bz2", "zip"])
@pytest.mark.parametrize("with_top", [True, False])
def test_archives_give_what_their_folder_gives(tmp_path, pets, ending, with_top):
    kind = {"tar": "tar", "tar.xz": "xztar", "tar.bz2": "bztar", "zip": "zip"}.get(ending, "gztar")
    made = shutil.make_archive(tmp_path / "made", kind, *((tmp_path, "pets") if with_top else (pets,)))
    archive = Path(made).rename(tmp_path / f"my.{ending}")
    folder, packed = everything(open_at(pets)), everything(open_at(archive))
    top = "pets/" if with_top else ""
    for split in ("train", "test"):
        assert sorted(packed[split]) == sorted((label, top + name, image) for label, name, image in folder[split])


def test_a_folder_with_one_archive_in_it(tmp_path, pets):
    shutil.make_archive(tmp_path / "local/pets", "zip", pets)
    (tmp_path / "local/README.md").write_text("put your data here")
    assert open_at(tmp_path / "local").classes == ["cat", "dog", "owl"]


def test_source_can_be_read_again(pets):
    source = open_at(pets)
    assert everything(source) == everything(source)


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png", "a\\..\\..\\evil.png"]
)
def test_members_that_point_outside_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr(name, encoded())
    with tarfile.open(tmp_path / "e.tar", "w") as tar:
        member = tarfile.TarInfo(name.replace("\\", "/"))
        member.size = len(encoded())
        tar.addfile(member, io.BytesIO(encoded()))
    for archive in ("e.zip", "e.tar"):
        with pytest.raises(PpvitError, match="points out of the archive"):
            open_at(tmp_path / archive)


def test_links_in_archives_are_refused(tmp_path, pets):
    os.link(pets / "cat/0.png", pets / "cat/hard.png")
    archive = shutil.make_archive(tmp_path / "made", "tar", pets)
    with pytest.raises(PpvitError, match="is a link"):
        everything(open_at(archive))


@pytest.mark.parametrize("kind", ["tar", "gztar", "xztar", "bztar", "zip"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_cut_archives_are_errors_that_name_them(tmp_path, kind, share):
    rng = np.random.default_rng(0)
    folder = tmp_path / "noise"
    for label in "ab":
        for number in range(20):
            (folder / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / label / f"{number}.png")
    archive = Path(shutil.make_archive(tmp_path / "cut", kind, folder))
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(PpvitError, match="cut") as caught:
        everything(open_at(archive))
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path, pets):
    archive, image = tmp_path / "made.zip", (pets / "dog/in/3.png").read_bytes()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:
        for path in sorted(pets.rglob("*.png")):
            made.write(path, path.relative_to(pets))
    data = bytearray(archive.read_bytes())
    data[data.index(image) + len(image) - 6] ^= 1  # in the last chunk's checksum, which header checks do not reach
    archive.write_bytes(data)
    with pytest.raises(PpvitError, match=r"made\.zip is damaged.*CRC-32.*dog/in/3\.png"):
        everything(open_at(archive))


def test_a_password_is_named(tmp_path, pets):
    if shutil.which("zip") is None:
        data = Path(shutil.make_archive(tmp_path / "made", "zip", pets)).read_bytes()
        # the flag "encrypted" in every header is all that a reader without password sees
        data = bytearray(data)
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = -1
            while (start := data.find(signature, start + 1)) >= 0:
                data[start + offset] |= 1
        (tmp_path / "made.zip").write_bytes(data)
    else:
        subprocess.run(["zip", "-qrP", "secret", tmp_path / "made.zip", "."], cwd=pets, check=True)
    with pytest.raises(PpvitError, match="password"):
        everything(open_at(tmp_path / "made.zip"))


# --- the held-out split -----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    counts=st.dictionaries(
        st.text(string.ascii_letters, min_size=1, max_size=4), st.integers(2, 40), min_size=1, max_size=5
    ),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_hold_out_is_stratified_and_blind_to_order(counts, fraction, seed):
    images = [(name, f"{name}/{number}.png") for name, count in counts.items() for number in range(count)]
    split, reverse = (HoldOut(order, fraction, seed, "here") for order in (images, images[::-1]))
    for name, count in counts.items():
        held = [image for of, image in images if of == name and split.is_test(of, image)]
        assert len(held) == split.test_counts[name] == min(max(round(count * fraction), 1), count - 1)
        assert split.train_counts[name] == count - len(held)
        assert held == [image for of, image in images if of == name and reverse.is_test(of, image)]


def test_hold_out_depends_on_seed_and_moves_little_when_images_are_added():
    images = [("a", f"{number}.png") for number in range(200)]
    first, other = (HoldOut(images, 0.5, seed, "here") for seed in (0, 1))
    more = HoldOut([*images, ("a", "new.png")], 0.5, 0, "here")
    assert 60 < sum(first.is_test(*i) != other.is_test(*i) for i in images) < 140  # 100 expected of independent halves
    assert sum(first.is_test(*i) != more.is_test(*i) for i in images) <= 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_image_is_lost_or_doubled(tmp_path_factory, data):
    part = st.text(string.ascii_lowercase, min_size=1, max_size=3)
    names = data.draw(st.lists(part, min_size=2, max_size=4, unique=True))
    files = [
        f"{name}/{'/'.join([*inner, str(number)])}.png"
        for name in names
        for number, inner in enumerate(data.draw(st.lists(st.lists(part, max_size=3), min_size=2, max_size=5)))
    ]
    source = open_at(fill(tmp_path_factory.mktemp("d") / "d", *files))
    train, test = origins(source, "train"), origins(source, "test")
    assert sorted(train + test) == sorted(files)
    assert source.classes == sorted(names)
    assert {o.split("/")[0] for o in train} == {o.split("/")[0] for o in test} == set(names)


# --- named data sets ------------------------------------------------------------------------------------------------


def test_a_named_data_set_from_class_folders_must_have_its_number_of_classes(tmp_path):
    fill(tmp_path / "d", *(f"{s}/{c}/x.png" for s in ("train", "test") for c in "0123456789"))
    for name in ("cifar10", "mnist", "imagenette"):
        assert len(open_at(tmp_path / "d", name).classes) == 10
    for name in ("cifar100", "pneumoniamnist"):
        with pytest.raises(PpvitError, match="10 class folders were found"):
            open_at(tmp_path / "d", name)


def test_imagenette_has_names_for_its_numbers(tmp_path):
    from torchvision.datasets import Imagenette

    fill(tmp_path / "d", *(f"imagenette2-320/{s}/{wnid}/x.JPEG" for s in ("train", "val") for wnid in _CLASSES))
    source = open_at(tmp_path / "d", "imagenette")
    assert source.classes[:3] == ["tench", "English springer", "cassette player"]
    assert Imagenette._ARCHIVES["320px"] == (_URL, _MD5)
    assert {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()} == _CLASSES


def cifar_folder(folder, monkeypatch):
    """A small CIFAR-10 in the official format, and torchvision's checksums set to fit it."""
    from torchvision.datasets import CIFAR10

    rng, md5s, rows = np.random.default_rng(0), {}, {}
    batches = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    folder.mkdir(parents=True)
    for name in batches:
        rows[name] = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": rows[name], "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))
    for path in folder.iterdir():
        md5s[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5s[name]] for name in batches[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5s["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5s["batches.meta"]})
    return rows


@pytest.mark.parametrize("packed", [False, True])
def test_official_cifar_format(tmp_path, monkeypatch, packed):
    from torchvision.datasets import CIFAR10

    folder = "cifar-10-batches-py"
    rows = cifar_folder(tmp_path / "own" / folder, monkeypatch)
    if packed:
        archive = Path(shutil.make_archive(tmp_path / "cifar-10-python", "gztar", tmp_path / "own", folder))
        shutil.rmtree(tmp_path / "own")
        archive.rename(fill(tmp_path / "own", "stray.png") / archive.name)
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5((tmp_path / "own" / archive.name).read_bytes()).hexdigest())
    source = open_at(tmp_path / "own", "cifar10")
    train, test = list(source.train()), list(source.test())
    assert source.classes[3] == "class 3"
    assert [s.label for s in train] == list(range(10)) * 5
    pixels = np.asarray(Image.open(io.BytesIO(test[7].image)))
    # a row is red, green, blue, each 32 x 32 in row-major order (the data set's own description)
    np.testing.assert_array_equal(pixels[2, 5], rows["test_batch"][7, [2 * 32 + 5 + 1024 * c for c in range(3)]])


def test_a_pickle_that_is_not_the_official_one_is_not_read(tmp_path, monkeypatch):
    cifar_folder(tmp_path / "cifar-10-batches-py", monkeypatch)
    marker = tmp_path / "run"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(Evil()))
    source = open_at(tmp_path, "cifar10")
    with pytest.raises(PpvitError, match="test_batch is not the official"):
        list(source.test())
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"other")
    with pytest.raises(PpvitError, match="not the official archive"):
        open_at(tmp_path / "cifar-10-python.tar.gz", "cifar10")
    assert not marker.exists()


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def mnist_files(folder, compressed):
    rng, folder, arrays = np.random.default_rng(0), Path(folder), {}
    folder.mkdir(parents=True)
    for name, count in (("train", 30), ("t10k", 20)):
        arrays[name] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[name], strict=True):
            data = idx(array)
            path = folder / f"{name}-{kind}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(data) if compressed else data)
    return arrays


@pytest.mark.parametrize(("inside", "compressed"), [("", True), ("raw", False), ("MNIST/raw", True)])
def test_official_mnist_format(tmp_path, inside, compressed):
    arrays = mnist_files(tmp_path / "d" / inside, compressed)
    source = open_at(tmp_path / "d", "mnist")
    for split, name in (("train", "train"), ("test", "t10k")):
        samples = list(getattr(source, split)())
        assert [s.label for s in samples] == arrays[name][1].tolist()
        np.testing.assert_array_equal(Image.open(io.BytesIO(samples[9].image)), arrays[name][0][9])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-images-idx3-ubyte.gz", None, "is missing"),
        ("t10k-images-idx3-ubyte.gz", b"\x1f\x8b\x08", "is damaged"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(b"\0\0\x08"), "no whole idx file"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((20, 28, 28), np.uint8))[:-1]), "no whole idx file"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(np.full(20, 10, np.uint8))), "do not fit"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(np.zeros(19, np.uint8))), "do not fit"),
    ],
)
def test_bad_mnist_files(tmp_path, name, content, message):
    mnist_files(tmp_path / "d", True)
    (tmp_path / "d" / name).unlink()
    if content is not None:
        (tmp_path / "d" / name).write_bytes(content)
    with pytest.raises(PpvitError, match=message):
        open_at(tmp_path / "d", "mnist")


def npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 8), ("val", 2), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    arrays |= changes
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


@pytest.mark.parametrize("colour", [False, True])
def test_medmnist_format(tmp_path, colour):
    images = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3) if colour else (4, 28, 28), dtype=np.uint8)
    arrays = npz(tmp_path / "pneumoniamnist.npz", test_images=images)
    for path in (tmp_path / "pneumoniamnist.npz", tmp_path):
        source = open_at(path, "pneumoniamnist")
        train, test = list(source.train()), list(source.test())
        assert source.classes == ["normal", "pneumonia"]
        assert [s.label for s in train] == arrays["train_labels"][:, 0].tolist()
        np.testing.assert_array_equal(np.stack([Image.open(io.BytesIO(s.image)) for s in test]), images)


def test_an_npz_that_is_not_the_official_file_is_reported(tmp_path, capsys):
    npz(tmp_path / "pneumoniamnist.npz")
    source = open_at(tmp_path, "pneumoniamnist")
    assert "differs from the official" in capsys.readouterr().err
    assert "not the official file" in source.description


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "test_labels"),
        ({"test_images": None}, "test_images"),
        ({"test_labels": np.array([0, 1, 2, 0])}, r"test_labels\[2\] is 2, expected 0 to 1"),
        ({"test_labels": np.array([0, 1, -1, 0])}, r"test_labels\[2\] is -1"),
        ({"test_labels": np.array([0, 0, 0, 0])}, "class missing in test: 'pneumonia'"),
        ({"test_labels": np.zeros((4, 14), np.uint8)}, "only one label an image"),
        ({"test_labels": np.array([0.0, 1.0, 0.5, 0])}, "whole numbers"),
        ({"test_labels": np.array([0, 1, 1])}, "4 test_images but 3 test_labels"),
        ({"test_images": np.zeros((4, 28, 28), np.float32)}, "expected is uint8"),
        ({"test_images": np.zeros((4, 28, 28, 28), np.uint8)}, "expected is uint8"),
        ({"test_labels": np.array([{}, 1, 1, 0], dtype=object)}, "numeric"),
    ],
)
def test_bad_npz_arrays(tmp_path, changes, message):
    npz(tmp_path / "pneumoniamnist.npz", **changes)
    with pytest.raises(PpvitError, match=message):
        open_at(tmp_path / "pneumoniamnist.npz", "pneumoniamnist")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04rest"])
def test_a_file_that_is_no_npz(tmp_path, content):
    (tmp_path / "pneumoniamnist.npz").write_bytes(content)
    with pytest.raises(PpvitError, match=r"pneumoniamnist\.npz is damaged or no npz"):
        open_at(tmp_path / "pneumoniamnist.npz", "pneumoniamnist")


def test_medmnist_table_is_sound():
    assert len(INFO) == 11  # twelve 2D sets less ChestMNIST, which has several labels an image
    md5s = [md5 for info in INFO.values() for md5 in info.md5.values()]
    assert len(set(md5s)) == 44
    assert all(len(md5) == 32 and set(md5) <= set("0123456789abcdef") for md5 in md5s)
    numbers = {"pathmnist": 9, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5, "breastmnist": 2}
    numbers |= {"bloodmnist": 8, "tissuemnist": 8, "organamnist": 11, "organcmnist": 11, "organsmnist": 11}
    assert {name: len(info.classes) for name, info in INFO.items()} == numbers  # MedMNIST v2, table 2


# --- webdataset -----------------------------------------------------------------------------------------------------


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def two_each(first=0):
    return {
        f"dir/{number:04d}.{extension}": content
        for number in range(4)
        for extension, content in (
            ("jpeg", encoded(first + number, "jpg")),
            ("cls", b"%d\n" % (number % 2)),
            ("json", b"{}"),
        )
    }


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-000000.tar", "test-000000.tar"),
        ("x-train-0.tar.gz", "x-validation-0.tar.gz"),
        ("train-{0..1}.tar", "val-0.tar"),
    ],
)
def test_webdataset_shards(tmp_path, train, test):
    shard(tmp_path / "w" / train, two_each())
    shard(tmp_path / "w" / test, two_each(9))
    source = open_at(tmp_path / "w", "webdataset")
    assert source.classes == ["0", "1"]
    assert [(s.label, s.extension, s.image) for s in source.test()] == [
        (n % 2, "jpg", encoded(9 + n, "jpg")) for n in range(4)
    ]
    (tmp_path / "w/classes.txt").write_text("cat\ndog\n")
    assert open_at(tmp_path / "w", "webdataset").classes == ["cat", "dog"]


def test_one_tar_without_test_split(tmp_path):
    shard(tmp_path / "all.tar", two_each())
    source = open_at(tmp_path / "all.tar", "webdataset")
    train, test = list(source.train()), list(source.test())
    assert sorted(s.label for s in train) == sorted(s.label for s in test) == [0, 1]
    assert len({s.origin for s in train + test}) == 4


@pytest.mark.parametrize(
    "extension", ["pkl", "pyd", "pickle", "npy", "npz", "pth", "pt", "ten", "mp", "tar", "html", "jpg.pkl"]
)
def test_webdataset_members_that_may_run_code_are_refused(tmp_path, extension):
    shard(tmp_path / "w/train-0.tar", two_each() | {f"dir/0009.{extension}": b"cos\nsystem\n."})
    shard(tmp_path / "w/test-0.tar", two_each())
    with pytest.raises(PpvitError, match=rf"train-0\.tar: the member dir/0009\.{extension}"):
        open_at(tmp_path / "w", "webdataset")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"x/1.png": encoded()}, r"x/1 has no \.cls"),
        ({"x/1.cls": b"0"}, "x/1 has no image"),
        ({"x/1.cls": b"cat", "x/1.png": encoded()}, "'cat', expected is a class number"),
        ({"x/1.cls": b"-1", "x/1.png": encoded()}, "expected is a class number"),
        ({"x/1.cls": b"3", "x/1.png": encoded()}, r"class 2 \('2'\) has no image"),
        ({"x/1.cls": b"2", "x/1.png": encoded()}, "class missing in test: '2'"),
        ({"x/1.cls": b"1", "x/1.png": encoded(), "x/1.jpg": encoded()}, "two images"),
        ({"x/1.cls": b"1", "x/1.png": b"no image"}, r"x/1\.png is not an image"),
    ],
)
def test_bad_webdataset_samples(tmp_path, extra, message):
    shard(tmp_path / "w/train-0.tar", two_each() | extra)
    shard(tmp_path / "w/test-0.tar", two_each())
    with pytest.raises(PpvitError, match=message):
        everything(open_at(tmp_path / "w", "webdataset"))


def test_webdataset_folders_without_usable_shards(tmp_path, capsys):
    fill(tmp_path / "w", "a/{2}.png")
    with pytest.raises(PpvitError, match="holds no shards"):
        open_at(tmp_path / "w", "webdataset")
    shard(tmp_path / "w/test-0.tar", two_each())
    with pytest.raises(PpvitError, match="no train shards"):
        open_at(tmp_path / "w", "webdataset")
    shard(tmp_path / "w/train-0.tar", two_each())
    shard(tmp_path / "w/other.tar", two_each())
    open_at(tmp_path / "w", "webdataset")
    assert "other.tar" in capsys.readouterr().err
    (tmp_path / "w/train-0.tar").write_bytes((tmp_path / "w/train-0.tar").read_bytes()[:700])
    with pytest.raises(PpvitError, match=r"train-0\.tar is damaged"):
        open_at(tmp_path / "w", "webdataset")


def test_unknown_names(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'webdataset'"):
        open_at(tmp_path, "webdatset")
