"""Stage `download`: any source becomes the same raw shards, whole or not at all."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import make_places
from PIL import Image

from ppvit.config import NO_DATA, Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import sha256_of
from ppvit.core.scratch import cache_folder
from ppvit.data.shards import ShardReader, read_manifest
from ppvit.datasets import open_source
from ppvit.verbs import download


@pytest.fixture(autouse=True)
def empty_project(tmp_path, monkeypatch):
    """A folder of the test's own, into which the stage writes."""
    monkeypatch.chdir(tmp_path)


def config(name, path=NO_DATA, test_fraction=0.2, seed=0):
    return Config.model_validate(
        {section: {} for section in Config.model_fields}
        | {
            "dataset": {"name": name, "path": str(path), "seed": seed},
            "cipher": {"key_id": "pk-" + "0" * 16},
            "download": {"holdout_fraction": test_fraction},
        }
    )


def assets(name):
    folder = os.environ.get("PPVIT_ASSETS")
    if not folder:
        pytest.skip("PPVIT_ASSETS is not set: it names the folder of real data and weights")
    return Path(folder) / name


def raw(name, path=NO_DATA, **settings):
    chosen = config(name, path, **settings)
    out = make_places(Path(), chosen).raw
    download.run(chosen, make_places(Path(), chosen), cache=Path("cache"))
    return out, json.loads((out / "dataset.json").read_text(encoding="utf-8"))


def samples(out, split):
    """(bytes, label, origin) of every sample, by an independent reader."""
    members = {}
    for shard in sorted(out.glob(f"{split}-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                index, extension = member.name.split(".")
                members.setdefault(int(index), {})[extension] = tar.extractfile(member).read()
    assert sorted(members) == list(range(len(members)))
    for sample in (members[index] for index in range(len(members))):
        label, origin = int(sample.pop("cls")), sample.pop("txt").decode()
        [(_, image)] = sample.items()
        yield image, label, origin


def pets(folder):
    """Two classes, two splits; returns the bytes by relative path."""
    rng, written = np.random.default_rng(0), {}
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            for number in range(count):
                path = folder / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(path)
                written[f"{split}/{name}/{number}.png"] = path.read_bytes()
    return written


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    out, description = raw("digits", test_fraction=0.25)
    assert description["classes"] == [str(digit) for digit in range(10)]
    assert description["counts"] == {"train": 1347, "test": 450}  # ceil(1797 / 4) = 450
    found = [s for split in ("train", "test") for s in samples(out, split)]
    pixels = sorted((np.asarray(Image.open(io.BytesIO(image))).tobytes(), label) for image, label, _ in found)
    bunch = load_digits()
    expected = np.rint(bunch.images * 255 / 16).astype(np.uint8)  # ink from 0 to 16 becomes grey from 0 to 255
    assert pixels == sorted((image.tobytes(), int(label)) for image, label in zip(expected, bunch.target, strict=True))


def test_digits_split_is_stratified():
    out, _ = raw("digits")
    of_class = [np.bincount([label for _, label, _ in samples(out, split)]) for split in ("train", "test")]
    share = of_class[1] / (of_class[0] + of_class[1])
    assert np.all(np.abs(share - 0.2) < 0.01)


def test_raw_shards_hold_the_users_own_bytes_labels_and_names(tmp_path):
    written = pets(tmp_path / "pets")
    out, description = raw("imagefolder", tmp_path / "pets")
    assert description == {
        "schema": 2,
        "name": "imagefolder",
        "classes": ["cat", "dog"],
        "source": "pets",
        "wide": None,
        "checks": description["checks"],  # see test_findings.py
        "counts": {"train": 6, "test": 4},
        "shards": {
            split: [{"name": f"{split}-000000.tar", "samples": n, "sha256": sha256_of(out / f"{split}-000000.tar")}]
            for split, n in (("train", 6), ("test", 4))
        },
    }
    for split in ("train", "test"):
        expected = [(written[n], int("dog" in n), n) for n in sorted(written) if n.startswith(split)]
        assert list(samples(out, split)) == expected


def test_raw_shards_are_what_the_next_stage_reads(tmp_path):
    written = pets(tmp_path / "pets")
    out, _ = raw("imagefolder", tmp_path / "pets")
    reader = ShardReader(out, "test", read_manifest(out, "download", "dataset.json")["shards"]["test"])
    assert reader.labels().tolist() == [0, 0, 1, 1]
    assert reader.image(2) == written["test/dog/0.png"]
    assert "test/dog/0.png" in reader.name(2)


def test_more_images_than_a_shard_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("ppvit.datasets.raw.IMAGES_PER_SHARD", 4)
    pets(tmp_path / "pets")
    out, description = raw("imagefolder", tmp_path / "pets")
    assert [shard["samples"] for shard in description["shards"]["train"]] == [4, 2]
    assert len(list(samples(out, "train"))) == 6


def test_same_data_same_bytes_changed_data_other_bytes(tmp_path):
    pets(tmp_path / "pets")
    _, first = raw("imagefolder", tmp_path / "pets")
    os.utime(tmp_path / "pets/train/cat/0.png", (1, 1))
    _, again = raw("imagefolder", tmp_path / "pets")
    assert again == first
    Image.new("L", (3, 3)).save(tmp_path / "pets/train/cat/0.png")
    _, changed = raw("imagefolder", tmp_path / "pets")
    assert changed["shards"]["train"] != first["shards"]["train"]
    assert changed["shards"]["test"] == first["shards"]["test"]


def test_nothing_half_written_and_the_old_output_stays(tmp_path):
    pets(tmp_path / "pets")
    out, before = raw("imagefolder", tmp_path / "pets")
    (tmp_path / "pets/test/dog/1.png").write_bytes(b"no image")
    with pytest.raises(PpvitError, match=r"cannot be decoded: test/dog/1\.png \(of no kind that is read\)"):
        raw("imagefolder", tmp_path / "pets")
    assert json.loads((out / "dataset.json").read_text()) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["imagefolder", "imagefolder.refused"]


def test_too_small_a_disk_is_noticed_at_the_start(tmp_path, monkeypatch):
    pets(tmp_path / "pets")
    monkeypatch.setattr("ppvit.core.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(PpvitError, match="free some space"):
        raw("imagefolder", tmp_path / "pets")
    assert not Path("data").exists() or not list(Path("data/raw").iterdir())


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("cifer10", NO_DATA, "unknown dataset.name 'cifer10'; did you mean 'cifar10'"),
        ("pneumonia", NO_DATA, "unknown dataset.name 'pneumonia'; did you mean 'pneumoniamnist'"),
        ("xyzzy", NO_DATA, "unknown dataset.name 'xyzzy'; there are .*digits"),
        ("chestmnist_64", NO_DATA, "dataset.name=chestmnist and dataset.source_size=64"),
        ("organmnist3d", NO_DATA, "volumes, not images; set dataset.slices=middle"),
        ("imagefolder", "nowhere", "nowhere does not exist; set it to your folder or archive, or back to data/none"),
        ("imagefolder", NO_DATA, "dataset.name=imagefolder needs images: set dataset.path"),
        ("webdataset", NO_DATA, "dataset.name=webdataset needs shards: set dataset.path"),
        ("digits", "pets", "imagefolder"),
        ("imagefolder", "empty", "empty folder"),
        ("imagefolder", "with a readme", "empty folder"),
        ("imagefolder", "notes.txt", "neither a folder nor"),
        ("imagefolder", "data", "overlaps"),
        ("imagefolder", ".", "overlaps"),
    ],
)
def test_wrong_parameters_are_usage_errors_of_one_line(tmp_path, name, path, message):
    pets(tmp_path / "pets")
    Path("empty").mkdir()
    Path("with a readme").mkdir()
    Path("with a readme/README.md").write_text("put your images here")
    Path("data").mkdir()
    Path("notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=message) as caught:
        raw(name, path)
    assert "\n" not in str(caught.value)


def test_what_lies_in_the_users_folder_is_not_used_unasked(capsys):
    pets(Path("data/local"))
    assert raw("digits")[1]["source"] == "sklearn.datasets.load_digits"
    assert not capsys.readouterr().err
    assert raw("imagefolder", "data/local")[1]["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_digits_refuses_a_split_without_some_digit(fraction):
    with pytest.raises(UsageError, match="holdout_fraction"):
        raw("digits", test_fraction=fraction)


def test_cache_folder_can_be_chosen(monkeypatch):
    monkeypatch.setenv("PPVIT_CACHE", "/somewhere/else")
    assert cache_folder() == Path("/somewhere/else")


def test_import_does_not_load_torch():
    code = "import sys, ppvit.verbs.download, ppvit.datasets; assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(download.__file__).parents[1])


@pytest.mark.assets
@pytest.mark.parametrize("in_folder", [False, True])
def test_real_pneumoniamnist(in_folder):
    path = assets("pneumoniamnist.npz")
    out, description = raw("pneumoniamnist", path.parent if in_folder else path)
    assert description["classes"] == ["normal", "pneumonia"]
    assert description["counts"] == {"train": 4708, "val": 524, "test": 624}  # MedMNIST v2, table 2
    arrays = np.load(path)
    pixels = {split: [image.tobytes() for image in arrays[f"{split}_images"]] for split in ("train", "val", "test")}
    for split, found in pixels.items():
        assert description["checks"][f"{split}_repeated"] == len(found) - len(set(found))
    assert description["checks"]["val_known"] == sum(map(set(pixels["train"]).__contains__, pixels["val"])) == 8
    found = list(samples(out, "test"))
    assert [label for _, label, _ in found] == arrays["test_labels"][:, 0].tolist()
    for number in (0, 311, 623):
        image = np.asarray(Image.open(io.BytesIO(found[number][0])))
        np.testing.assert_array_equal(image, arrays["test_images"][number])


@pytest.mark.assets
def test_real_cifar10_as_a_compressed_tar_of_class_folders(tmp_path):
    source = open_source("cifar10", assets("cifar10_jpeg_q75.tar.xz"), tmp_path, 0.2, 0)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert source.classes == names  # the official order
    test = [(sample.label, sample.origin.split("/")[:2]) for sample in source.test()]
    assert Counter(label for label, _ in test) == dict.fromkeys(range(10), 1000)
    assert all(folders == ["test", names[label]] for label, folders in test)
    assert next(source.train()).origin.startswith("train/airplane/")
