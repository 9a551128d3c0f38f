"""VTAB-1k: the prepared archive, as a folder, tar or zip, what is wrong in its lists, and the whole pipeline on it."""

import shutil
import tarfile
import zipfile

import pytest
from conftest import make_config
from image_files import encoded, fill, open_at, origins

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import NO_DATA
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import read_json
from ppvit.data.encrypted import write_encrypted
from ppvit.data.plain import plain_splits
from ppvit.data.sealed import read_dataset
from ppvit.datasets import DATASETS, open_source
from ppvit.datasets.raw import write_raw
from ppvit.datasets.vtab import TASKS

GROUPS = {"natural": 7, "specialised": 4, "structured": 8}
SPLITS = {"train800": ("train", 6), "val200": ("val", 3), "test": ("test", 4)}


def archive(folder, task="kitti", classes=(0, 1, 2)):
    """A task of four classes, of which train lacks the last: ``images/<list>/000000.jpg`` and four lists.

    ``train800val200.txt`` lists copies of its own, as in the published archive.
    """
    lines = {}
    for listed, (_, count) in SPLITS.items():
        names = [f"images/{listed}/{number:06d}.jpg" for number in range(count)]
        fill(folder / task, *((name, encoded(number, "jpg")) for number, name in enumerate(names)))
        labels = [*classes, *([3] if listed == "test" else [])]
        lines[listed] = [f"{name} {labels[number % len(labels)]}" for number, name in enumerate(names)]
    both = [line.split()[1] for line in (*lines["train800"], *lines["val200"])]
    names = [f"images/train800val200/{number:06d}.jpg" for number in range(len(both))]
    fill(folder / task, *((name, encoded(number, "jpg")) for number, name in enumerate(names)))
    lines["train800val200"] = [f"{name} {label}" for name, label in zip(names, both, strict=True)]
    for listed, content in lines.items():
        (folder / task / f"{listed}.txt").write_text("\n".join(content) + "\n")
    return folder


def as_listed(folder, listed):
    lines = (folder / f"{listed}.txt").read_text().splitlines()
    return sorted((line.rsplit(" ", 1)[0], int(line.rsplit(" ", 1)[1])) for line in lines)


def pairs(source, split, root=""):
    return sorted((sample.origin.removeprefix(root), sample.label) for sample in getattr(source, split)())


def packed(folder, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as out:
            for file in sorted(folder.rglob("*")):
                out.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w") as out:
            out.add(folder, "vtab-1k")
    return path


def test_all_19_tasks_are_there_in_their_groups():
    assert len(TASKS) == 19
    assert {group: sum(task.group == group for task in TASKS.values()) for group in GROUPS} == GROUPS
    assert all(f"vtab_{name}" in DATASETS for name in TASKS)
    folders = [folder for task in TASKS.values() for folder in task.folders]
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize("form", ["task", "all", "around", "tar", "zip"])
def test_splits_are_those_of_the_lists(tmp_path, form, capsys):
    folder = archive(archive(tmp_path / "vtab-1k"), "dtd")
    root = {"tar": "vtab-1k/kitti/", "zip": "kitti/"}.get(form, "")
    path = {"task": folder / "kitti", "all": folder, "around": tmp_path}.get(form)
    source = open_at(path or packed(folder, tmp_path / f"set.{form}"), "vtab_kitti")
    for listed, (split, _) in SPLITS.items():
        assert pairs(source, split, root) == as_listed(folder / "kitti", listed)
    assert source.classes == ["below 8 m", "8 to 20 m", "beyond 20 m", "no vehicle"]
    told = capsys.readouterr()
    assert "6 train + 3 val + 4 test images, the published splits have 800 train + 200 val + 711 test" in told.err
    assert "without an image in train, which cannot be learned: 'no vehicle' of 4 classes" in told.err
    assert "not used" not in told.out


def test_images_are_those_that_the_labels_belong_to(tmp_path):
    source = open_at(archive(tmp_path), "vtab_kitti")
    for sample in source.test():
        assert sample.image == (tmp_path / "kitti" / sample.origin).read_bytes()
        assert sample.extension == "jpg"


def test_val_among_the_training_images(tmp_path):
    folder = archive(tmp_path / "set")
    settings = make_config(dataset={"name": "vtab_kitti", "own_val": "train", "val_fraction": 0}).dataset
    write_raw(open_at(folder, "vtab_kitti"), settings, tmp_path / "raw")
    manifest, _ = read_dataset(tmp_path / "raw")
    assert manifest["counts"] == {"train": 9, "val": None, "test": 4}
    assert manifest["source"] == "VTAB-1k kitti, prepared archive, with val in train"
    plain = plain_splits(tmp_path / "raw", settings, make_config().encrypt)
    assert {split: len(images) for split, images in plain.items()} == {"train": 9, "val": 0, "test": 4}
    labels = [label for listed in ("train800", "val200") for _, label in as_listed(folder / "kitti", listed)]
    assert sorted(plain["train"].labels.tolist()) == sorted(labels)


def test_val_of_a_set_that_has_none_is_refused(tmp_path):
    settings = make_config(dataset={"name": "imagefolder", "own_val": "train"}).dataset
    source = open_at(fill(tmp_path / "d", "a/{4}.png", "b/{4}.png"))
    with pytest.raises(UsageError, match="own_val=train: imagefolder brings no validation images; set it back to val"):
        write_raw(source, settings, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_an_archive_with_the_thousand_alone(tmp_path, capsys):
    folder = archive(tmp_path)
    for listed in ("train800", "val200"):
        (folder / "kitti" / f"{listed}.txt").unlink()
    source = open_at(folder, "vtab_kitti")
    assert source.val is None
    assert pairs(source, "train") == as_listed(folder / "kitti", "train800val200")
    assert "dataset.val_fraction of all 1,000 images is held out" in capsys.readouterr().out


def test_a_third_list_of_other_images_is_told(tmp_path, capsys):
    folder = archive(tmp_path)
    path = folder / "kitti" / "train800val200.txt"
    path.write_text(path.read_text().replace(" 2", " 1", 1))
    open_at(folder, "vtab_kitti")
    assert "train800val200.txt has other classes than train800.txt with val200.txt" in capsys.readouterr().err


def listed(folder, text, name="test.txt"):
    path = folder / "kitti" / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


IMAGE = "images/test/000000.jpg"
BAD_LISTS = {
    f"{IMAGE} 4": r"test\.txt, line 1: class 4, but classes are 0 to 3; is this the right data set\?",
    f"{IMAGE} -1": "line 1: .* is no path with a class number",
    f"{IMAGE} 1.0": "line 1: .* is no path with a class number",
    f"{IMAGE} ²": "line 1: .* is no path with a class number",
    f"{IMAGE}": "line 1: .* is no path with a class number",
    f"\n{IMAGE} 1\n{IMAGE} 1": "line 3: .* stands there twice",
    f"{IMAGE} 1\n./images//test/000000.jpg 1": "line 2: .* stands there twice",
    " 1": "line 1: ' 1' is no path",
    "3": "line 1: '3' is no path",
    "../kitti/images/test/000000.jpg 1": "line 1: .* is no path inside the data set",
    "images/../../../etc/passwd 1": "is no path inside the data set",
    "/etc/passwd 1": "is no path inside the data set",
    "C:/images/x.jpg 1": "is no path inside the data set",
    "images\\test\\000000.jpg 1": "with forward slashes",
    ". 1": "is no path inside the data set",
    "images/test/9.jpg 1": "1 of the 1 images that test lists are not there, such as 'images/test/9.jpg'"
    .replace("images/test/9.jpg", "[^']*images/test/9.jpg"),
    "val200.txt 1": "is no image that is read",
    "images/train800/000000.jpg 1": "is listed in train and in test",
    "": "lists no images",
    b"\xff\xfe1\0": "is no text in UTF-8",
    "x" * 5000 + " 1": r"are not there, such as 'x{40,57}\.\.\.'",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_LISTS, ids=range(len(BAD_LISTS)))
def test_bad_lists_end_in_one_line(tmp_path, text):
    folder = archive(tmp_path)
    listed(folder, text)
    with pytest.raises(PpvitError, match=BAD_LISTS[text]) as caught:
        open_at(folder, "vtab_kitti")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_lists_with_blanks_in_names_and_marks_of_order(tmp_path):
    folder = archive(tmp_path)
    fill(folder / "kitti", ("images/a b/c.jpg", encoded(1, "jpg")))
    text = "".join(f"\r\nimages/test/{number:06d}.jpg {number}" for number in range(3))
    listed(folder, b"\xef\xbb\xbfimages/a b/c.jpg 3" + text.encode())
    assert ("images/a b/c.jpg", 3) in pairs(open_at(folder, "vtab_kitti"), "test")


def test_missing_lists_are_named(tmp_path):
    folder = archive(tmp_path)
    (folder / "kitti" / "test.txt").unlink()
    with pytest.raises(PpvitError, match=r"has no test\.txt with train800\.txt and val200\.txt"):
        open_at(folder, "vtab_kitti")
    listed(folder, f"{IMAGE} 1")
    (folder / "kitti" / "val200.txt").unlink()
    (folder / "kitti" / "train800val200.txt").unlink()
    with pytest.raises(PpvitError, match=r"has train800\.txt without val200\.txt"):
        open_at(folder, "vtab_kitti")


def test_another_task_is_refused(tmp_path):
    folder = archive(archive(tmp_path), "dtd")
    with pytest.raises(PpvitError, match="has lists of dtd, kitti; vtab_svhn needs one folder svhn"):
        open_at(folder, "vtab_svhn")
    with pytest.raises(PpvitError, match="has lists of dtd; vtab_kitti needs one folder kitti"):
        open_at(folder / "dtd", "vtab_kitti")
    shutil.move(folder / "kitti", tmp_path / "mine")  # a name of the user's own is believed
    assert len(origins(open_at(tmp_path / "mine", "vtab_kitti"), "train")) == 6


def test_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"vtab_kitti is not fetched: .* with kitti/train800\.txt"):
        open_source("vtab_kitti", NO_DATA, tmp_path, 0.2, 0)


def test_links_to_images_are_followed_and_others_refused(tmp_path):
    folder = archive(tmp_path / "set")
    image = folder / "kitti" / IMAGE
    shutil.move(image, tmp_path / "kept.jpg")
    image.symlink_to(tmp_path / "kept.jpg")  # as DVC and git-annex keep files
    assert IMAGE in origins(open_at(folder, "vtab_kitti"), "test")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(folder, "")
    with pytest.raises(PpvitError, match=r"000000\.jpg is a link; pack the archive with tar --dereference"):
        list(open_at(tmp_path / "set.tar", "vtab_kitti").test())
    (tmp_path / "kept.jpg").unlink()
    with pytest.raises(PpvitError, match="1 of the 4 images that test lists are not there"):
        open_at(folder, "vtab_kitti")


def test_a_list_that_is_a_link_is_refused(tmp_path):
    folder = archive(tmp_path / "set")
    path = folder / "kitti" / "test.txt"
    shutil.move(path, tmp_path / "secret")
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(PpvitError, match=r"test\.txt is a link, which lists must not be"):
        open_at(folder, "vtab_kitti")


def test_a_name_twice_in_a_tar_is_refused(tmp_path):
    folder = archive(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(folder, "")
        tar.add(folder / "kitti" / "images/test/000001.jpg", "kitti/images/test/000000.jpg")
    with pytest.raises(PpvitError, match=r"holds 'kitti/images/test/000000\.jpg' twice"):
        open_at(tmp_path / "set.tar", "vtab_kitti")


def test_a_class_that_test_lacks_is_refused(tmp_path):
    folder = archive(tmp_path)
    listed(folder, f"{IMAGE} 1")
    with pytest.raises(PpvitError, match="test lists no image of class 'below 8 m'; copy the data set again"):
        open_at(folder, "vtab_kitti")


def test_one_class_is_too_few(tmp_path):
    folder = archive(tmp_path, classes=(2,))
    with pytest.raises(PpvitError, match="train lists 1 class, and at least two are needed"):
        open_at(folder, "vtab_kitti")


def test_a_file_that_is_no_image_stops_the_download(tmp_path):
    folder = archive(tmp_path / "set")
    fill(folder / "kitti", ("images/raw", b"key = 3"))
    text = "".join(f"images/test/{number:06d}.jpg {number}\n" for number in (0, 2, 3))
    listed(folder, f"{text}images/raw 1")
    settings = make_config(dataset={"name": "vtab_kitti"}).dataset
    with pytest.raises(PpvitError, match="'images/raw' is no image that is read"):
        write_raw(open_at(folder, "vtab_kitti"), settings, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    listed(folder, f"{text}images/test/000001.jpg 1")
    write_raw(open_at(folder, "vtab_kitti"), settings, tmp_path / "raw")
    manifest, _ = read_dataset(tmp_path / "raw")
    assert manifest["counts"] == {"train": 6, "val": 3, "test": 4}
    assert manifest["source"] == "VTAB-1k kitti, prepared archive"


def test_a_class_that_train_lacks_keeps_its_number_in_what_the_trainer_gets(tmp_path, capsys):
    config = make_config(dataset={"name": "vtab_kitti", "image_size": 16})
    write_raw(open_at(archive(tmp_path / "set"), "vtab_kitti"), config.dataset, tmp_path / "raw")
    plain = plain_splits(tmp_path / "raw", config.dataset, config.encrypt)
    write_encrypted(plain, load_cipher(config), tmp_path / "out", 512)
    assert "no train image shows 'no vehicle', which cannot be learned" in capsys.readouterr().err
    manifest = read_json(tmp_path / "out" / "train" / "manifest.json", "encrypt")
    assert (manifest["count"], manifest["num_classes"]) == (6, 4)
