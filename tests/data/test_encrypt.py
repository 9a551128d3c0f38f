"""The encrypt stage: byte-stable shards that others can read, and nothing of the key or the plain images in them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data
import webdataset
from conftest import make_config, make_places, write_raw
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.ciphers.keys import Key
from ppvit.config import Config
from ppvit.core import reading
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data import encrypted
from ppvit.data.batches import EncryptedImages
from ppvit.data.plain import PlainImages, select
from ppvit.data.shards import read_manifest
from ppvit.verbs import encrypt

SMALL = {"dataset": {"image_size": 16}, "encrypt": {"images_per_shard": 16}}


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw", {"train": 50, "test": 12})


def run(config: Config, raw: Path, out: Path) -> dict[str, Any]:
    """Encrypt ``raw`` into ``out``; what the manifest of the training images says."""
    encrypt.run(config, make_places(out.parent, config, raw=raw, encrypted=out))
    return read_manifest(out / "train")


def test_same_bytes_whatever_the_number_of_workers(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(encrypted, "PARALLEL_PIXELS", 0)
    for workers in ("1", "3"):
        monkeypatch.setenv("PPVIT_WORKERS", workers)
        run(make_config(**SMALL), raw, tmp_path / workers)
    digests = reading.sha256_of_folder(tmp_path / "1")
    assert digests == reading.sha256_of_folder(tmp_path / "3")
    expected = {f"{split}/{name}" for split in ("train", "val", "test") for name in ("manifest.json", "_info.json")}
    expected |= {"track_test_true.json", "track_test_false.json"}
    expected |= {"test/000000.tar", *(f"train/{number:06d}.tar" for number in range(4))}
    assert set(digests) == expected


def test_test_images_have_no_part_in_the_shards_that_are_trained_on(raw, tmp_path):
    """So that a change of dataset.test_fraction does not train again."""
    digests = []
    for fraction in (1.0, 0.5):
        config = make_config(**SMALL | {"dataset": {"image_size": 16, "test_fraction": fraction}})
        run(config, raw, tmp_path / str(fraction))
        digests.append([reading.sha256_of_folder(tmp_path / str(fraction) / split) for split in ("train", "test")])
    assert digests[0][0] == digests[1][0]
    assert digests[0][1] != digests[1][1]


def test_shards_hold_the_cipher_of_the_plain_images(raw, tmp_path):
    config = make_config(**SMALL)
    run(config, raw, tmp_path / "out")
    plain = PlainImages(raw, "test", config.dataset, config.encrypt)
    stored = EncryptedImages(tmp_path / "out", "test")
    images = np.stack([stored[index][0].permute(1, 2, 0).numpy() for index in range(12)])
    np.testing.assert_array_equal(load_cipher(config).decrypt(images), plain.read(0, 12))
    assert [stored[index][1] for index in range(12)] == plain.labels.tolist()
    # brightness tells the class in these images, so labels went with their images
    np.testing.assert_array_equal(np.round(plain.read(0, 12).mean((1, 2, 3)) / 50 - 1), plain.labels)


def test_timm_webdataset_and_tarfile_read_them(raw, tmp_path):
    run(make_config(**SMALL), raw, tmp_path / "out")
    expected = sorted(
        (label, image.numpy().tobytes())
        for image, label in (EncryptedImages(tmp_path / "out", "train")[i] for i in range(50))
    )

    dataset = timm.data.create_dataset(
        "wds/own", root=str(tmp_path / "out" / "train"), split="train", is_training=False, batch_size=1
    )
    assert len(dataset) == 50
    read = [(int(label), np.asarray(image).transpose(2, 0, 1).tobytes()) for image, label in dataset]
    assert sorted(read) == expected

    urls = [str(path) for path in sorted((tmp_path / "out" / "train").glob("*.tar"))]
    pipeline = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8").to_tuple("png", "cls")
    assert sorted((label, image.transpose(2, 0, 1).tobytes()) for image, label in pipeline) == expected

    found = []
    for url in urls:
        with tarfile.open(url) as tar:
            contents = {member.name: tar.extractfile(member).read() for member in tar}
        for name in contents:
            if name.endswith(".png"):
                image = np.asarray(Image.open(io.BytesIO(contents[name])))
                found.append((int(contents[name.replace(".png", ".cls")]), image.transpose(2, 0, 1).tobytes()))
    assert sorted(found) == expected


def test_manifest_tells_what_must_match_and_nothing_more(raw, tmp_path):
    key = keys.generate()
    keys.save(key)
    config = make_config(cipher={"key_id": key.id, "name": "block_np"}, **SMALL)
    manifest = run(config, raw, tmp_path / "out")
    public = {"cipher": {"name": "block_np", "block_size": 4}, "key_id": key.id, "demo_key": False, "image_size": 16}
    public |= {"isometry": "values", "isometry_options": {}}
    public |= {"facts": {"linear": True, "permutes": False, "keeps_blocks": True, "one_key": True}}
    stored = {"resize_filter": "bicubic", "crop": "center", "value_range": None, "shape": [16, 16, 3], "dtype": "uint8"}
    for split, count, sizes in (("train", 50, [16, 16, 16, 2]), ("test", 12, [12])):
        shards = [
            {"name": name, "samples": size, "sha256": reading.sha256_of(tmp_path / "out" / split / name)}
            for number, size in enumerate(sizes)
            for name in [f"{number:06d}.tar"]
        ]
        assert json.loads((tmp_path / "out" / split / "manifest.json").read_text()) == {
            "schema": 2, "split": split, "num_classes": 3, "count": count, **public, **stored, "shards": shards
        }  # fmt: skip
    assert manifest["split"] == "train"
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.*"))
    for secret in (key.secret, key.secret.hex().encode(), b"class 0", b"train/0/0.png"):
        assert secret not in everything


def test_demo_key_is_marked_and_plain_needs_no_key(raw, tmp_path, capsys):
    assert run(make_config(**SMALL), raw, tmp_path / "demo")["demo_key"] is True
    assert "public demo key" in capsys.readouterr().err
    plain = make_config(cipher={"name": "none", "key_id": "pk-0123456789abcdef"}, **SMALL)
    manifest = run(plain, raw, tmp_path / "none")
    assert manifest["key_id"] is None
    with pytest.raises(UsageError, match="key pk-0123456789abcdef is not in the keyring"):
        run(make_config(cipher={"key_id": "pk-0123456789abcdef"}, **SMALL), raw, tmp_path / "none")


def test_order_does_not_group_classes(tmp_path):
    raw = write_raw(tmp_path / "raw", {"train": 90, "test": 3})
    config = make_config(**SMALL)
    labels = PlainImages(raw, "train", config.dataset, config.encrypt).labels
    # runs of equal labels in 90 random ones with three classes: 60.3 expected, standard deviation 4.5
    assert 45 < 1 + (np.diff(labels) != 0).sum() < 76


@given(st.lists(st.integers(0, 4), min_size=5, max_size=200), st.floats(0.05, 1.0), st.integers(0, 9))
def test_selection_is_stratified_nested_and_without_repeats(labels, fraction, seed):
    labels = np.array(labels)
    chosen = select(labels, fraction, (seed, 0))
    assert len(set(chosen.tolist())) == len(chosen)
    for label in np.unique(labels):
        count = (labels == label).sum()
        assert (labels[chosen] == label).sum() == max(1, round(fraction * count))
    assert set(chosen.tolist()) <= set(select(labels, min(1.0, fraction * 1.5), (seed, 0)).tolist())
    np.testing.assert_array_equal(chosen, select(labels, fraction, (seed, 0)))


def test_train_fraction_leaves_test_alone(raw):
    some = make_config(dataset={"image_size": 16, "train_fraction": 0.5})
    assert (
        len(PlainImages(raw, "train", some.dataset, some.encrypt)) == 24
    )  # 17, 17 and 16 images of a class: half to even is 8 each
    assert len(PlainImages(raw, "test", some.dataset, some.encrypt)) == 12


def test_class_missing_in_test(tmp_path):
    raw = write_raw(tmp_path / "raw", {"train": 30, "test": 2})
    with pytest.raises(PpvitError, match="class 'class 2' has no test image"):
        run(make_config(**SMALL), raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_class_in_train_is_refused(tmp_path):
    raw = write_raw(tmp_path / "raw", {"train": 1, "test": 6})
    with pytest.raises(PpvitError, match="class 'class 1' has no train image"):
        run(make_config(**SMALL), raw, tmp_path / "out")


def test_undecodable_image_names_its_file_and_leaves_nothing(raw, tmp_path):
    path = raw / "train-000000.tar"
    data = path.read_bytes()
    broken = data.replace(b"IDAT", b"XXXX", 3)
    path.write_bytes(broken)
    manifest = json.loads((raw / "dataset.json").read_text())
    manifest["shards"]["train"][0]["sha256"] = reading.sha256_of(path)
    (raw / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(PpvitError, match=r"sample 0000000\d \(from train/\d/\d\.png\): this image cannot be decoded"):
        run(make_config(**SMALL), raw, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_full_disk_is_told_before_and_during(raw, tmp_path, monkeypatch):
    import errno
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(PpvitError, match="MiB are needed and 0 MiB are free"):
        run(make_config(**SMALL), raw, tmp_path / "out")
    monkeypatch.undo()

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(encrypted, "write_shard", full)
    with pytest.raises(PpvitError, match="the disk is full"):
        run(make_config(**SMALL), raw, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_key_derivation_is_that_of_the_key(raw, tmp_path):
    first, second = Key(bytes(32)), Key(bytes([1]) * 32)
    for key in (first, second):
        keys.save(key)
        run(make_config(cipher={"key_id": key.id}, **SMALL), raw, tmp_path / key.id)
    of_both = [reading.sha256_of(tmp_path / key.id / "test" / "000000.tar") for key in (first, second)]
    assert of_both[0] != of_both[1]


def test_batches_of_the_wrong_size_or_class_are_named(raw, tmp_path):
    run(make_config(**SMALL), raw, tmp_path / "out")
    path = tmp_path / "out" / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    for change, told in (
        (
            {"shape": [20, 20, 3], "image_size": 20},
            r": this ciphertext .*its shape is \(16, 16, 3\), the manifest says \(20, 20, 3\)",
        ),
        ({"dtype": "float16"}, ": this ciphertext .* begin like an array"),
        ({"num_classes": 1}, " has class [12], the manifest says 1"),
    ):
        path.write_text(json.dumps({**manifest, **change}))
        with pytest.raises(PpvitError, match=rf"train/000000\.tar: sample 0000000\d{told}"):
            list(EncryptedImages(tmp_path / "out", "train"))
