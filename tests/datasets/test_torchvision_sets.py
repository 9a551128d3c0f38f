"""Data sets that torchvision knows: small files in their official forms, read as torchvision reads them."""

import bz2
import gzip
import hashlib
import io
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from image_files import open_at
from PIL import Image
from scipy.io import savemat
from test_fetch import server  # noqa: F401 - a fixture

from ppvit.config import NO_DATA
from ppvit.core.errors import PpvitError, UsageError
from ppvit.datasets import open_source


def pixels(samples):
    return np.stack([np.asarray(Image.open(io.BytesIO(sample.image))) for sample in samples])


def md5(data):
    return hashlib.md5(data).hexdigest()


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def as_torchvision(name, root, of, **kwargs):
    """(images, labels) by torchvision's own loader."""
    dataset = getattr(torchvision.datasets, name)(str(root), **{"train": of == "train"} | kwargs)
    return np.asarray(dataset.data), np.asarray(getattr(dataset, "targets", getattr(dataset, "labels", None)))


def idx_files(folder, names, classes=10, first=0, pack=None):
    """Four files; images are 28 x 28 noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    files = {}
    for images, labels in names:
        files[images] = idx(rng.integers(0, 256, (2 * classes, 28, 28), dtype=np.uint8))
        files[labels] = idx((np.arange(2 * classes) % classes + first).astype(np.uint8))
    for name, data in files.items():
        path = folder / (f"{name}.gz" if pack else name)
        path.write_bytes(gzip.compress(data, mtime=0) if pack else data)
    return folder


MNIST = [(f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte") for split in ("train", "t10k")]
LIKE_MNIST = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


@pytest.mark.parametrize("name", LIKE_MNIST)
def test_what_torchvision_has_unpacked_is_read_as_it_reads_it(tmp_path, capsys, name):
    kind = LIKE_MNIST[name]
    idx_files(tmp_path / "root" / kind / "raw", MNIST)
    source = open_at(tmp_path / "root", name)
    assert "no checksum is published of the unpacked files" in capsys.readouterr().err
    for split in ("train", "test"):
        samples = list(getattr(source, split)())
        images, labels = as_torchvision(kind, tmp_path / "root", split)
        np.testing.assert_array_equal(pixels(samples), images)
        assert [sample.label for sample in samples] == labels.tolist()
    if name != "mnist":
        assert source.classes == getattr(torchvision.datasets, kind).classes


@pytest.mark.parametrize("name", LIKE_MNIST)
def test_packed_files_are_compared_with_the_published_checksums(tmp_path, monkeypatch, capsys, name):
    folder = idx_files(tmp_path / "d", MNIST, pack=True)
    assert open_at(folder, name).description == f"{LIKE_MNIST[name]} idx files, not the official ones"
    assert "differs from the official file" in capsys.readouterr().err
    known = [(path.name, md5(path.read_bytes())) for path in sorted(folder.iterdir())]
    monkeypatch.setattr(getattr(torchvision.datasets, LIKE_MNIST[name]), "resources", known)
    assert open_at(folder, name).description == f"{LIKE_MNIST[name]} idx files"
    assert not capsys.readouterr().err


def test_a_download_is_verified_and_kept_by_name(tmp_path, monkeypatch, server):  # noqa: F811
    folder = idx_files(tmp_path / "served", MNIST, pack=True)
    names = [name for pair in MNIST for name in pair]
    # the server gives one content: all four files are of labels, which is noticed after the checksum
    server.content = (folder / f"{names[1]}.gz").read_bytes()
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [server.url("")])
    monkeypatch.setattr(
        torchvision.datasets.FashionMNIST, "resources", [(f"{name}.gz", md5(server.content)) for name in names]
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PpvitError, match="is no whole idx file of 3-dimensional uint8"):
        open_source("fashion_mnist", NO_DATA, tmp_path / "cache", 0.2, 0)
    kept = sorted(path.name for path in (tmp_path / "cache/fashion_mnist").glob("*.gz"))
    assert kept == sorted(f"{name}.gz" for name in names)


# --- EMNIST


def emnist_names(subset):
    return [
        (f"emnist-{subset}-{s}-images-idx3-ubyte", f"emnist-{subset}-{s}-labels-idx1-ubyte") for s in ("train", "test")
    ]


def emnist_zip(path, subsets, monkeypatch):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for subset, (classes, first) in subsets.items():
            folder = idx_files(path.parent / f"of-{subset}", emnist_names(subset), classes, first, pack=True)
            for file in sorted(folder.iterdir()):
                archive.write(file, f"gzip/{file.name}")
            shutil.rmtree(folder)
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", md5(path.read_bytes()))
    return path


SUBSETS = {"byclass": (62, 0), "bymerge": (47, 0), "balanced": (47, 0), "letters": (26, 1), "digits": (10, 0)}
SUBSETS |= {"mnist": (10, 0)}


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_subset_of_emnist_is_read_upright(tmp_path, monkeypatch, subset):
    path = emnist_zip(tmp_path / "EMNIST/raw/gzip.zip", {subset: SUBSETS[subset]}, monkeypatch)
    source = open_at(tmp_path, "emnist", subset=subset)
    with zipfile.ZipFile(path) as archive:  # as torchvision leaves them
        for member in archive.namelist():
            (path.parent / Path(member).stem).write_bytes(gzip.decompress(archive.read(member)))
    classes, first = SUBSETS[subset]
    assert len(source.classes) == classes
    for split in ("train", "test"):
        samples = list(getattr(source, split)())
        images, labels = as_torchvision("EMNIST", tmp_path, split, split=subset)
        np.testing.assert_array_equal(pixels(samples), images.swapaxes(1, 2))
        assert [sample.label + first for sample in samples] == labels.tolist()
        names = torchvision.datasets.EMNIST.classes_split_dict[subset]
        assert source.classes[samples[3].label] == names[labels[3]]
    path.unlink()
    assert pixels(open_at(tmp_path, "emnist", subset=subset).test()).tolist() == pixels(samples).tolist()


def test_emnist_is_balanced_unless_a_subset_is_asked_for(tmp_path, monkeypatch, server):  # noqa: F811
    path = emnist_zip(tmp_path / "served/gzip.zip", {"balanced": (47, 0), "digits": (10, 0)}, monkeypatch)
    server.content = path.read_bytes()
    monkeypatch.setattr(torchvision.datasets.EMNIST, "url", server.url("gzip.zip"))
    monkeypatch.chdir(tmp_path)
    for subset, classes in (("", 47), ("digits", 10)):
        source = open_source("emnist", NO_DATA, tmp_path / "cache", 0.2, 0, subset=subset)
        assert len(source.classes) == classes
        assert source.val is None  # as its entry says
    assert server.log == [None]  # one download
    with pytest.raises(UsageError, match=r"dataset\.subset: emnist has balanced, .*, but no 'Letters'"):
        open_source("emnist", NO_DATA, tmp_path / "cache", 0.2, 0, subset="Letters")
    with pytest.raises(PpvitError, match="has no emnist-mnist-train-images-idx3-ubyte.gz"):
        open_source("emnist", NO_DATA, tmp_path / "cache", 0.2, 0, subset="mnist")


@pytest.mark.parametrize("first", [0, 2])
def test_letters_are_numbered_from_one(tmp_path, first):
    idx_files(tmp_path / "d", emnist_names("letters"), 26, first, pack=True)
    with pytest.raises(PpvitError, match="labels that do not fit"):
        open_at(tmp_path / "d", "emnist", subset="letters")


def test_an_archive_that_is_not_the_official_one_is_refused(tmp_path):
    (tmp_path / "gzip.zip").write_bytes(b"PK")
    for path in (tmp_path, tmp_path / "gzip.zip"):
        with pytest.raises(PpvitError, match=r"gzip\.zip is not the official file \(MD5 58c8d27c"):
            open_at(path, "emnist")


# --- SVHN, USPS, STL-10


def svhn_files(folder, monkeypatch):
    rng, known = np.random.default_rng(0), {}
    folder.mkdir()
    for split in ("train", "test"):
        path = folder / f"{split}_32x32.mat"
        labels = np.arange(1, 11, dtype=np.uint8)[:, None]  # the digit 0 is 10 in the files
        savemat(path, {"X": rng.integers(0, 256, (32, 32, 3, 10), dtype=np.uint8), "y": labels})
        known[split] = [f"http://127.0.0.1:9/{path.name}", path.name, md5(path.read_bytes())]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)


def usps_files(folder, monkeypatch):
    rng, known = np.random.default_rng(0), {}
    folder.mkdir()
    for split, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        lines = (
            " ".join([str(label), *(f"{n + 1}:{value:.4f}" for n, value in enumerate(rng.uniform(-1, 1, 256)))])
            for label in range(1, 11)
        )
        (folder / name).write_bytes(bz2.compress("\n".join(lines).encode()))
        known[split] = [f"http://127.0.0.1:9/{name}", name, md5((folder / name).read_bytes())]
    monkeypatch.setattr(torchvision.datasets.USPS, "split_list", known)


def test_svhn_is_read_as_torchvision_reads_it(tmp_path, monkeypatch, capsys):
    svhn_files(tmp_path / "d", monkeypatch)
    for path in (tmp_path / "d", tmp_path / "d/train_32x32.mat"):
        source = open_at(path, "svhn")
        assert "extra_32x32.mat) are not used" in capsys.readouterr().err
        for split in ("train", "test"):
            samples = list(getattr(source, split)())
            expected = torchvision.datasets.SVHN(str(tmp_path / "d"), split=split)
            np.testing.assert_array_equal(pixels(samples), [np.asarray(image) for image, _ in expected])
            assert [sample.label for sample in samples] == [label for _, label in expected] == [*range(1, 10), 0]
    assert source.classes == [str(digit) for digit in range(10)]


def test_usps_is_read_as_torchvision_reads_it(tmp_path, monkeypatch):
    usps_files(tmp_path / "d", monkeypatch)
    source = open_at(tmp_path / "d", "usps")
    for split in ("train", "test"):
        samples = list(getattr(source, split)())
        images, labels = as_torchvision("USPS", tmp_path / "d", split)
        np.testing.assert_array_equal(pixels(samples), images)
        assert [sample.label for sample in samples] == labels.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("name", "make", "file"), [("svhn", svhn_files, "test_32x32.mat"), ("usps", usps_files, "usps.t.bz2")]
)
def test_files_that_are_not_the_official_ones_are_not_read(tmp_path, monkeypatch, name, make, file):
    make(tmp_path / "d", monkeypatch)
    (tmp_path / "d" / file).write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(PpvitError, match=f"{file} is not the official file"):
        open_at(tmp_path / "d", name)
    (tmp_path / "d" / file).unlink()
    with pytest.raises(PpvitError, match=f"{file} cannot be read .No such file"):
        open_at(tmp_path / "d", name)


def stl10_files(folder, monkeypatch):
    rng, known, kind = np.random.default_rng(0), {}, torchvision.datasets.STL10
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(rng.integers(0, 256, (10, 3, 96, 96), dtype=np.uint8).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(range(1, 11)))
    (folder / "unlabeled_X.bin").write_bytes(bytes(3 * 96 * 96))
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n")
    known = {path.name: md5(path.read_bytes()) for path in folder.iterdir()}
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(kind, name, [[file, known[file]] for file, _ in getattr(kind, name)])


@pytest.mark.parametrize("packed", [False, True])
def test_stl10_is_read_as_torchvision_reads_it(tmp_path, monkeypatch, capsys, packed):
    folder = tmp_path / "root/stl10_binary"
    stl10_files(folder, monkeypatch)
    expected = {split: torchvision.datasets.STL10(str(tmp_path / "root"), split=split) for split in ("train", "test")}
    paths = [tmp_path / "root", folder]
    if packed:
        archive = tmp_path / "d/stl10_binary.tar.gz"
        archive.parent.mkdir()
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, "stl10_binary")
        monkeypatch.setattr(torchvision.datasets.STL10, "tgz_md5", md5(archive.read_bytes()))
        paths = [archive, archive.parent]
    for path in paths:
        source = open_at(path, "stl10")
        assert "unlabelled images of stl10 are not used" in capsys.readouterr().err
        assert source.classes == expected["train"].classes
        for split in ("train", "test"):
            samples = list(getattr(source, split)())
            np.testing.assert_array_equal(pixels(samples), [np.asarray(image) for image, _ in expected[split]])
            assert [sample.label for sample in samples] == list(range(10))


def test_stl10_needs_no_unlabelled_file_and_takes_no_other_files(tmp_path, monkeypatch):
    stl10_files(tmp_path / "stl10_binary", monkeypatch)
    (tmp_path / "stl10_binary/unlabeled_X.bin").unlink()
    assert len(list(open_at(tmp_path / "stl10_binary", "stl10").train())) == 10
    (tmp_path / "stl10_binary/test_y.bin").write_bytes(bytes(10))
    with pytest.raises(PpvitError, match=r"test_y\.bin is not the official file"):
        open_at(tmp_path / "stl10_binary", "stl10")
    (tmp_path / "stl10_binary.tar.gz").write_bytes(b"x")
    with pytest.raises(PpvitError, match=r"tar\.gz is not the official file \(MD5 91f7769d"):
        open_at(tmp_path / "stl10_binary.tar.gz", "stl10")


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist", "svhn", "usps", "stl10", "emnist"])
def test_class_folders_stand_in_for_the_official_files(tmp_path, name):
    from image_files import fill

    fill(tmp_path / "d", *(f"{split}/{label}/x.png" for split in ("train", "test") for label in range(10)))
    assert len(open_at(tmp_path / "d", name, subset="digits").classes) == 10
