"""Archives, npz and idx files of others: one line each, before memory or time is spent on what they say of sizes."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from functools import partial
from itertools import islice

import numpy as np
import pytest
from conftest import damaged
from conftest import refused as refused_within
from hypothesis import given
from hypothesis import strategies as st
from image_files import encoded, everything, fill, open_at

from ppvit.core.errors import PpvitError
from ppvit.datasets.npz import rows, shape_and_dtype
from ppvit.datasets.trees import entries

IMAGE = encoded()


refused = partial(refused_within, most_bytes=60e6)


def read_all(path, name="imagefolder"):
    return everything(open_at(path, name))


# --- tars


def header(name: str, size: int | bytes = 1, kind: bytes = b"0", linkname: str = "") -> bytes:
    """The 512 bytes of a member's header, whatever they say, with the right checksum."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    block = bytearray(member.tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def member(name: str, content: bytes = IMAGE) -> bytes:
    return header(name, len(content)) + padded(content)


def pax(**records: str) -> bytes:
    lines = b""
    for key, value in records.items():
        body = f" {key.replace('_', '.')}={value}\n".encode()
        length = len(body)
        while length != len(body) + len(str(length)):
            length = len(body) + len(str(length))
        lines += str(length).encode() + body
    return header("pax", len(lines), b"x") + padded(lines)


END = bytes(1024)
GOOD = b"".join(member(f"{name}/{number}.png") for name in "ab" for number in range(3))
NEGATIVE = b"\xff" * 12  # -1 in the base 256 of GNU tar
HUGE = b"\x80" + bytes(3) + struct.pack(">Q", 2**62)

TARS = {
    "a member of 2^62 bytes": (header("c/0.png", HUGE) + GOOD + END, "has 4,611,686,018,427,387,904 bytes"),
    "a member of -1 bytes": (header("c/0.png", NEGATIVE) + GOOD + END, "says that it has -1 bytes"),
    "a member of 1 GiB": (header("c/0.png", 2**30) + GOOD + END, ""),
    "a pax size of 2^62": (pax(size=str(2**62)) + member("c/0.png") + GOOD + END, "bytes"),
    "a pax size of -1": (pax(size="-1") + member("c/0.png") + GOOD + END, ""),
    "a pax size of 5,000 digits": (pax(size="9" * 5000) + member("c/0.png") + GOOD + END, ""),
    "a pax header of 1 GiB": (header("pax", 2**30, b"x") + GOOD + END, "says that it has 1,073,741,824 bytes"),
    "a pax header of 2^62 bytes": (header("pax", HUGE, b"g") + GOOD + END, "says that it has"),
    "a pax header of -1 bytes": (header("pax", NEGATIVE, b"x") + GOOD + END, "says that it has -1 bytes"),
    "a long name of 1 GiB": (header("././@LongLink", 2**30, b"L") + GOOD + END, "says that it has 1,073,741,824 bytes"),
    "2,000 pax headers": (pax(a="b") * 2_000 + GOOD + END, ""),
    "a hole": (header("a/9.png", 9, b"S") + padded(b"x") + GOOD + END, "a/9.png is stored with holes"),
    "a hole by pax": (pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize=str(2**40))
                      + member("c/0.png", b"1\n0\n9\n" + bytes(600)) + GOOD + END, ""),
    "a symbolic link": (header("a/9.png", 0, b"2", "/etc/passwd") + GOOD + END, "is a link"),
    "a hard link": (header("a/9.png", 0, b"1", "a/0.png") + GOOD + END, "is a link"),
    "a device alone": (header("c/0.png", 0, b"3") + END, "holds no images"),
    "a path out": (member("../c/0.png") + GOOD + END, "points out of the archive"),
    "a path out by pax": (pax(path="/etc/0.png") + member("c/0.png") + GOOD + END, "points out of the archive"),
    "a class that steers a terminal": (member("\x1b[31m/0.png") + member("\x1b[31m/1.png") + GOOD + END, "control"),
    "a class of two lines": (member("c\nd/0.png") + member("c\nd/1.png") + GOOD + END, "control characters"),
    "a class of 2,000 letters": (pax(path="c" * 2000 + "/0.png") + member("c") + pax(path="c" * 2000 + "/1.png")
                                 + member("c") + GOOD + END, "too long"),
    "5,000 folders in each other": (pax(path="x/" * 5000 + "0.png") + member("c") + GOOD + END, "more than 100 fold"),
    "no tar": (b"x" * 5000, "damaged or not an archive"),
    "nothing": (b"", "damaged or not an archive"),
}  # fmt: skip
PACKED = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("kind", TARS)
def test_a_tar_that_lies_is_refused(tmp_path, kind, ending):
    content, told = TARS[kind]
    path = tmp_path / f"d.{ending}"
    path.write_bytes(PACKED[ending](content))
    line = refused(read_all, path)
    assert told in line
    assert path.name in line


def test_a_device_in_a_tar_is_passed_over(tmp_path):
    path = tmp_path / "d.tar"
    path.write_bytes(header("c/0.png", 0, b"3") + header("c/1.png", 0, b"6") + GOOD + END)
    assert open_at(path).classes == ["a", "b"]


@pytest.mark.parametrize("ending", PACKED)
def test_a_tar_that_unpacks_to_more_than_memory_is_not_read_whole(tmp_path, ending):
    path = tmp_path / f"d.{ending}"
    opened = {"tar": open, "tar.gz": gzip.open, "tar.bz2": bz2.open, "tar.xz": lzma.open}[ending]
    with opened(path, "wb") as file:
        file.write(GOOD + header("a/3.png", 2**29 + 512) + bytes(2**20))
    assert "damaged" in refused(read_all, path) or "536,871,424 bytes" in refused(read_all, path)


@given(data=st.data())
def test_a_damaged_tar_is_read_or_refused(tmp_path_factory, data):
    content = damaged(data, pax(path="a/long.png") + member("x") + GOOD + END)
    path = tmp_path_factory.mktemp("d") / f"d.{data.draw(st.sampled_from(sorted(PACKED)))}"
    path.write_bytes(PACKED[path.name[2:]](content))
    line = ""
    try:
        for entry in islice(entries(path), 100):
            assert len(entry.read()) <= 2**20
    except PpvitError as error:
        line = str(error)
    assert "\n" not in line


# --- zips


def zipped(folder, *members, method=zipfile.ZIP_DEFLATED):
    path = folder / "d.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for number in range(3):
            for name in "ab":
                archive.writestr(f"{name}/{number}.png", IMAGE)
        for name, content in members:
            archive.writestr(name, content)
    return path


def restated(path, name: bytes, size: int) -> None:
    """Have a zip say another size of a member, in both of its headers."""
    data = bytearray(path.read_bytes())
    for signature, at, name_at in ((b"PK\x01\x02", 24, 46), (b"PK\x03\x04", 22, 30)):
        start = -1
        while (start := data.find(signature, start + 1)) >= 0:
            if data[start + name_at :].startswith(name):
                data[start + at : start + at + 4] = struct.pack("<I", size)
    path.write_bytes(data)


@pytest.mark.parametrize("size", [2**30, 2**32 - 2])
def test_a_zip_that_says_too_large_a_size_is_refused_before_it_is_read(tmp_path, size):
    path = zipped(tmp_path, ("a/9.png", IMAGE))
    restated(path, b"a/9.png", size)
    assert f"a/9.png has {size:,} bytes, more than 536,870,912" in refused(read_all, path)


def test_a_zip_that_says_too_small_a_size_gives_no_more(tmp_path):
    path = zipped(tmp_path, ("a/9.png", bytes(10**8)))  # 100 kB that unpack to 100 MB
    restated(path, b"a/9.png", 100)
    assert "damaged" in refused(read_all, path)


def test_a_zip_entry_without_a_name_is_passed_over(tmp_path):
    path = zipped(tmp_path, (".", b"x"), ("./", b""), ("nameless", b"x"))
    path.write_bytes(path.read_bytes().replace(b"nameless", b"\0ameless"))  # zipfile reads names up to the zero
    assert open_at(path).classes == ["a", "b"]


def test_names_in_a_zip_do_not_steer_the_terminal(tmp_path, capsys):
    open_at(zipped(tmp_path, ("a/\x1b[31mred.txt", b"x")))
    assert "\x1b" not in capsys.readouterr().err
    path = zipped(tmp_path, ("a\x07/9.png", IMAGE), ("a\x07/8.png", IMAGE))
    assert "control characters" in refused(read_all, path)


@given(data=st.data())
def test_a_damaged_zip_is_read_or_refused(tmp_path_factory, data):
    path = zipped(tmp_path_factory.mktemp("d"), method=data.draw(st.sampled_from([0, 8, 12, 14])))
    path.write_bytes(damaged(data, path.read_bytes(), last=400))
    line = ""
    try:
        for entry in islice(entries(path), 100):
            entry.read()
    except PpvitError as error:
        line = str(error)
    assert "\n" not in line


# --- folders


def test_folders_without_end_and_files_that_are_none(tmp_path):
    folder = fill(tmp_path / "d", "a/{3}.png", "b/{3}.png")
    os.mkfifo(folder / "a" / "pipe.png")
    assert open_at(folder).classes == ["a", "b"]
    with open(folder / "a" / "holes.png", "wb") as file:
        file.truncate(2**40)
    assert "a/holes.png is larger than the 536,870,912 bytes" in refused(read_all, folder)
    (folder / "a" / "holes.png").unlink()
    fill(folder, "a/" + "x/" * 120 + "0.png")
    assert "more than 100 folders in each other" in refused(read_all, folder)


# --- WebDataset shards


@pytest.mark.parametrize("label", [b"999999999", b"7"])
def test_a_class_number_beyond_the_samples_builds_no_list_of_names(tmp_path, label):
    for split in ("train", "test"):
        content = b"".join(member(f"{n}.png") + member(f"{n}.cls", b"%d" % n) for n in range(2))
        (tmp_path / f"{split}-0.tar").write_bytes(content + member("9.png") + member("9.cls", label) + END)
    assert f"class {int(label)} is the highest of 6 samples" in refused(read_all, tmp_path, "webdataset")


@pytest.mark.parametrize("label", ["١".encode(), b"1_0", b"+1", b"9" * 5000, b"\x80\x04N.", b""])
def test_a_class_number_of_another_kind(tmp_path, label):
    path = tmp_path / "train-0.tar"
    path.write_bytes(member("0.png") + member("0.cls", label) + END)
    assert "expected is a class number" in refused(read_all, path, "webdataset")


def test_class_names_of_another_encoding_or_without_end(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}-0.tar").write_bytes(
            b"".join(member(f"{n}.png") + member(f"{n}.cls", b"%d" % n) for n in range(2)) + END
        )
    names = tmp_path / "classes.txt"
    names.write_bytes("Käse\nBrot\n".encode("latin-1"))
    assert "classes.txt is not in UTF-8" in refused(read_all, tmp_path, "webdataset")
    with open(names, "wb") as file:
        file.truncate(2**40)
    assert "classes.txt is larger than" in refused(read_all, tmp_path, "webdataset")
    names.write_text("a\n\x1b[31mb\n")
    assert "control characters" in refused(read_all, tmp_path, "webdataset")


# --- npz and idx


def npz(folder, **arrays):
    """breastmnist.npz, the smallest, with single members replaced by bytes."""
    whole = {
        f"{split}_{kind}": np.zeros((4, 28, 28), np.uint8) if kind == "images" else np.arange(4).reshape(4, 1) % 2
        for split in ("train", "val", "test")
        for kind in ("images", "labels")
    }
    path = folder / "breastmnist.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in whole.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", arrays.get(name, buffer.getvalue()))
    return path


def npy(text: str, values: bytes = b"", version: bytes = b"\1\0") -> bytes:
    length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + length + text.encode() + values


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n"


def test_what_these_npz_files_are_made_from_is_read(tmp_path):
    assert open_at(npz(tmp_path), "breastmnist").classes[0] == "malignant"


@pytest.mark.parametrize(
    ("member_bytes", "told"),
    [
        (npy(HEADER % "(4, 100000000, 100000000)", b"x"), "has shape (4, 100000000, 100000000)"),
        (npy(HEADER % "(1000000000000, 28, 28)", b"x"), "has shape (1000000000000, 28, 28)"),
        (npy(HEADER % "(-4, -28, 28)", bytes(4 * 28 * 28)), "whole numbers"),
        (npy(HEADER % "(4, 28, 27)", bytes(4 * 28 * 28)), "and 3,136 bytes"),
        (npy(HEADER % "(4, 28, 28)", bytes(4 * 28 * 28 - 1)), "and 3,135 bytes"),
        (npy(HEADER % "(1, 1000000000)", bytes(9)), "and 9 bytes"),
        (npy(HEADER % "()", b"x"), "numeric and in C order"),
        (npy((HEADER % "(4,)").replace("|u1", "|O"), b"\x80\x04N."), "numeric and in C order"),
        (npy((HEADER % "(4,)").replace("'|u1'", "[('a', '|u1')]"), bytes(4)), "numeric and in C order"),
        (npy((HEADER % "(4, 28, 28)").replace("False", "True"), bytes(4 * 28 * 28)), "numeric and in C order"),
        (npy("(" * 9000), "header cannot be read"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff", "its header has 4,294,967,295 bytes"),
        (b"\x80\x04N.", "does not begin like an array"),
        (b"", "does not begin like an array"),
    ],
)
def test_an_array_that_lies_is_refused(tmp_path, member_bytes, told):
    path = npz(tmp_path, train_images=member_bytes)
    line = refused(read_all, path, "breastmnist")
    assert told in line
    assert str(path) in line


def test_labels_that_unpack_to_more_than_memory_are_refused(tmp_path):
    path = npz(tmp_path, train_labels=npy(HEADER % "(20000000,)", bytes(2 * 10**7)))
    assert "20,000,000 labels" in refused(read_all, path, "breastmnist")


@given(data=st.data())
def test_a_damaged_npz_is_read_or_refused(tmp_path_factory, data):
    path = npz(tmp_path_factory.mktemp("d"))
    path.write_bytes(damaged(data, path.read_bytes()))
    line = ""
    try:
        shape, _ = shape_and_dtype(path, "train_labels")
        assert len(list(rows(path, "train_labels"))) == shape[0]
    except PpvitError as error:
        line = str(error)
    assert "\n" not in line


def idx(folder, images: bytes, pack=bytes):
    ending = ".gz" if pack is gzip.compress else ""
    zeros = struct.pack(">3I", 10, 28, 28) + bytes(10 * 28 * 28)
    for name, content in (
        ("train-images-idx3-ubyte", images),
        ("train-labels-idx1-ubyte", b"\0\0\x08\1" + struct.pack(">I", 10) + bytes(range(10))),
        ("t10k-images-idx3-ubyte", b"\0\0\x08\3" + zeros),
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\1" + struct.pack(">I", 10) + bytes(range(10))),
    ):
        (folder / f"{name}{ending}").write_bytes(pack(content))
    return folder


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "images",
    [
        b"\0\0\x08\3" + struct.pack(">3I", *[2**32 - 1] * 3),
        b"\0\0\x08\3" + struct.pack(">3I", 10, 28, 28) + bytes(10**7),
        b"\0\0\x08\3" + struct.pack(">3I", 11, 28, 28) + bytes(10 * 28 * 28),
        b"\0\0\x0d\3" + struct.pack(">3I", 10, 28, 28) + bytes(10 * 28 * 28),
        b"\0\0\x08\3\0\0",
        b"",
    ],
)
def test_an_idx_file_that_lies_is_refused(tmp_path, images, pack):
    line = refused(read_all, idx(tmp_path, images, pack), "mnist", most_bytes=30e6)
    assert "train-images-idx3-ubyte" in line
    assert "is no whole idx file" in line


def test_what_these_idx_files_are_made_from_is_read(tmp_path):
    whole = b"\0\0\x08\3" + struct.pack(">3I", 10, 28, 28) + bytes(10 * 28 * 28)
    assert len(read_all(idx(tmp_path, whole, gzip.compress), "mnist")["train"]) == 10


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_1"])
def test_cifar_files_that_are_not_official_are_not_unpickled(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    if name != "batches.meta":
        assert "batches.meta cannot be read" in refused(read_all, tmp_path, "cifar10")
    else:
        assert "is not the official CIFAR file" in refused(read_all, tmp_path, "cifar10")
    with open(folder / "batches.meta", "wb") as file:
        file.truncate(2**40)
    assert "batches.meta is larger than" in refused(read_all, tmp_path, "cifar10")
    assert not (tmp_path / "exploded").exists()
