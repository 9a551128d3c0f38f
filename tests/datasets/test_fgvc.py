"""The five sets of FGVC: tiny ones in their official layouts, read as torchvision reads them, and by lists of VPT."""

import hashlib
import json
import shutil
import struct
import tarfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torchvision.datasets
from image_files import encoded, fill, open_at
from scipy.io import savemat
from test_fetch import server  # noqa: F401 - a fixture

from ppvit.config import NO_DATA
from ppvit.core.errors import PpvitError, UsageError
from ppvit.datasets import DATASETS, fgvc, matlab, open_source
from ppvit.datasets.fgvc import FGVC


def pairs(source, split, root=""):
    return sorted((sample.origin.removeprefix(root), sample.label) for sample in getattr(source, split)())


def cub(folder, ids=("1", "2"), names=("001.Black_footed_Albatross", "002.Laysan_Albatross")):
    """Six images of two classes, every third for test."""
    lines = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    for number in range(6):
        of = number % 2
        path = f"{names[of].replace(' ', '_')}/{number}.jpg"
        fill(folder / "images", (path, encoded(number, "jpg")))
        lines["images"].append(f"{number + 1} {path}")
        lines["image_class_labels"].append(f"{number + 1} {ids[of]}")
        lines["train_test_split"].append(f"{number + 1} {int(number < 4)}")
    for name, content in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(content) + "\n")
    (folder / "classes.txt").write_text("".join(f"{i} {name}\n" for i, name in zip(ids, names, strict=True)))
    return folder


def flowers(folder):
    """Six images of two classes, two in each split; images are counted from 1, and classes too."""
    fill(folder / "jpg", *((f"image_{number:05d}.jpg", encoded(number, "jpg")) for number in range(1, 7)))
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]], np.uint8)})
    ids = {"trnid": [[1, 2]], "valid": [[4, 3]], "tstid": [[5, 6]]}
    savemat(folder / "setid.mat", {name: np.array(each, np.uint16) for name, each in ids.items()})
    return folder


def dogs(folder):
    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        files = [f"{breeds[number % 2]}/{breeds[number % 2].partition('-')[0]}_{number}.jpg" for number in numbers]
        fill(folder / "Images", *((file, encoded(number, "jpg")) for file, number in zip(files, numbers, strict=True)))
        cells = np.empty((len(files), 1), object)
        cells[:, 0] = files
        labels = np.array([[number % 2 + 1] for number in numbers], float)
        savemat(folder / f"{split}_list.mat", {"file_list": cells, "labels": labels}, do_compression=True)
    return folder


def cars(folder):
    kind = [("bbox_x1", object), ("class", object), ("fname", object)]
    for split, count in (("train", 4), ("test", 2)):
        names = [f"{number + 1:05d}.jpg" for number in range(count)]
        fill(folder / f"cars_{split}", *((name, encoded(number, "jpg")) for number, name in enumerate(names)))
        rows = np.array([[(1, number % 2 + 1, name) for number, name in enumerate(names)]], kind)
        place = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        (folder / place).parent.mkdir(exist_ok=True)
        savemat(folder / place, {"annotations": rows})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([["AM General", "Acura RL"]], object)})
    return folder


SETS = {"cub": cub, "nabirds": cub, "flowers": flowers, "dogs": dogs, "cars": cars}
FOLDERS = {name: info.folders[0] for name, info in FGVC.items()}


def made(tmp_path, name):
    (tmp_path / FOLDERS[name]).mkdir()
    return SETS[name](tmp_path / FOLDERS[name])


def test_counts_are_the_published_ones():
    """CUB 11,788; NABirds 48,562; Flowers 8,189; Dogs 20,580; Cars 16,185 photographs in all."""
    totals = {name: sum(info.counts) for name, info in FGVC.items()}
    assert totals == {"cub": 11_788, "nabirds": 48_562, "flowers": 8_189, "dogs": 20_580, "cars": 16_185}
    assert all(f"fgvc_{name}" in DATASETS for name in FGVC)


def test_birds_by_their_four_lists(tmp_path, capsys):
    source = open_at(made(tmp_path, "cub"), "fgvc_cub")
    assert source.classes == ["Black footed Albatross", "Laysan Albatross"]
    first, second = "images/001.Black_footed_Albatross/", "images/002.Laysan_Albatross/"
    expected = [(f"{first}0.jpg", 0), (f"{first}2.jpg", 0), (f"{second}1.jpg", 1), (f"{second}3.jpg", 1)]
    assert pairs(source, "train") == expected
    assert pairs(source, "test") == [(f"{first}4.jpg", 0), (f"{second}5.jpg", 1)]
    assert source.val is None
    told = capsys.readouterr()
    assert "dataset.val_fraction of each class is held out from training" in told.out
    assert "4 train + 2 test images, the published splits have 5,994 train + 5,794 test" in told.err


def test_nabirds_have_the_classes_that_occur(tmp_path):
    """Leaves of a tree whose numbers have gaps; two may have one name."""
    folder = cub(tmp_path, ids=("295", "1010"), names=("Common Eider", "Common Eider"))
    with (folder / "classes.txt").open("a") as file:
        file.write("0 Birds\n")
    source = open_at(folder, "fgvc_nabirds")
    assert source.classes == ["Common Eider (295)", "Common Eider (1010)"]
    assert {label for _, label in pairs(source, "train")} == {0, 1}


def test_flowers_as_torchvision_reads_them(tmp_path, monkeypatch):
    folder = made(tmp_path, "flowers")
    source = open_at(folder, "fgvc_flowers")
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    for split in ("train", "val", "test"):
        theirs = torchvision.datasets.Flowers102(str(tmp_path), split=split)
        files = [f"jpg/{path.name}" for path in theirs._image_files]
        assert pairs(source, split) == sorted(zip(files, theirs._labels, strict=True))
    assert source.classes == ["1", "2"]


def test_cars_as_torchvision_reads_them(tmp_path):
    folder = made(tmp_path, "cars")
    source = open_at(tmp_path, "fgvc_cars")
    for split in ("train", "test"):
        theirs = torchvision.datasets.StanfordCars(str(tmp_path), split=split)
        expected = [(str(path).removeprefix(f"{folder}/"), label) for path, label in theirs._samples]
        assert pairs(source, split, "stanford_cars/") == sorted(expected)
        assert source.classes == theirs.classes


def test_dogs_by_their_two_lists(tmp_path):
    source = open_at(made(tmp_path, "dogs"), "fgvc_dogs")
    assert source.classes == ["Chihuahua", "Japanese_spaniel"]
    assert pairs(source, "test") == [
        ("Images/n02085620-Chihuahua/n02085620_4.jpg", 0),
        ("Images/n02085782-Japanese_spaniel/n02085782_5.jpg", 1),
    ]


@pytest.mark.parametrize("name", SETS)
def test_archives_are_read_as_they_are_published(tmp_path, name):
    folder = made(tmp_path, name)
    unpacked = {split: pairs(open_at(folder, f"fgvc_{name}"), split) for split in ("train", "test")}
    for file, inside in FGVC[name].archives.items():
        if inside in FOLDERS[name]:  # an archive of the whole folder, beside which nothing else lies
            with tarfile.open(tmp_path / file, "w:gz") as tar:
                tar.add(folder, folder.name)
            shutil.rmtree(folder)
            folder = tmp_path
        else:
            files = [folder / inside] if "." not in inside else sorted(folder.glob("*_list.mat"))
            with tarfile.open(folder / file, "w") as tar:
                for each in files:
                    tar.add(each, each.name)
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
    source = open_at(folder, f"fgvc_{name}")
    for split, expected in unpacked.items():
        assert pairs(source, split, f"{FOLDERS[name]}/") == expected
        assert all(sample.image.startswith(b"\xff\xd8") for sample in getattr(source, split)())


def vpt(folder, lists):
    for split, numbers in lists.items():
        (folder / f"{split}.json").write_text(json.dumps(numbers))


def test_lists_of_vpt_are_followed(tmp_path, capsys):
    """Their names leave out the folder of images, and their numbers count from 1."""
    folder = made(tmp_path, "cub")
    first, second = "001.Black_footed_Albatross", "002.Laysan_Albatross"
    vpt(folder, {"train": {f"{first}/0.jpg": 1, f"{second}/1.jpg": 2}, "val": {f"{first}/2.jpg": 1},
                 "test": {f"{first}/4.jpg": 1, f"{second}/5.jpg": 2}})  # fmt: skip
    source = open_at(folder, "fgvc_cub")
    assert pairs(source, "train") == [(f"images/{first}/0.jpg", 0), (f"images/{second}/1.jpg", 1)]
    assert pairs(source, "val") == [(f"images/{first}/2.jpg", 0)]
    assert source.classes == [first, second]
    assert source.description == "FGVC cub, lists of VPT"
    assert "split by VPT's lists" in capsys.readouterr().out


def test_lists_of_vpt_without_folders_of_classes(tmp_path):
    folder = made(tmp_path, "cars")
    for name in ("cars_test_annos_withlabels.mat", "devkit"):  # not needed then
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    vpt(folder, {"train": {"cars_train/00001.jpg": 7, "cars_train/00002.jpg": 9}, "val": {"cars_train/00003.jpg": 7},
                 "test": {"cars_test/00001.jpg": 9, "cars_test/00002.jpg": 7}})  # fmt: skip
    source = open_at(folder, "fgvc_cars")
    assert source.classes == ["7", "9"]
    assert pairs(source, "test") == [("cars_test/00001.jpg", 1), ("cars_test/00002.jpg", 0)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "is no list of VPT"),
        ("{}", "is no list of VPT"),
        ('{"a.jpg": "1"}', "is no list of VPT"),
        ('{"a.jpg": true}', "is no list of VPT"),
        ('{"a.jpg": 1e9}', "is no list of VPT"),
        ('{"a.jpg": 1, "a.jpg": 2}', "a name stands twice"),
        ("{" * 3000, "is not valid JSON"),
        ("[" * 200_000, "is not valid JSON"),
        ('{"../../a.jpg": 1}', "is no path inside the data set"),
        ('{"a.jpg": 1, "./a.jpg": 1}', "has an image in two spellings"),
        ('{"a.jpg": 1}', "1 of the 1 images that train lists are not there"),
    ],
)
def test_bad_lists_of_vpt_end_in_one_line(tmp_path, text, told):
    folder = made(tmp_path, "cub")
    vpt(folder, {"val": {"b.jpg": 1}, "test": {"c.jpg": 1}})
    (folder / "train.json").write_text(text)
    with pytest.raises(PpvitError, match=told) as caught:
        open_at(folder, "fgvc_cub")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "before", "after", "told"),
    [
        ("images.txt", "\n2 ", "\n1 ", r"images\.txt, line 2: '1' stands there twice"),
        ("images.txt", "1 001.Black_footed_Albatross/0.jpg", "1", r"images\.txt, line 1: '1' has no value"),
        ("images.txt", "001.Black_footed_Albatross/0.jpg", "../0.jpg", "is no path inside the data set"),
        ("images.txt", "0.jpg", "x.jpg", "1 of the 4 images that train lists are not there"),
        ("image_class_labels.txt", "1 1\n", "1 7\n", r"has class '7', which .*classes\.txt does not name"),
        ("image_class_labels.txt", "3 1\n", "", "image_class_labels.txt says nothing valid of image '3'"),
        ("train_test_split.txt", "3 1\n", "3 2\n", "train_test_split.txt says nothing valid of image '3'"),
        ("classes.txt", None, None, r"lacks classes\.txt, which tells splits or classes"),
        ("images.txt", None, None, r"has neither images\.txt nor VPT's train\.json"),
    ],
)
def test_bad_lists_of_birds_end_in_one_line(tmp_path, file, before, after, told):
    path = made(tmp_path, "cub") / file
    if before is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(before, after))
    with pytest.raises(PpvitError, match=told):
        open_at(path.parent, "fgvc_cub")


def bomb():
    """A MAT-file of level 5 with an element that unpacks to 4 MiB."""
    packed = zlib.compress(bytes(2**22))
    header = b"MATLAB".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    return header + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "its header is another"),
        (b"\x89HDF" * 100, "its header is another"),
        (b"MATLAB".ljust(124) + b"\0\1IM" + struct.pack("<II", 14, 2**31), "it ends early"),
        (b"MATLAB".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, 4) + b"abcd", "is damaged or no MAT-file"),
        (bomb(), "unpacks to more than 1,048,576 bytes"),
    ],
)
def test_bad_matlab_files_end_in_one_line(monkeypatch, data, told):
    monkeypatch.setattr(matlab, "_UNPACKED_BYTES", 2**20)
    with pytest.raises(PpvitError, match=told) as caught:
        matlab.variables(data, "x.mat", "labels")
    assert str(caught.value).startswith("x.mat is damaged or no MAT-file of level 5")
    assert "\n" not in str(caught.value)


def test_cut_matlab_files_end_in_one_line(tmp_path):
    folder = made(tmp_path, "dogs")
    whole = (folder / "train_list.mat").read_bytes()
    for size in range(0, len(whole), 37):
        (folder / "train_list.mat").write_bytes(whole[:size])
        with pytest.raises(PpvitError, match=r"train_list\.mat"):
            open_at(folder, "fgvc_dogs")


@pytest.mark.parametrize(
    ("name", "contents", "told"),
    [
        ("imagelabels", {"labels": [[1, 2]]}, "has images beyond the 2 of"),
        ("imagelabels", {"labels": [[0, 2, 1, 2, 1, 2]]}, "has no class numbers from 1"),
        ("imagelabels", {"labels": [[1.5, 2, 1, 2, 1, 2]]}, "has something else than whole numbers"),
        ("imagelabels", {"labels": "text"}, "has something else than whole numbers"),
        ("imagelabels", {"other": [[1]]}, "has no variable 'labels'"),
        ("setid", {"trnid": [[1, 2]], "valid": [[2, 3]], "tstid": [[5, 6]]}, "is listed in train and in val"),
        ("setid", {"trnid": [[0, 2]], "valid": [[3]], "tstid": [[5, 6]]}, "has images beyond the 6"),
    ],
)
def test_wrong_labels_of_flowers_end_in_one_line(tmp_path, name, contents, told):
    folder = made(tmp_path, "flowers")
    savemat(folder / f"{name}.mat", contents)
    with pytest.raises(PpvitError, match=told):
        open_at(folder, "fgvc_flowers")


def test_wrong_labels_of_dogs_and_cars_end_in_one_line(tmp_path):
    folder = made(tmp_path, "dogs")
    cells = np.array(["a/1.jpg", "b/2.jpg"], object)
    savemat(folder / "train_list.mat", {"file_list": cells, "labels": [1, 2, 1]})
    with pytest.raises(PpvitError, match="has 2 files and 3 labels"):
        open_at(folder, "fgvc_dogs")
    folder = made(tmp_path, "cars")
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": np.array([("1.jpg",)], [("fname", object)])})
    with pytest.raises(PpvitError, match="annotations lack file names or classes"):
        open_at(folder, "fgvc_cars")


def test_another_of_the_five_is_refused(tmp_path):
    made(tmp_path, "cub")
    with pytest.raises(
        PpvitError, match="has the data sets CUB_200_2011; set dataset.path to the folder of fgvc_nabir"
    ):
        open_at(tmp_path, "fgvc_nabirds")
    made(tmp_path, "nabirds")  # both side by side
    assert open_at(tmp_path, "fgvc_nabirds").description == "FGVC nabirds, official split"


@pytest.mark.parametrize("name", ["nabirds", "dogs", "cars"])
def test_what_cannot_be_fetched_asks_for_a_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"dataset.name=fgvc_{name} is not fetched: set dataset.path"):
        open_source(f"fgvc_{name}", NO_DATA, tmp_path, 0.2, 0)


def test_a_download_is_verified_and_read_packed(tmp_path, monkeypatch, server):  # noqa: F811
    folder = made(tmp_path, "cub")
    with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz") as tar:
        tar.add(folder, folder.name)
    server.content = (tmp_path / "CUB_200_2011.tgz").read_bytes()
    url = server.url("CUB_200_2011.tgz")
    monkeypatch.chdir(tmp_path)
    for md5, works in (("0" * 32, False), (hashlib.md5(server.content).hexdigest(), True)):
        monkeypatch.setitem(FGVC, "cub", replace(FGVC["cub"], downloads=(fgvc.Download(url, md5),)))
        if works:
            source = open_source("fgvc_cub", NO_DATA, tmp_path / "cache", 0.2, 0)
            assert len(pairs(source, "train")) == 4
        else:
            with pytest.raises(PpvitError, match="cannot fetch CUB_200_2011.tgz"):
                open_source("fgvc_cub", NO_DATA, tmp_path / "cache", 0.2, 0)
