"""Raw data behind a key: nothing plain on disk, the same images for every reader, and no change unnoticed."""

import hashlib
import hmac
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import warm_python
from conftest import make_config, make_places
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from PIL import Image

from ppvit.ciphers import keys
from ppvit.ciphers.keys import Key
from ppvit.config import default_yaml
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import sha256_of, sha256_of_folder
from ppvit.data.plain import PlainImages
from ppvit.data.sealed import Seal, read_dataset
from ppvit.data.shards import ShardReader
from ppvit.verbs import download, encrypt

KEY = Key(bytes(range(32)))
CLASSES = ("glioma", "healthy")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 3)):
        for number in range(count * len(CLASSES)):
            path = folder / split / CLASSES[number % 2] / f"patient_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


def downloaded(root: Path, pictures: Path, key_id: str = KEY.id):
    """Parameters and places after `download`; the key is in the ring."""
    keys.save(KEY)
    config = make_config(
        dataset={"name": "imagefolder", "path": str(pictures), "image_size": 16, "val_fraction": 0.3},
        download={"key_id": key_id},
        cipher={"name": "none"},
    )
    places = make_places(root, config)
    download.run(config, places)
    return config, places


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_every_reader_gets_the_same_images_labels_and_names(tmp_path, pictures):
    config, plain = downloaded(tmp_path / "plain", pictures, "none")
    _, sealed = downloaded(tmp_path / "sealed", pictures)
    for places in (plain, sealed):
        encrypt.run(config, places)
    assert sha256_of_folder(sealed.encrypted) == sha256_of_folder(plain.encrypted)
    assert read_dataset(sealed.raw)[0] == {
        **read_dataset(plain.raw)[0],
        "shards": read_dataset(sealed.raw)[0]["shards"],
    }
    first = PlainImages(sealed.raw, "test", config.dataset, config.encrypt)
    second = PlainImages(plain.raw, "test", config.dataset, config.encrypt)
    np.testing.assert_array_equal(first.read(0, 6), second.read(0, 6))
    assert first._reader.name(3).partition("from")[2] == second._reader.name(3).partition("from")[2] != ""


def test_nothing_on_disk_tells_images_classes_or_files(tmp_path, pictures):
    _, places = downloaded(tmp_path, pictures)
    written = b"".join(path.read_bytes() for path in places.raw.iterdir())
    secrets = [path.read_bytes()[40:80] for path in pictures.rglob("*.png")]  # into the pixels
    for secret in [*secrets, *map(str.encode, CLASSES), b"patient", pictures.name.encode(), b"IHDR"]:
        assert secret not in written
    plain, _ = read_dataset(places.raw)
    assert plain["classes"] == list(CLASSES)  # that there was something to hide
    sizes = {len(content) for name, content in members(places.raw / "train-000000.tar").items() if "png" not in name}
    assert len(sizes) == 2  # of labels one, of origins one


def test_members_are_aes_siv_under_a_subkey(tmp_path, pictures):
    """Opened with HKDF of RFC 5869 written out."""
    _, places = downloaded(tmp_path, pictures)
    extracted = hmac.digest(bytes(32), KEY.secret, "sha256")
    first = hmac.digest(extracted, b"ppvit/v1/sealed\x01", "sha256")
    subkey = first + hmac.digest(extracted, first + b"ppvit/v1/sealed\x02", "sha256")
    found = members(places.raw / "test-000000.tar")
    expected = sorted(pictures.glob("test/*/*.png"))
    for index, path in enumerate(expected):
        opened = {
            extension: AESSIV(subkey).decrypt(
                found[f"{index:08d}.{extension}"], [b"imagefolder", b"test", str(index).encode(), kind]
            )
            for extension, kind in (("png", b"image"), ("cls", b"cls"), ("txt", b"txt"))
        }
        assert opened["png"] == path.read_bytes()
        assert int(opened["cls"]) == CLASSES.index(path.parent.name)
        assert opened["txt"].rstrip(b"\0").decode() == path.relative_to(pictures).as_posix()


def test_equal_data_give_equal_bytes_and_equal_samples_do_not(tmp_path, pictures):
    _, first = downloaded(tmp_path / "first", pictures)
    _, second = downloaded(tmp_path / "second", pictures)
    assert sha256_of_folder(first.raw) == sha256_of_folder(second.raw)
    seal = Seal(KEY, "digits")
    twice = list(seal.samples("train", [{"png": b"same", "cls": b"1", "txt": b""}] * 2))
    twice += seal.samples("test", [{"png": b"same", "cls": b"1", "txt": b""}])
    twice += Seal(KEY, "other").samples("train", [{"png": b"same", "cls": b"1", "txt": b""}])
    twice += Seal(Key(bytes(32)), "digits").samples("train", [{"png": b"same", "cls": b"1", "txt": b""}])
    for extension in ("png", "cls", "txt"):
        assert len({sample[extension] for sample in twice}) == 5


def test_wrong_and_missing_keys(tmp_path, pictures):
    _, places = downloaded(tmp_path, pictures)
    other = keys.generate()
    manifest = (places.raw / "dataset.json").read_text()
    (places.raw / "dataset.json").write_text(manifest.replace(KEY.id, other.id))
    with pytest.raises(UsageError, match=f"key {other.id} is not in the keyring"):
        read_dataset(places.raw)
    keys.save(other)
    with pytest.raises(PpvitError, match=f"dataset.json does not open with key {other.id}"):
        read_dataset(places.raw)
    with pytest.raises(UsageError, match="public demo key"):
        downloaded(tmp_path / "demo", pictures, keys.DEMO_KEY.id)
    assert not (tmp_path / "demo").exists()


def test_a_changed_manifest_does_not_open(tmp_path, pictures):
    _, places = downloaded(tmp_path, pictures)
    path = places.raw / "dataset.json"
    whole = json.loads(path.read_text())
    changes = [
        {"name": "digits"},
        {"counts": {**whole["counts"], "train": 9}},
        {"shards": {**whole["shards"], "train": whole["shards"]["test"]}},
        {"more": 1},
        {"sealed": {"key_id": KEY.id, "box": whole["sealed"]["box"][:-8]}},
        {"sealed": {"key_id": KEY.id, "box": "!"}},
        {"sealed": {"key_id": KEY.id, "box": ""}},
        {"sealed": {"key_id": KEY.id}},
        {"sealed": {"key_id": "none", "box": ""}},
        {"sealed": {"key_id": 3, "box": ""}},
        {"sealed": 7},
        {"sealed": None},
    ]
    for change in changes:
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(PpvitError):
            read_dataset(places.raw)


def test_samples_that_were_altered_cut_or_exchanged_do_not_open(tmp_path, pictures):
    """Also where whoever did it has made the checksums anew."""
    _, places = downloaded(tmp_path, pictures)
    shard = places.raw / "train-000000.tar"
    found = members(shard)

    def reader(changed: dict[str, bytes]) -> ShardReader:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with tarfile.open(folder / shard.name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in {**found, **changed}.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        record = {"name": shard.name, "samples": 10, "sha256": sha256_of(folder / shard.name)}
        opened = partial(Seal(KEY, "imagefolder").member, "train")
        return ShardReader(folder, "train", [record], opened=opened)

    assert reader({}).target(9) == 1
    image, label = found["00000003.png"], found["00000003.cls"]
    cases = [
        {"00000003.png": image[:-1] + bytes([image[-1] ^ 1])},
        {"00000003.png": image[:-1]},
        {"00000003.png": image[:5]},
        {"00000003.png": found["00000004.png"]},
        {"00000003.png": members(places.raw / "test-000000.tar")["00000003.png"]},
        {"00000003.png": label},
    ]
    for changed in cases:
        with pytest.raises(PpvitError, match=r"sample 00000003 does not open with key .*restore it"):
            reader(changed).image(3)
    with pytest.raises(PpvitError, match="sample 00000003 does not open"):
        reader({"00000003.cls": found["00000009.cls"]}).labels()


@pytest.mark.skipif(os.name != "posix", reason="files have no modes here")
@pytest.mark.parametrize("key_id", ["none", KEY.id])
def test_raw_data_are_the_users_alone(tmp_path, pictures, key_id):
    before = os.umask(0)
    try:
        downloaded(tmp_path, pictures, key_id)
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    folders = ("data/raw", "data/raw/imagefolder")
    assert all(modes.pop(folder) == 0o700 for folder in folders)
    assert {mode for name, mode in modes.items() if "raw" in name} == {0o600}


@pytest.mark.skipif(os.name != "posix", reason="files have no modes here")
@pytest.mark.parametrize("shared", [False, True])
def test_in_the_pipeline_folders_keep_others_out_of_what_dvc_writes(tmp_path, shared):
    (tmp_path / "params.yaml").write_text(default_yaml())
    (tmp_path / "data" / "raw").mkdir(parents=True, mode=0o755)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[cache]\n    shared = group\n" if shared else "[core]\n")
    code = "from ppvit.cli.script import main; main('stages/download.py')"
    subprocess.run([warm_python.python(), "-c", code], cwd=tmp_path, check=True)
    assert stat.S_IMODE((tmp_path / "data" / "raw").stat().st_mode) == 0o700
    assert (tmp_path / "data" / "raw" / "digits" / "dataset.json").exists()
    cache = tmp_path / ".dvc" / "cache"
    assert (not cache.exists()) if shared else stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_plain_data_set_has_the_bytes_that_it_always_had(tmp_path, pictures):
    """Of a parameter that is off nothing is to be seen, so that nothing is downloaded or encrypted again for it."""
    _, places = downloaded(tmp_path, pictures, "none")
    manifest = json.loads((places.raw / "dataset.json").read_text())
    assert list(manifest) == ["schema", "name", "classes", "source", "wide", "checks", "counts", "shards"]
    found = members(places.raw / "test-000000.tar")
    path = sorted(pictures.glob("test/*/*.png"))[0]
    assert hashlib.sha256(found["00000000.png"]).digest() == hashlib.sha256(path.read_bytes()).digest()
    assert found["00000000.cls"] == b"0"
    assert found["00000000.txt"] == path.relative_to(pictures).as_posix().encode()
