"""Data sets known by name: their official formats, read from small files of the same layout."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import fill, open_at
from PIL import Image

from ppvit.core.errors import PpvitError
from ppvit.datasets.imagenette import _CLASSES, _MD5, _URL


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
    with pytest.raises(PpvitError, match="not the official file"):
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
    # the header of gzip holds the time, and pytest's processes must agree on names
    ids=["missing", "damaged", "short header", "short images", "label 10", "a label less"],
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
