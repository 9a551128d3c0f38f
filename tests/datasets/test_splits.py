"""Layouts of folders as people have them: what is understood is printed, what is not clear is refused."""

import random
import re
import shutil
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import fill, open_at, origins

from ppvit.core.errors import PpvitError
from ppvit.datasets.splits import find_layout, split_of


def classes_in(classes, *folders):
    """``classes_in("ab", "train")``: two images in each of train/a and train/b."""
    return [f"{folder}/{name}/{{2}}.png" for folder in folders for name in classes]


def understood(*folders, images=2):
    """split -> its class folders."""
    layout = find_layout(Counter({tuple(filter(None, folder.split("/"))): images for folder in folders}), "here")
    splits: dict[str, set[str]] = {}
    for folder, (split, _) in layout.classes.items():
        splits.setdefault(split, set()).add("/".join(folder))
    return splits


@pytest.mark.parametrize(
    ("name", "split", "rest"),
    [
        ("train", "train", set()), ("Training", "train", set()), ("TRAIN", "train", set()),
        ("train2017", "train", set()), ("01_train", "train", set()), ("trainset", "train", set()),
        ("TrainingSet", "train", set()), ("train_images", "train", set()), ("trainval", "train", set()),
        ("val", "val", set()), ("valid", "val", set()), ("validation", "val", set()), ("Validation-Data", "val", set()),
        ("dev", "val", set()), ("eval", "val", set()),
        ("test", "test", set()), ("testing", "test", set()), ("test set", "test", set()), ("TestSet", "test", set()),
        ("seg_train", "train", {"seg"}), ("cifar_test", "test", {"cifar"}), ("cifar10-test", "test", {"cifar"}),
        ("asl_alphabet_test", "test", {"asl", "alphabet"}), ("Final_Training", "train", {"final"}),
        ("training_shoes", "train", {"shoes"}), ("trainA", "train", {"a"}), ("テスト_test", "test", {"テスト"}),
        ("train_test", None, set()), ("trains", None, {"trains"}), ("contest", None, {"contest"}),
        ("restrain", None, {"restrain"}), ("latest", None, {"latest"}), ("invalid", None, {"invalid"}),
        ("pretraining", None, {"pretraining"}), ("cat", None, {"cat"}), ("7", None, set()), ("", None, set()),
    ],
)  # fmt: skip
def test_meanings_of_names(name, split, rest):
    assert split_of(name) == (split, rest)


@pytest.mark.parametrize("wrapper", ["", "data/", "a/b/c/d/e/"])
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"), ("train", "val"), ("training", "valid"), ("Train", "Test"), ("Training", "Testing"),
        ("seg_train/seg_train", "seg_test/seg_test"), ("train_set", "test_set"), ("train2017", "val2017"),
        ("cifar_train", "cifar_test"), ("01_training", "02_testing"), ("train/images", "test/images"),
    ],
)  # fmt: skip
def test_split_folders(tmp_path, wrapper, train, test):
    fill(tmp_path / "d", *(f"{wrapper}{s}/{c}/x.png" for s in (train, test) for c in ("b", "a")))
    source = open_at(tmp_path / "d")
    assert source.classes == ["a", "b"]
    assert origins(source, "train") == [f"{wrapper}{train}/a/x.png", f"{wrapper}{train}/b/x.png"]
    assert origins(source, "test") == [f"{wrapper}{test}/a/x.png", f"{wrapper}{test}/b/x.png"]
    assert [s.label for s in source.test()] == [0, 1]
    assert source.val is None


def test_three_splits_stay_three(tmp_path, capsys):
    source = open_at(fill(tmp_path / "d", *classes_in("ab", "train", "valid", "test")))
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        assert origins(source, split) == [f"{folder}/{c}/{n}.png" for c in "ab" for n in range(2)]
    told = capsys.readouterr().out
    assert "12 images of 2 classes" in told
    assert re.search(r"val +4 from valid\n", told)
    assert "classes (train + val + test): a (2 + 2 + 2), b (2 + 2 + 2)" in told


def test_intels_scenes(tmp_path, capsys):
    """seg_train, seg_test and unlabelled pictures for a competition, each in a folder of its own name."""
    scenes = ["buildings", "forest", "sea"]
    files = classes_in(scenes, "archive/seg_train/seg_train", "archive/seg_test/seg_test")
    source = open_at(fill(tmp_path / "d", *files, "archive/seg_pred/seg_pred/{5}.jpg"))
    assert source.classes == scenes
    assert len(origins(source, "train")) == len(origins(source, "test")) == 6
    told = capsys.readouterr().out
    assert re.search(r"train +6 from archive/seg_train/seg_train\n", told)
    assert "not used: 5 images in archive/seg_pred" in told
    assert "buildings (2 + 2), forest (2 + 2), sea (2 + 2)" in told


@pytest.mark.parametrize("flat", ["test/{3}.png", "test/test/{3}.png", "test/images/{3}.png", "test/unknown/{3}.png"])
def test_val_is_the_test_split_where_test_has_no_classes(tmp_path, capsys, flat):
    source = open_at(fill(tmp_path / "d", *classes_in("ab", "train", "val"), flat))
    assert origins(source, "test") == [f"val/{c}/{n}.png" for c in "ab" for n in range(2)]
    assert source.val is None
    told = capsys.readouterr().out
    assert "val is used as the test split" in told
    assert "test has none of the classes and is left out" in told
    assert "not used: 3 images in test" in told


def test_splits_in_each_class(tmp_path, capsys):
    files = [f"{name}/{split}/{{2}}.png" for name in ("cat", "dog") for split in ("train", "val", "test")]
    source = open_at(fill(tmp_path / "d", *files))
    assert source.classes == ["cat", "dog"]
    assert origins(source, "val") == [f"{name}/val/{n}.png" for name in ("cat", "dog") for n in range(2)]
    assert [s.label for s in source.train()] == [0, 0, 1, 1]
    assert "from <class>/train" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "d/cat/test")
    shutil.rmtree(tmp_path / "d/dog/test")
    assert origins(open_at(tmp_path / "d"), "test") == [f"{c}/val/{n}.png" for c in ("cat", "dog") for n in range(2)]
    assert "val is used as the test split" in capsys.readouterr().out


def test_a_folder_without_test_images_holds_some_out_and_says_so(tmp_path, capsys):
    source = open_at(fill(tmp_path / "d", "train/a/{5}.png", "train/b/{5}.png"), test_fraction=0.4)
    assert len(origins(source, "test")) == 4
    told = capsys.readouterr().out
    assert "train         6 from train\n" in told
    assert "4 from them too, download.holdout_fraction of each class" in told


@pytest.mark.parametrize("flat", [["test/{3}.png"], ["test/images/{3}.png"], ["val/{2}.png", "test/{1}.png"]])
def test_some_are_held_out_where_nothing_else_is_sorted_into_classes(tmp_path, capsys, flat):
    """As in competitions, whose test labels nobody has; the same images as of the training folder alone."""
    alone = open_at(fill(tmp_path / "alone", "train/a/{5}.png", "train/b/{5}.png"), test_fraction=0.4)
    source = open_at(fill(tmp_path / "d", "train/a/{5}.png", "train/b/{5}.png", *flat), test_fraction=0.4)
    assert origins(source, "test") == origins(alone, "test")
    assert len(origins(source, "train")) == 6
    assert source.val is None
    told = capsys.readouterr().out
    assert "4 from them too, download.holdout_fraction of each class" in told
    for file in flat:
        folder, _, rest = file.partition("/")
        assert f"{folder} has none of the classes and is left out" in told
        assert re.search(rf"not used: {rest.partition('{')[2][0]} images? in {folder}", told)


def in_both(folder, classes="ab"):
    return [f"{folder}{split}/{name}" for split in ("train", "test") for name in classes]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        # chest_xray.zip of Kaggle holds itself once more
        ([*in_both("x/chest/"), *in_both("x/chest/chest/")], {"train": "x/chest/train/", "test": "x/chest/test/"}),
        # blood cells: a folder of other pictures, and a second test folder
        (["d1/JPEG", *in_both("d2/d2/images/"), "d2/d2/images/TEST_SIMPLE/a"],
         {"train": "d2/d2/images/train/", "test": "d2/d2/images/test/"}),
        # fruits-360
        ([*in_both(""), "test-multiple_fruits"], {"train": "train/", "test": "test/"}),
        ([*in_both(""), "unlabeled"], {"train": "train/", "test": "test/"}),
        # brain tumors and malaria cells hold themselves once more
        (["a", "b", "brain/a", "brain/b"], {"": ""}),
        (["cells/a", "cells/b", "cells/cells/a", "cells/cells/b"], {"": "cells/"}),
        (["a", "b", "once/more/a", "once/more/b"], {"": ""}),
    ],
)  # fmt: skip
def test_sets_as_they_are_downloaded(folders, expected):
    assert understood(*folders) == {split: {f"{at}a", f"{at}b"} for split, at in expected.items()}


@pytest.mark.parametrize(
    "folders",
    [
        ["training_shoes", "boots"],
        ["training_shoes", "test_tubes"],
        ["training_shoes/nike", "training_shoes/puma", "test_tubes/glass"],
        ["train", "plane"],
        ["trains", "buses"],
        ["valid", "invalid"],
        ["test", "car"],
        ["tested/x", "tested/y", "untested/x", "untested/y"],
        ["original/a", "original/b", "augmented/a", "augmented/b"],
    ],
)
def test_classes_that_sound_like_splits_stay_classes(folders):
    assert understood(*folders) == {"": {folder.partition("/")[0] for folder in folders}}


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["training_shoes", "test_shoes"], "training_shoes may be a split or a class"),
        (["training_shoes/a", "test_shoes/a", "boots"], "training_shoes may be a split or a class"),
        (["training_shoes/a", "training_shoes/b", "testing/a", "testing/b"], "hold folders of the same names"),
        (["cats_train", "cats_test", "dogs_train", "dogs_test"], "may be a split or a class"),
        (["trainA", "trainB", "testA", "testB"], "may be a split or a class"),
        (["test/a", "test/b", "val/a", "val/b"], "no folder of training images"),
        (["test", "val"], "no folder of training images"),
        (["train/a", "train/b", "other"], "no test or val beside it"),
        (["train/a", "train/b", "train2/a", "train2/b", "test/a", "test/b"], "both train and train2 may be one split"),
        ([*in_both(""), "a", "b"], "a lies beside train and in it"),
        ([*in_both("one/"), *in_both("two/")], "one and two have splits each"),
        ([*in_both("one/"), *in_both("two/"), "three"], "one and two have splits each"),
        (["cat/train", "cat/test", "dog"], "cat has splits, and others have not"),
        (["a", "b", "c", "more/a", "more/b"], "a and b lie beside more and in it"),
        (["cat/train/good", "cat/test/good", "dog/train/good", "dog/test/good"], "cat and dog have splits each"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_was_found(folders, told):
    with pytest.raises(PpvitError, match=re.escape(told)) as caught:
        understood(*folders)
    line = str(caught.value)
    assert "it is not clear which folders are splits" in line
    assert all(f"{folder.partition('/')[0]}/ (" in line for folder in folders)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["train", "test"], "train/ holds images but no class folders"),
        (["train/a", "train/b", "test/c", "test/d"], "test/ has none of the class folders of train/"),
        (["train/a", "train/b", "val", "test/unknown"], "test/ has none of the class folders of train/"),
        (
            ["train/Cat", "train/Dog", "test/cat", "test/dog"],
            "there is 'Cat', of which only case, width or spaces diff",
        ),
        ([""], "the images lie in no class folders"),
    ],
)
def test_splits_that_are_not_sorted_into_classes(folders, told):
    with pytest.raises(PpvitError, match=re.escape(told)):
        understood(*folders)


def test_a_copy_in_the_set_is_left_out_and_told(tmp_path, capsys):
    twice = [*classes_in("ab", "."), *classes_in("ab", "copy")]
    assert open_at(fill(tmp_path / "twice", *twice)).classes == ["a", "b"]
    told = capsys.readouterr().out
    assert "copy holds the same folders once more and is left out" in told
    assert "not used: 4 images in copy" in told


def test_a_class_of_val_alone_is_refused(tmp_path):
    files = [*classes_in("ab", "train", "val", "test"), "val/c/{2}.png"]
    with pytest.raises(PpvitError, match="class missing in train: 'c'.*out of val"):
        open_at(fill(tmp_path / "d", *files))


def test_an_unclear_set_of_many_folders_is_told_in_one_short_line():
    with pytest.raises(PpvitError, match=" and 94 more; ") as caught:
        understood(*in_both("one/"), *in_both("two/"), *(f"more{number}" for number in range(98)))
    assert len(str(caught.value)) < 700


@given(st.data())
def test_any_tree_is_understood_or_refused_in_a_line(data):
    name = st.sampled_from(["train", "test", "val", "seg_train", "seg_test", "a", "b", "train_test", "1", "images"])
    folders = data.draw(st.lists(st.lists(name, max_size=4).map("/".join), min_size=1, max_size=12, unique=True))
    line = ""
    try:
        splits = understood(*folders)
    except PpvitError as error:
        line = str(error)
    assert "\n" not in line
    if line:
        return
    assert splits.keys() in ({""}, {"train", "test"}, {"train", "val", "test"})
    shuffled = random.Random(0).sample(folders, len(folders))
    assert understood(*shuffled) == splits


# --- files that are no images


def test_a_class_of_which_most_files_are_not_read_stops(tmp_path):
    fill(tmp_path / "d", "a/{20}.png", "b/{2}.png", *[(f"b/IMG_{n}.DNG", b"raw") for n in range(37)])
    fill(tmp_path / "d", *[(f"b/deeper/clip{n}.mov", b"film") for n in range(5)])
    with pytest.raises(
        PpvitError, match=r"files in b, 2 are images that are read and 42 are not \(\.dng: 37, \.mov: 5\)"
    ):
        open_at(tmp_path / "d")


@pytest.mark.parametrize("folder", ["train/b", "test/b", "test"])
def test_a_class_or_split_of_which_nothing_is_read_stops(tmp_path, folder):
    fill(tmp_path / "d", *classes_in("abc", "train", "test"))
    for path in [*(tmp_path / "d" / folder).rglob("*.png")]:
        path.rename(path.with_suffix(".cr2"))
    with pytest.raises(
        PpvitError, match=rf"files in {folder}, 0 are images that are read and \d+ are not \(\.cr2: \d+\)"
    ):
        open_at(tmp_path / "d")


def test_a_minority_is_listed_by_ending_and_texts_beside_images_are_fine(tmp_path, capsys):
    fill(tmp_path / "d", "a/{5}.png", "b/{5}.png", ("a/x.dng", b"x"), ("a/y.DNG", b"x"), ("b/LICENSE", b"x"))
    fill(tmp_path / "d", *[(f"{c}/{n}.{ending}", b"x") for c in "ab" for n in range(9) for ending in ("txt", "xml")])
    assert open_at(tmp_path / "d").classes == ["a", "b"]
    told = capsys.readouterr().err
    assert "39 files that are no images were ignored (.txt: 18, .xml: 18, .dng: 2, without ending: 1)" in told


def test_as_many_files_of_another_kind_as_images_are_no_majority(tmp_path):
    assert open_at(fill(tmp_path / "d", "a/{2}.png", "b/{2}.png", ("b/0.npy", b"x"), ("b/1.npy", b"x"))).classes == [
        "a",
        "b",
    ]


def test_nothing_readable_at_all_is_listed_by_ending(tmp_path):
    fill(tmp_path / "d", ("a/1.dng", b"x"), ("b/1.dng", b"x"), ("b/2.psd", b"x"))
    with pytest.raises(PpvitError, match=r"no images that are read but \.dng: 2, \.psd: 1;"):
        open_at(tmp_path / "d")


def test_archives_side_by_side_are_to_be_unpacked(tmp_path):
    fill(tmp_path / "d", ("train.zip", b"PK"), ("test.zip", b"PK"))
    with pytest.raises(PpvitError, match=r"no images that are read but \.zip: 2; .*, so unpack the archives in it"):
        open_at(tmp_path / "d")


@pytest.mark.parametrize("left", ["__MACOSX/._own.zip", "Thumbs.db", "desktop.ini", ".DS_Store", "README.md"])
def test_one_archive_beside_what_systems_leave_is_opened(tmp_path, left):
    shutil.make_archive(tmp_path / "d/own", "zip", fill(tmp_path / "pets", "a/{2}.png", "b/{2}.png"))
    fill(tmp_path / "d", (left, b"\0\5"))
    assert open_at(tmp_path / "d").classes == ["a", "b"]
    (tmp_path / "d/own.zip").unlink()
    with pytest.raises(PpvitError, match="is an empty folder"):
        open_at(tmp_path / "d")
