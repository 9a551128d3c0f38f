"""Shards: byte-stable, readable by others, and safe to read."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ppvit.core.errors import PpvitError
from ppvit.core.reading import sha256_of
from ppvit.data.images import decode_array, encode_array
from ppvit.data.shards import ShardReader, read_manifest, shard_records, write_shards


def samples_of(count: int) -> list[dict[str, bytes]]:
    return [{"png": bytes([index % 251]) * (index % 7 + 1), "cls": str(index % 3).encode()} for index in range(count)]


def reader(folder: Path, shards: list) -> ShardReader:
    return ShardReader(folder, "train", shard_records(shards))


@given(count=st.integers(1, 40), per_shard=st.integers(1, 17))
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, count, per_shard):
    folder = tmp_path_factory.mktemp("shards")
    samples = samples_of(count)
    shards = write_shards(folder, "train", iter(samples), per_shard)
    assert [shard.samples for shard in shards[:-1]] == [per_shard] * (len(shards) - 1)
    read = reader(folder, shards)
    assert len(read) == count
    order = np.random.default_rng(0).permutation(count)
    assert [read.image(index) for index in order] == [samples[index]["png"] for index in order]
    assert read.labels().tolist() == [index % 3 for index in range(count)]


def test_same_samples_same_bytes_and_clean_headers(tmp_path):
    hashes = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        os.umask(0o077 if name == "b" else 0o022)
        hashes.append([shard.sha256 for shard in write_shards(folder, "train", samples_of(20), 8)])
    os.umask(0o022)
    assert hashes[0] == hashes[1]
    with tarfile.open(tmp_path / "a" / "train-000001.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:3]] == ["00000008.png", "00000008.cls", "00000009.png"]
    assert all((m.mtime, m.uid, m.gid, m.uname, m.gname) == (0, 0, 0, "", "") for m in members)


def test_bytes_are_those_of_webdataset_where_members_are_sorted_as_it_sorts_them(tmp_path):
    samples = [{"cls": str(index % 3).encode(), "png": bytes(index)} for index in range(1, 30)]
    stream = io.BytesIO()
    with webdataset.TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for index, sample in enumerate(samples):
            writer.write({"__key__": f"{index:08d}", **sample})
    (shard,) = write_shards(tmp_path, "train", samples, 100)
    assert (tmp_path / shard.name).read_bytes() == stream.getvalue()


def write(path: Path, members: dict[str, bytes]) -> dict:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {"name": path.name, "samples": 1, "sha256": sha256_of(path)}


class Explosive:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize(
    "name", ["00000000.pkl", "00000000.pyd", "../00000000.png", "/etc/00000000.png", "00000000.npz", "x.png"]
)
def test_foreign_members_are_refused_and_never_unpickled(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    record = write(
        tmp_path / "train-000000.tar", {"00000000.png": b"x", "00000000.cls": b"0", name: pickle.dumps(Explosive())}
    )
    with pytest.raises(PpvitError, match=r"train-000000\.tar: member '.*' is no image, label or origin"):
        ShardReader(tmp_path, "train", [record])
    assert not (tmp_path / "exploded").exists()


def test_arrays_are_read_without_unpickling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = np.arange(6, dtype=np.float16).reshape(2, 3)
    extension, content = encode_array(numbers)
    assert extension == "npy"
    np.testing.assert_array_equal(decode_array(content, "here", (2, 3), numbers.dtype), numbers)
    np.testing.assert_array_equal(np.load(io.BytesIO(content), allow_pickle=False), numbers)  # anybody can read it
    objects = io.BytesIO()
    np.save(objects, np.array([Explosive()], dtype=object), allow_pickle=True)
    for bad in (objects.getvalue(), content[:-3], content[:20], b"\x93NUMPY"):
        with pytest.raises(PpvitError, match="train-000000.tar: sample 3: this ciphertext cannot be read"):
            decode_array(bad, "train-000000.tar: sample 3", (2, 3), numbers.dtype)
    assert not (tmp_path / "exploded").exists()


def test_a_sample_with_two_images_is_refused(tmp_path):
    members = {"00000000.png": b"x", "00000000.npy": b"y", "00000000.cls": b"0"}
    with pytest.raises(PpvitError, match=r"train-000000\.tar: sample 00000000 has two images"):
        ShardReader(tmp_path, "train", [write(tmp_path / "train-000000.tar", members)])


def test_links_are_refused(tmp_path):
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("00000000.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(PpvitError, match="member '00000000.png'"):
        ShardReader(tmp_path, "train", [{"name": path.name, "samples": 1, "sha256": sha256_of(path)}])


def test_pickle_as_a_label_is_told_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = write(tmp_path / "train-000000.tar", {"00000000.png": b"x", "00000000.cls": pickle.dumps(Explosive())})
    with pytest.raises(PpvitError, match="sample 00000000: .cls holds .* not a class number"):
        ShardReader(tmp_path, "train", [record]).target(0)
    assert not (tmp_path / "exploded").exists()


def test_sample_without_label(tmp_path):
    record = write(tmp_path / "train-000000.tar", {"00000000.png": b"x"})
    with pytest.raises(PpvitError, match="sample 00000000 has no image or no label"):
        ShardReader(tmp_path, "train", [record])


@pytest.mark.parametrize("damage", ["missing", "truncated", "cut at a member", "altered", "empty"])
def test_damage_names_the_shard_and_the_remedy(tmp_path, damage):
    shards = write_shards(tmp_path, "train", samples_of(20), 8)
    path = tmp_path / "train-000001.tar"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:1100])
    elif damage == "cut at a member":
        path.write_bytes(data[:4096])
    elif damage == "altered":
        data[512] ^= 1  # one bit of the first image
        path.write_bytes(data)
    else:
        path.write_bytes(b"")
    with pytest.raises(PpvitError, match=r"train-000001\.tar .*dvc pull") as caught:
        reader(tmp_path, shards)
    assert "\n" not in str(caught.value)


def test_manifest_errors(tmp_path):
    with pytest.raises(PpvitError, match=r"manifest\.json is missing; run the stage that writes it: dvc repro encrypt"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(PpvitError, match="is not valid JSON"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(PpvitError, match="version 99 is not 2, which this ppvit reads"):
        read_manifest(tmp_path)
