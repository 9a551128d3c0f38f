"""WebDataset shards as a source: read without unpickling, refused when incomplete."""

import io
import tarfile

import pytest
from image_files import encoded, everything, fill, open_at

from ppvit.core.errors import PpvitError


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
