"""Symbolic links, as DVC (cache.type symlink) and git-annex make them, and as people sort images by."""

import pytest
from conftest import make_config
from image_files import encoded, everything, fill, open_at, origins
from test_wds import shard, two_each

from ppvit.core.errors import PpvitError
from ppvit.datasets.raw import write_raw


def as_dvc_links(folder, cache):
    """Replace every file by a link to a cache outside, under a name without ending."""
    cache.mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        target = cache / f"{number:032x}"
        path.rename(target)
        path.symlink_to(target)
    return folder


def test_images_that_are_links_out_of_the_data_set_are_read(tmp_path):
    plain = everything(open_at(fill(tmp_path / "d", "train/{3}.png", "plane/{3}.jpg")))
    linked = everything(open_at(as_dvc_links(tmp_path / "d", tmp_path / "cache")))
    assert linked == plain


def test_class_and_split_folders_that_are_links_are_read(tmp_path):
    fill(tmp_path / "elsewhere", "kittens/{2}.png", "hounds/deep/{2}.png", "more/cat/{1}.png", "more/dog/{1}.png")
    (tmp_path / "d/train").mkdir(parents=True)
    (tmp_path / "d/train/cat").symlink_to(tmp_path / "elsewhere/kittens")
    (tmp_path / "d/train/dog").symlink_to("../../elsewhere/hounds")
    (tmp_path / "d/test").symlink_to(tmp_path / "elsewhere/more")
    source = open_at(tmp_path / "d")
    assert source.classes == ["cat", "dog"]
    assert origins(source, "train") == ["train/cat/0.png", "train/cat/1.png", "train/dog/deep/0.png",
                                        "train/dog/deep/1.png"]  # fmt: skip
    assert origins(source, "test") == ["test/cat/0.png", "test/dog/0.png"]


@pytest.mark.parametrize("name", ["imagefolder", "webdataset"])
def test_what_dvc_does_not_see_is_said(tmp_path, capsys, name):
    """DVC hashes what links to files lead to, and passes over links to folders: no change in them is noticed."""
    shard(tmp_path / "d/train/0.tar", two_each())
    shard(tmp_path / "elsewhere/0.tar", two_each())
    fill(tmp_path / "d", "train/a/{2}.png", "train/b/{2}.png")
    fill(tmp_path / "elsewhere", "a/{2}.png", "b/{2}.png")
    (tmp_path / "d/test").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d/train/a/link.png").symlink_to("0.png")
    open_at(tmp_path / "d", name)
    assert "DVC sees no changes in folders that are links (test): " in capsys.readouterr().out


def test_the_data_set_may_be_a_link_itself_and_link_within(tmp_path):
    fill(tmp_path / "real", "train/a/{2}.png", "train/b/{2}.png")
    (tmp_path / "real/test").symlink_to("train")
    (tmp_path / "link").symlink_to("real")
    assert origins(open_at(tmp_path / "link"), "test") == [f"test/{c}/{n}.png" for c in "ab" for n in range(2)]


@pytest.mark.parametrize("target", ["gone.png", "/gone/0.png", "loop.png"])
def test_links_to_nothing_are_named_all_at_once(tmp_path, target):
    folder = fill(tmp_path / "d", "a/{3}.png", "b/{3}.png")
    for name in ("a/loop.png", "b/y.png"):
        (folder / name).symlink_to(target)
    (folder / "dog").symlink_to(tmp_path / "no_dogs")
    with pytest.raises(PpvitError, match=r"3 links lead to nothing \(a/loop\.png, b/y\.png, dog\); .*dvc checkout"):
        open_at(folder)


def test_of_many_links_to_nothing_the_first_are_named(tmp_path):
    folder = fill(tmp_path / "d", "a/{3}.png", "b/{3}.png")
    for number in range(40):
        (folder / f"a/z{number:02}.png").symlink_to("gone")
    with pytest.raises(PpvitError, match=r"40 links .*z04\.png and 35 more\)"):
        open_at(folder)


@pytest.mark.parametrize("target", [".", "..", "../..", "../../elsewhere"])
def test_links_round_end_in_a_line(tmp_path, target):
    folder = fill(tmp_path / "d", "a/{2}.png", "b/{2}.png")
    fill(tmp_path / "elsewhere", "{2}.png")
    (tmp_path / "elsewhere/back").symlink_to(folder)
    (folder / "a/round").symlink_to(target)
    with pytest.raises(PpvitError, match="links to a folder that holds it"):
        open_at(folder)


def test_folders_of_links_to_each_other_end_in_a_line(tmp_path):
    """2^60 ways lead to the last of them, none of which goes round."""
    fill(tmp_path / "d", "a/{2}.png", "b/{2}.png")
    for number in range(60):
        level = tmp_path / f"chain/{number}"
        level.mkdir(parents=True)
        for side in ("left", "right"):
            (level / side).symlink_to(f"../{number + 1}")
    fill(tmp_path / "chain/60", "{1}.png")
    (tmp_path / "d/a/chain").symlink_to(tmp_path / "chain/0")
    with pytest.raises(PpvitError, match=r"links lead to the folder .* more than 200 times"):
        open_at(tmp_path / "d")


def test_a_link_to_a_file_that_is_no_image_is_not_taken_for_one(tmp_path):
    folder = fill(tmp_path / "d", "a/{3}.png", "b/{3}.png")
    (tmp_path / "secret").write_text("hunter2")
    (folder / "a/9.png").symlink_to(tmp_path / "secret")
    settings = make_config(dataset={"name": "imagefolder"}).dataset
    with pytest.raises(PpvitError, match=r"a/9\.png \(of no kind that is read\)") as caught:
        write_raw(open_at(folder), settings, tmp_path / "raw")
    assert "hunter2" not in str(caught.value)


def test_shards_that_are_links_are_read_but_no_class_names_from_outside(tmp_path):
    for split in ("train", "test"):
        shard(tmp_path / f"w/{split}/0.tar", two_each())
    as_dvc_links(tmp_path / "w", tmp_path / "cache")
    assert len(list(open_at(tmp_path / "w", "webdataset").train())) == 4
    names = tmp_path / "names"
    names.write_text("hunter2\nother\n")
    for file in ("classes.txt", "classnames.txt"):
        (tmp_path / "w" / file).symlink_to(names)
        with pytest.raises(PpvitError, match=rf"{file} links out of .* put a copy in its place") as caught:
            open_at(tmp_path / "w", "webdataset")
        assert "hunter2" not in str(caught.value)
        (tmp_path / "w" / file).unlink()
    (tmp_path / "w/lists").mkdir()
    (tmp_path / "w/lists/names").write_text("cat\ndog\n")
    (tmp_path / "w/classes.txt").symlink_to("lists/names")
    assert open_at(tmp_path / "w", "webdataset").classes == ["cat", "dog"]


def test_folders_of_shards_may_be_links(tmp_path):
    shard(tmp_path / "elsewhere/0.tar", two_each())
    for split in ("train", "test"):
        (tmp_path / "w").mkdir(exist_ok=True)
        (tmp_path / "w" / split).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own").symlink_to("w")
    for path in ("w", "own"):
        assert everything(open_at(tmp_path / path, "webdataset"))["test"]
    (tmp_path / "elsewhere/round").symlink_to(".")
    with pytest.raises(PpvitError, match="links to a folder that holds it"):
        open_at(tmp_path / "w", "webdataset")


def test_a_shard_that_links_to_nothing_is_named(tmp_path):
    shard(tmp_path / "w/train-0.tar", two_each())
    (tmp_path / "w/test-0.tar").symlink_to("gone.tar")
    with pytest.raises(PpvitError, match=r"test-0\.tar links to nothing"):
        open_at(tmp_path / "w", "webdataset")


def test_an_archive_reached_by_a_link(tmp_path):
    shard(tmp_path / "real.tar", {f"{c}/{n}.png": encoded(n) for c in "ab" for n in range(3)})
    (tmp_path / "own.tar").symlink_to("real.tar")
    assert open_at(tmp_path / "own.tar").classes == ["a", "b"]
