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


@pytest.mark.parametrize("kind", ["v2.png", "seg.PNG", "v2.cls"])
def test_a_name_with_two_dots_is_told_as_such(tmp_path, kind):
    shard(tmp_path / "w/train-0.tar", {f"0009.{kind}": b"0"} | two_each())
    with pytest.raises(PpvitError, match="all behind the first dot is its kind to WebDataset") as caught:
        open_at(tmp_path / "w", "webdataset")
    assert "pickle" not in str(caught.value)


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


# --- layouts


def of_split(source, split):
    return [sample.origin for sample in getattr(source, split)()]


def test_clip_benchmark(tmp_path, capsys):
    """As its webdataset_builder writes it: folders of numbered tars, counts and names beside them."""
    root = tmp_path / "wds_cifar10"
    for split in ("train", "test"):
        for number in range(2):
            members = {
                f"s{n:07d}.{extension}": content
                for n in range(2 * number, 2 * number + 2)
                for extension, content in (("cls", b"%d" % (n % 2)), ("webp", encoded(n, "webp")))
            }
            shard(root / split / f"{number}.tar", members)
        (root / split / "nshards.txt").write_text("2\n")
    (root / "classnames.txt").write_text("air plane\ndog\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    for path in (root, tmp_path):
        source = open_at(path, "webdataset")
        assert source.classes == ["air plane", "dog"]
        assert [sample.label for sample in source.test()] == [0, 1, 0, 1]
        assert [sample.image for sample in source.train()] == [encoded(n, "webp") for n in range(4)]
    told = capsys.readouterr().out
    assert "8 images of 2 classes" in told
    assert "train         4 from 2 shards, such as train/0.tar" in told


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train-0.tar", "val-0.tar", "test-0.tar"),
        ("train/0.tar", "valid/0.tar", "test/0.tar"),
        ("cifar_training_0.tgz", "cifar_validation_0.tgz", "cifar_testing_0.tgz"),
        ("imagenet-train-000.tar", "imagenet-val-000.tar", "imagenet-test-000.tar"),
        ("a/b/train/x-0.tar", "a/b/val/x-0.tar", "a/b/test/x-0.tar"),
        ("train/train-0.tar", "val/val-0.tar", "test/test-0.tar"),
    ],
)
def test_three_splits_of_shards(tmp_path, train, val, test):
    for number, name in enumerate((train, val, test)):
        shard(tmp_path / "w" / name, two_each(10 * number))
    source = open_at(tmp_path / "w", "webdataset")
    for number, split in enumerate(("train", "val", "test")):
        images = [sample.image for sample in getattr(source, split)()]
        assert images == [encoded(10 * number + n, "jpg") for n in range(4)]


def test_val_shards_are_the_test_split_where_there_is_no_other(tmp_path, capsys):
    for split in ("train", "val"):
        shard(tmp_path / f"w/{split}-0.tar", two_each())
    source = open_at(tmp_path / "w", "webdataset")
    assert len(of_split(source, "test")) == 4
    assert source.val is None
    assert "val is used as the test split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a/train/0.tar", "a/test/0.tar", "b/train/0.tar", "b/test/0.tar"], "train and test shards of 'a' and of 'b'"),
        (
            ["cifar-train-0.tar", "cifar-test-0.tar", "mnist-train-0.tar", "mnist-test-0.tar"],
            "of '. cifar' and of '. m",
        ),
        (["train/test-0.tar", "test/test-0.tar"], "its name says test, its folder train"),
        (["val-0.tar"], "val shards but no train shards"),
    ],
)
def test_shards_that_are_not_clear(tmp_path, names, told):
    for name in names:
        shard(tmp_path / "w" / name, two_each())
    with pytest.raises(PpvitError, match=told):
        open_at(tmp_path / "w", "webdataset")


def test_a_class_of_val_shards_alone_is_refused(tmp_path):
    for split in ("train", "val", "test"):
        extra = {"x/1.cls": b"2", "x/1.png": encoded()} if split == "val" else {}
        shard(tmp_path / f"w/{split}-0.tar", two_each() | extra)
    with pytest.raises(PpvitError, match="class 2 is in val only"):
        open_at(tmp_path / "w", "webdataset")


def test_what_operating_systems_leave_in_shards_is_passed_over(tmp_path):
    left = {
        name: b"\0\5\x16\7"
        for name in ("dir/._0000.jpeg", "._dir", "dir/.DS_Store", "__MACOSX/dir/._0.cls", "Thumbs.db", "a/desktop.ini")
    }
    shard(tmp_path / "w/train-0.tar", {**left, **two_each()})
    shard(tmp_path / "w/test-0.tar", {**two_each(), **left})
    (tmp_path / "w/._train-0.tar").write_bytes(b"\0\5\x16\7")
    assert len(of_split(open_at(tmp_path / "w", "webdataset"), "train")) == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cat\n\ndog\n", "line 2 is empty"),
        ("cat\ncat\n", "classes 0 and 1 have the same name, 'cat'; rename"),
        ("caf\u00e9\ncafe\u0301\n", "have the same name"),
        ("cat\n", "names 1 classes, the shards use 2"),
        ("cat\ndog\u2028bird\n", "control characters"),
    ],
)
def test_lists_of_names_that_cannot_be_meant(tmp_path, text, told):
    for split in ("train", "test"):
        shard(tmp_path / f"w/{split}-0.tar", two_each())
    (tmp_path / "w/classes.txt").write_bytes(text.encode())
    with pytest.raises(PpvitError, match=told):
        open_at(tmp_path / "w", "webdataset")


@pytest.mark.parametrize("text", ["\ufeffcafe\u0301\ndog\n", "caf\u00e9\r\ndog\r\n\r\n\n", "caf\u00e9 \n dog"])
def test_lists_of_names_as_editors_write_them(tmp_path, text):
    for split in ("train", "test"):
        shard(tmp_path / f"w/{split}-0.tar", two_each())
    (tmp_path / "w/classes.txt").write_bytes(text.encode())
    assert open_at(tmp_path / "w", "webdataset").classes == ["caf\u00e9", "dog"]


def carrying(labels, first=0):
    """Samples that carry these labels, as texts."""
    return {
        f"{number:04d}.{extension}": content
        for number, label in enumerate(labels, first)
        for extension, content in (("png", encoded(number)), ("cls", label))
    }


def test_several_labels_an_image(tmp_path, capsys):
    shard(tmp_path / "w/train-0.tar", carrying([b"0 2\n", b"", b"1", b"2 0"]))
    shard(tmp_path / "w/test-0.tar", carrying([b"2", b"\n", b"0  1"], first=9))
    (tmp_path / "w/multilabel.txt").write_text("cat\ndog\nowl\n")
    source = open_at(tmp_path / "w", "webdataset")
    assert source.multilabel
    assert source.classes == ["cat", "dog", "owl"]
    assert [sample.label for sample in source.train()] == [(0, 2), (), (1,), (0, 2)]
    assert [sample.label for sample in source.test()] == [(2,), (), (0, 1)]
    told = capsys.readouterr().out
    assert "7 images of 3 labels" in told
    assert "images carry any number of the classes" in told
    assert "cat (2 + 1), dog (1 + 1), owl (2 + 1)" in told


def test_several_labels_without_a_test_split_are_held_out_by_the_rarest(tmp_path):
    labels = [b"0"] * 20 + [b"0 1"] * 10 + [b""] * 10 + [b"0 1 2"]  # a stratum of one image
    shard(tmp_path / "w/all.tar", carrying(labels))
    (tmp_path / "w/multilabel.txt").write_text("cat\ndog\nowl\n")
    source = open_at(tmp_path / "w", "webdataset")
    train, test = list(source.train()), list(source.test())
    assert len({sample.origin for sample in train + test}) == 41
    held = [sample.label for sample in test]
    assert held.count((0,)) == 4  # a fifth of each stratum
    assert held.count((0, 1)) == 2
    assert held.count(()) + held.count((0, 1, 2)) == 2  # the single one is with those that carry nothing


@pytest.mark.parametrize("label", [b"cat", b"-1", b"0,1", b"0 1 x", b"\x80\x04N.", b"0 " * 30_000])
def test_labels_that_are_no_numbers_are_refused(tmp_path, label):
    shard(tmp_path / "w/train-0.tar", carrying([b"0", label]))
    (tmp_path / "w/multilabel.txt").write_text("cat\ndog\n")
    with pytest.raises(PpvitError, match=r"0001\.cls holds .*, expected are class numbers counted from 0"):
        open_at(tmp_path / "w", "webdataset")


def test_marks_of_0_and_1_are_not_taken_for_class_numbers(tmp_path):
    shard(tmp_path / "w/train-0.tar", carrying([b"0 1 0", b"1 0 0"]))
    (tmp_path / "w/multilabel.txt").write_text("cat\ndog\nowl\n")
    with pytest.raises(PpvitError, match=r"0000\.cls holds b'0 1 0', a number twice; write the numbers of the labels"):
        open_at(tmp_path / "w", "webdataset")


def test_shards_without_a_sample_are_refused(tmp_path):
    shard(tmp_path / "w/train-0.tar", {})
    with pytest.raises(PpvitError, match="holds shards without a sample"):
        open_at(tmp_path / "w", "webdataset")


def test_more_labels_than_names_are_refused(tmp_path):
    shard(tmp_path / "w/train-0.tar", carrying([b"0", b"0 2"]))
    (tmp_path / "w/multilabel.txt").write_text("cat\ndog\n")
    with pytest.raises(PpvitError, match="names 2 classes, the shards use 3"):
        open_at(tmp_path / "w", "webdataset")


def test_several_labels_are_not_guessed(tmp_path):
    shard(tmp_path / "w/train-0.tar", carrying([b"0", b"0 1"]))
    with pytest.raises(PpvitError, match=r"name the labels in multilabel\.txt beside the shards"):
        open_at(tmp_path / "w", "webdataset")
