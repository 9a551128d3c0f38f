"""All sets of MedMNIST: several labels, ordered grades, volumes, sizes, official validation images."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_config
from image_files import fill, open_at
from PIL import Image

from ppvit.core.errors import PpvitError, UsageError
from ppvit.datasets import CHOICES, DATASETS
from ppvit.datasets.medmnist_info import INFO
from ppvit.pipeline import STAGES


def npz(path, classes=2, shape=(28, 28), labels=None, splits=("train", "val", "test")):
    """A file of this form, with ``2 classes`` images in train, and as many as classes in the others."""
    rng, arrays = np.random.default_rng(0), {}
    for split in splits:
        count = classes * (2 if split == "train" else 1)
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None] if labels is None else labels
    np.savez_compressed(path, **arrays)
    return arrays


def pixels(samples):
    return np.stack([np.asarray(Image.open(io.BytesIO(sample.image))) for sample in samples])


def test_the_table_is_that_of_the_papers():
    assert len(INFO) == 18
    md5s = [md5 for info in INFO.values() for md5 in info.md5.values()]
    assert len(set(md5s)) == 12 * 4 + 6 * 2
    assert all(len(md5) == 32 and set(md5) <= set("0123456789abcdef") for md5 in md5s)
    # MedMNIST v2 (Yang et al. 2023), table 2: samples in all, and classes
    table = {"pathmnist": (107180, 9), "chestmnist": (112120, 14), "dermamnist": (10015, 7), "octmnist": (109309, 4)}
    table |= {"pneumoniamnist": (5856, 2), "retinamnist": (1600, 5), "breastmnist": (780, 2), "bloodmnist": (17092, 8)}
    table |= {"tissuemnist": (236386, 8), "organamnist": (58830, 11), "organcmnist": (23583, 11)}
    table |= {"organsmnist": (25211, 11), "organmnist3d": (1742, 11), "nodulemnist3d": (1633, 2)}
    table |= {"adrenalmnist3d": (1584, 2), "fracturemnist3d": (1370, 3), "vesselmnist3d": (1908, 2)}
    table |= {"synapsemnist3d": (1759, 2)}
    assert {name: (sum(info.counts), len(info.classes)) for name, info in INFO.items()} == table
    assert {name for name, info in INFO.items() if info.kind == "labels"} == {"chestmnist"}
    assert {name for name, info in INFO.items() if info.kind == "grades"} == {"retinamnist"}


def test_official_validation_images_are_kept(tmp_path):
    arrays = npz(tmp_path / "breastmnist.npz")
    source = open_at(tmp_path, "breastmnist")
    val = list(source.val())
    np.testing.assert_array_equal(pixels(val), arrays["val_images"])
    assert [sample.label for sample in val] == arrays["val_labels"][:, 0].tolist()
    npz(tmp_path / "breastmnist.npz", splits=("train", "test"))
    assert open_at(tmp_path, "breastmnist").val is None


def test_chest_images_carry_any_number_of_labels(tmp_path):
    labels = np.zeros((28, 14), np.int64)
    labels[0, [0, 13]] = 1
    labels[2:16] = np.eye(14)
    npz(tmp_path / "chestmnist.npz", 14, labels=labels, splits=["train"])
    train = dict(np.load(tmp_path / "chestmnist.npz"))
    arrays = {name.replace("train", split): array for split in ("train", "test") for name, array in train.items()}
    np.savez(tmp_path / "chestmnist.npz", **arrays)
    source = open_at(tmp_path, "chestmnist")
    assert source.multilabel
    assert source.classes[13] == "hernia"
    assert [sample.label for sample in source.test()] == [(0, 13), (), *((n,) for n in range(14)), *[()] * 12]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((28, 13), np.uint8), r"expected is a 0 or 1 of each label, \(n, 14\)"),
        (np.zeros(28, np.uint8), "0 or 1 of each label"),
        (np.full((28, 14), 2, np.uint8), r"train_labels\[0\] is 2, expected 0 to 1"),
        (np.full((28, 14), -1), "is -1, expected 0 to 1"),
        (np.zeros((28, 14)), "whole numbers"),
    ],
)
def test_labels_that_are_not_those_of_chest_images(tmp_path, labels, message):
    npz(tmp_path / "chestmnist.npz", 14, labels=labels)
    with pytest.raises(PpvitError, match=message):
        open_at(tmp_path, "chestmnist")


def test_ordered_grades_are_taken_as_classes_and_that_is_said(tmp_path, capsys):
    npz(tmp_path / "retinamnist.npz", 5, (28, 28, 3))
    assert [sample.label for sample in open_at(tmp_path, "retinamnist").test()] == list(range(5))
    assert "its grades are ordered; they are learned and scored as classes" in capsys.readouterr().out


# --- volumes

VOLUMES = [name for name in INFO if name.endswith("3d")]


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_are_refused_unless_slices_are_asked_for(tmp_path, name):
    classes = len(INFO[name].classes)
    arrays = npz(tmp_path / f"{name}.npz", classes, (6, 7, 8))
    with pytest.raises(UsageError, match="volumes, not images; set dataset.slices=middle"):
        open_at(tmp_path, name)
    source = open_at(tmp_path, name, slices="middle")
    np.testing.assert_array_equal(pixels(source.train()), arrays["train_images"][:, 3])
    assert [sample.label for sample in source.val()] == list(range(classes))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_every_axis(tmp_path, axis):
    arrays = npz(tmp_path / "vesselmnist3d_64.npz", 2, (6, 7, 8))
    volumes = arrays["test_images"]
    middle = list(open_at(tmp_path, "vesselmnist3d", slices="middle", slice_axis=axis).test())
    np.testing.assert_array_equal(pixels(middle), volumes.take((6, 7, 8)[axis] // 2, axis + 1))
    assert middle[1].origin == f"vesselmnist3d_64.npz test_images, the middle slice along axis {axis}[1]"
    every = list(open_at(tmp_path, "vesselmnist3d", slices="all", slice_axis=axis).test())
    depth = (6, 7, 8)[axis]
    assert [sample.label for sample in every] == [0] * depth + [1] * depth
    np.testing.assert_array_equal(pixels(every[depth:]), np.moveaxis(volumes[1], axis, 0))


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 28, 3), (28, 0, 28)])
def test_what_is_no_volume(tmp_path, shape):
    npz(tmp_path / "organmnist3d.npz", 11, shape)
    with pytest.raises(PpvitError, match=r"expected are volumes, uint8 \(n, D, H, W\)"):
        open_at(tmp_path, "organmnist3d", slices="middle")


# --- sizes


def test_the_size_is_that_of_the_file_found_or_the_parameters(tmp_path):
    folder = fill(tmp_path / "d", "stray.png")
    small, large = npz(folder / "breastmnist.npz"), npz(folder / "breastmnist_128.npz", shape=(128, 128))
    with pytest.raises(UsageError, match=r"breastmnist at 28, 128 px; set dataset\.source_size"):
        open_at(folder, "breastmnist")
    for size, arrays in ((28, small), (128, large)):
        source = open_at(folder, "breastmnist", source_size=size)
        np.testing.assert_array_equal(pixels(source.test()), arrays["test_images"])
    with pytest.raises(PpvitError, match="has no breastmnist_64.npz but breastmnist.npz"):
        open_at(folder, "breastmnist", source_size=64)
    (folder / "breastmnist.npz").unlink()
    assert pixels(open_at(folder, "breastmnist").test()).shape == (2, 128, 128)
    assert pixels(open_at(folder / "breastmnist_128.npz", "breastmnist").test()).shape == (2, 128, 128)


def test_a_file_of_another_size_than_asked_for_is_refused(tmp_path):
    npz(tmp_path / "own.npz")
    with pytest.raises(PpvitError, match=r"train_images has images of 28 x 28 px, dataset\.source_size is 64"):
        open_at(tmp_path / "own.npz", "breastmnist", source_size=64)


@pytest.mark.parametrize(("name", "size"), [("organmnist3d", 128), ("organmnist3d", 224)])
def test_sizes_that_are_not_published(tmp_path, name, size):
    npz(tmp_path / f"{name}.npz", 11, (28, 28, 28))
    with pytest.raises(UsageError, match="published at 28, 64 px"):
        open_at(tmp_path, name, source_size=size, slices="middle")


@pytest.mark.parametrize("size", [0, 28, 64, 128, 224])
def test_the_official_file_of_a_size_is_known_by_its_checksum(tmp_path, monkeypatch, capsys, size):
    path = tmp_path / ("breastmnist.npz" if size in (0, 28) else f"breastmnist_{size}.npz")
    npz(path, shape=(size or 28,) * 2)
    info = INFO["breastmnist"]
    md5 = info.md5 | {size or 28: hashlib.md5(path.read_bytes()).hexdigest()}
    monkeypatch.setitem(INFO, "breastmnist", replace(info, md5=md5))
    assert open_at(path, "breastmnist", source_size=size).description == path.name
    assert not capsys.readouterr().err


@pytest.mark.parametrize("size", [64, 128, 224])
def test_names_with_a_size_say_which_parameter_has_it(size):
    for name, info in INFO.items():
        if size in info.md5:
            with pytest.raises(UsageError, match=f"dataset.name={name} and dataset.source_size={size}"):
                DATASETS[f"{name}_{size}"]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("digits", set()),
        ("pathmnist", {"source_size"}),
        ("organmnist3d", {"source_size", "slices", "slice_axis"}),
        ("emnist", {"subset"}),
        ("huggingface", {"subset", "image_column", "label_column"}),
    ],
)
def test_a_parameter_that_the_data_set_does_not_read_reruns_nothing(name, read):
    changed = {"source_size": 64, "slices": "all", "slice_axis": 1, "subset": "x", "image_column": "y"}
    changed["label_column"] = "z"
    assert set(changed) == set(CHOICES)

    def settings(**values):
        return STAGES["download"].narrowed(make_config(dataset={"name": name, **values})).model_dump(exclude_unset=True)

    assert {key for key, value in changed.items() if settings(**{key: value}) != settings()} == read
