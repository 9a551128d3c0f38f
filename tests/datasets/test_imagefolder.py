"""Folders and archives of images that nobody here prepared, and the test split held out of them."""

import gzip
import io
import os
import re
import shutil
import string
import subprocess
import tarfile
import zipfile
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import encoded, everything, fill, open_at, origins
from PIL import Image
from test_dicom import dicom

from ppvit.core.errors import PpvitError
from ppvit.datasets.holdout import HoldOut

# --- layouts: split folders are in test_splits.py


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "d", "train/{5}.png", "plane/{5}.png")
    assert open_at(tmp_path / "d").classes == ["plane", "train"]


def test_grey_colour_odd_sizes_many_formats_and_nested_files(tmp_path):
    files = [
        ("Birds/a.JPG", encoded(1, "jpg", "L", (17, 3))),
        ("Birds/b.jpeg", encoded(2, "jpg", size=(1, 1))),
        ("Birds/deep/er/c.tiff", encoded(3, "tif", "I;16")),
        ("Birds/d.e.f.webp", encoded(4, "webp", "RGBA")),
        ("Äpfel & Birnen/ü 1.png", encoded(5, "png", "1")),
        ("Äpfel & Birnen/2.gif", encoded(6, "gif", "P")),
        ("Äpfel & Birnen/3.bmp", encoded(7, "bmp")),
        ("Äpfel & Birnen/4.pgm", encoded(8, "pgm", "L")),
    ]
    source = open_at(fill(tmp_path / "d", *files), test_fraction=0.5)
    assert source.classes == ["Birds", "Äpfel & Birnen"]
    samples = [*source.train(), *source.test()]
    assert {s.origin: s.image for s in samples} == dict(files)
    assert {s.extension for s in samples} == {"jpg", "tif", "webp", "png", "gif", "bmp", "pgm"}
    assert all((s.label == 0) == s.origin.startswith("Birds") for s in samples)


def test_hidden_files_leftovers_and_other_files_do_not_count(tmp_path, capsys):
    fill(
        tmp_path / "d",
        *("a/{4}.png", "b/{4}.png", ".git/x/{2}.png", "__MACOSX/a/._0.png", "a/.hidden.png", "b/._0.png"),
        *("a/.ipynb_checkpoints/0-checkpoint.png", "a/@eaDir/0.png/SYNOFILE_THUMB_M.png", "$RECYCLE.BIN/{3}.png"),
        *[(name, b"x") for name in ("a/Thumbs.db", "a/.DS_Store", "README.md", "a/notes.txt", "labels.csv")],
    )
    (tmp_path / "d" / "nothing").mkdir()
    source = open_at(tmp_path / "d")
    assert source.classes == ["a", "b"]
    assert sorted(origins(source, "train") + origins(source, "test")) == [
        f"{c}/{n}.png" for c in "ab" for n in range(4)
    ]
    warnings = capsys.readouterr().err
    assert "2 files that are no images were ignored (.txt: 1, .csv: 1), such as" in warnings
    assert "nothing holds no images" in warnings


UNNAMED = ("{}/IM000{}", "{}/IM.000{}", "{}/1.2.840.113619.2.{}", "{}/no ending {}")


@pytest.mark.parametrize("pack", ["folder", "zip", "tar", "gztar"])
def test_files_without_an_ending_are_known_by_what_they_begin_with(tmp_path, pack):
    """As PACS exports, browsers and caches leave them; DICOMDIR is a list of them and no image."""
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8)
    contents = [dicom(grey), encoded(3, "jpg"), encoded(4, "tif"), encoded(5, "webp"), b"text, no image"]
    files = [
        (name.format(c, number), content)
        for c, name in zip("aabb", UNNAMED, strict=True)
        for number, content in enumerate(contents)
    ]
    folder = fill(tmp_path / "d", *files, ("a/DICOMDIR", contents[0]), ("b/LICENSE", b"\xff\xd8"), ("a/empty", b""))
    path = folder if pack == "folder" else Path(shutil.make_archive(tmp_path / "packed", pack, folder))
    source = open_at(path, test_fraction=0.5)
    samples = [*source.train(), *source.test()]
    expected = {name: content for name, content in files if content != contents[-1]}
    assert {sample.origin: sample.image for sample in samples} == expected
    kept = dict(zip(contents, ("dcm", "jpg", "tif", "webp"), strict=False))
    assert all(sample.extension == kept[sample.image] for sample in samples)


@pytest.mark.parametrize("ending", [".dat", ".jpg_large", ".dcm~"])
def test_images_under_another_name_are_told(tmp_path, ending):
    content = dicom(np.zeros((8, 8), np.uint8)) if "dcm" in ending else encoded(3, "jpg")
    files = [(f"{c}/{number}{ending}", content) for c in "ab" for number in range(3)]
    told = f"files named {re.escape(ending)} begin like {'dcm' if 'dcm' in ending else 'jpg'}: rename them so"
    with pytest.raises(PpvitError, match=rf"no images that are read but \{ending}: 6; .*; {told}"):
        open_at(fill(tmp_path / "alone", *files))
    with pytest.raises(PpvitError, match=rf"1 are images that are read and 3 are not .*; {told}"):
        open_at(fill(tmp_path / "beside", *files, "a/0.png", "b/0.png", "c/{9}.png"))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["fold1/cat/{2}.png", "fold1/dog/{2}.png", "fold2/cat/{2}.png", "fold2/dog/{2}.png"], "folders cat, dog"),
        (
            [f"{c}/{kind}/{{2}}.png" for c in ("covid", "normal") for kind in ("images", "masks")],
            "folders images, masks",
        ),
        ([f"{s}/{c}/{k}/{{2}}.png" for s in ("train", "test") for c in "ab" for k in "xy"], "folders x, y"),
        (["a/front/{2}.png", "a/back/{2}.png", "b/front/{2}.png", "b/side/{2}.png"], ""),
        (["a/front/{2}.png", "a/back/{2}.png", "a/{2}.png", "b/front/{2}.png", "b/back/{2}.png", "b/{2}.png"], ""),
        (["a/images/{2}.png", "b/images/{2}.png"], ""),
    ],
)
def test_the_same_folders_in_every_class_are_told(tmp_path, capsys, files, told):
    """They may be the classes themselves, or masks."""
    open_at(fill(tmp_path / "d", *files), test_fraction=0.5)
    error = capsys.readouterr().err
    assert (
        (f"every class folder holds the {told}, and all images in them are of the class" in error)
        if told
        else not error
    )


def test_loose_images_beside_class_folders_are_reported(tmp_path, capsys):
    open_at(fill(tmp_path / "d", "a/{2}.png", "b/{2}.png", "loose.png"))
    assert "not used: 1 image in no folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/{3}.png"], "at least two classes are needed, found only 'a'"),
        (["{3}.png"], "no class folders"),
        ([("a/x.txt", b"x"), ("b/x.txt", b"x")], "holds no images"),
        (["a/{3}.png", "b/x.png"], "class 'b' has a single image"),
        (["train/a/x.png", "train/b/x.png", "test/a/x.png"], "class missing in test: 'b'"),
        (["train/a/x.png", "train/b/x.png", "test/a/x.png", "test/B/x.png"], "there is 'b', of which only case, width"),
        (
            ["train/a/x.png", "train/b/x.png", "val/A/x.png", "val/b/x.png", "test/a/x.png", "test/b/x.png"],
            "missing in train: 'A'; .* out of val; there is 'a', of which only case",
        ),
        (["train/a/x.png", "test/b/x.png", "test/a/x.png"], "class missing in train: 'b'"),
        (["train/a/x.png", "train/b/x.png", "test/c/{3}.png"], "test/ has none of the class folders of train/"),
        (["train/a/x.png", "test/a/x.png"], "at least two classes"),
    ],
)
def test_layouts_that_cannot_be_trained_on(tmp_path, files, message):
    with pytest.raises(PpvitError, match=message) as caught:
        open_at(fill(tmp_path / "d", *files))
    assert "\n" not in str(caught.value)


# --- archives


@pytest.fixture
def pets(tmp_path):
    return fill(tmp_path / "pets", "cat/{7}.png", "dog/in/{5}.png", "owl/{2}.png")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.xz", "tar.bz2", "zip"])
@pytest.mark.parametrize("with_top", [True, False])
def test_archives_give_what_their_folder_gives(tmp_path, pets, ending, with_top):
    kind = {"tar": "tar", "tar.xz": "xztar", "tar.bz2": "bztar", "zip": "zip"}.get(ending, "gztar")
    made = shutil.make_archive(tmp_path / "made", kind, *((tmp_path, "pets") if with_top else (pets,)))
    archive = Path(made).rename(tmp_path / f"my.{ending}")
    folder, packed = everything(open_at(pets)), everything(open_at(archive))
    top = "pets/" if with_top else ""
    for split in ("train", "test"):
        assert sorted(packed[split]) == sorted((label, top + name, image) for label, name, image in folder[split])


def test_a_folder_with_one_archive_in_it(tmp_path, pets):
    shutil.make_archive(tmp_path / "local/pets", "zip", pets)
    (tmp_path / "local/README.md").write_text("put your data here")
    assert open_at(tmp_path / "local").classes == ["cat", "dog", "owl"]


def test_source_can_be_read_again(pets):
    source = open_at(pets)
    assert everything(source) == everything(source)


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png", "a\\..\\..\\evil.png"]
)
def test_members_that_point_outside_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr(name, encoded())
    with tarfile.open(tmp_path / "e.tar", "w") as tar:
        member = tarfile.TarInfo(name.replace("\\", "/"))
        member.size = len(encoded())
        tar.addfile(member, io.BytesIO(encoded()))
    for archive in ("e.zip", "e.tar"):
        with pytest.raises(PpvitError, match="points out of the archive"):
            open_at(tmp_path / archive)


def test_a_zip_that_holds_a_name_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive, catch_warnings():
        simplefilter("ignore")  # of what is to be tested
        for name in ("a/", "b/", "a/", "a/0.png", "b/0.png", "a/1.png", "b/1.png", "a/0.png"):
            archive.writestr(name, encoded(5) if name.endswith("png") else b"")
    with pytest.raises(
        PpvitError, match=r"d\.zip holds 'a/0\.png' twice, of which unpacking would keep one; unpack it"
    ):
        open_at(tmp_path / "d.zip")


def test_links_in_archives_are_refused(tmp_path, pets):
    os.link(pets / "cat/0.png", pets / "cat/hard.png")
    archive = shutil.make_archive(tmp_path / "made", "tar", pets)
    with pytest.raises(PpvitError, match="is a link"):
        everything(open_at(archive))


@pytest.mark.parametrize("kind", ["tar", "gztar", "xztar", "bztar", "zip"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_cut_archives_are_errors_that_name_them(tmp_path, kind, share):
    rng = np.random.default_rng(0)
    folder = tmp_path / "noise"
    for label in "ab":
        for number in range(20):
            (folder / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / label / f"{number}.png")
    archive = Path(shutil.make_archive(tmp_path / "cut", kind, folder))
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(PpvitError, match="cut") as caught:
        everything(open_at(archive))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("into_member", [0, 100, 511])
def test_a_tar_cut_at_a_member_is_not_taken_for_its_end(tmp_path, pets, pack, into_member):
    whole = Path(shutil.make_archive(tmp_path / "whole", "tar", pets))
    with tarfile.open(whole) as tar:
        last = tar.getmembers()[-1].offset
    cut = tmp_path / f"cut.{'tar' if pack is bytes else 'tar.gz'}"
    cut.write_bytes(pack(whole.read_bytes()[: last + into_member]))
    with pytest.raises(PpvitError, match="ends early"):
        everything(open_at(cut))


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path, pets):
    archive, image = tmp_path / "made.zip", (pets / "cat/6.png").read_bytes()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:
        for path in sorted(pets.rglob("*.png")):
            made.write(path, path.relative_to(pets))
    data = bytearray(archive.read_bytes())
    data[data.index(image) + len(image) - 6] ^= 1  # in the last chunk's checksum, which header checks do not reach
    archive.write_bytes(data)
    with pytest.raises(PpvitError, match=r"made\.zip is damaged.*CRC-32.*cat/6\.png"):
        everything(open_at(archive))


def test_a_password_is_named(tmp_path, pets):
    if shutil.which("zip") is None:
        data = Path(shutil.make_archive(tmp_path / "made", "zip", pets)).read_bytes()
        # the flag "encrypted" in every header is all that a reader without password sees
        data = bytearray(data)
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = -1
            while (start := data.find(signature, start + 1)) >= 0:
                data[start + offset] |= 1
        (tmp_path / "made.zip").write_bytes(data)
    else:
        subprocess.run(["zip", "-qrP", "secret", tmp_path / "made.zip", "."], cwd=pets, check=True)
    with pytest.raises(PpvitError, match="password"):
        everything(open_at(tmp_path / "made.zip"))


# --- the held-out split


@settings(max_examples=60)
@given(
    counts=st.dictionaries(
        st.text(string.ascii_letters, min_size=1, max_size=4), st.integers(2, 40), min_size=1, max_size=5
    ),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_hold_out_is_stratified_and_blind_to_order(counts, fraction, seed):
    images = [(name, f"{name}/{number}.png") for name, count in counts.items() for number in range(count)]
    split, reverse = (HoldOut(order, fraction, seed, "here") for order in (images, images[::-1]))
    for name, count in counts.items():
        held = [image for of, image in images if of == name and split.is_test(of, image)]
        assert len(held) == split.test_counts[name] == min(max(round(count * fraction), 1), count - 1)
        assert split.train_counts[name] == count - len(held)
        assert held == [image for of, image in images if of == name and reverse.is_test(of, image)]


def test_hold_out_depends_on_seed_and_moves_little_when_images_are_added():
    images = [("a", f"{number}.png") for number in range(200)]
    first, other = (HoldOut(images, 0.5, seed, "here") for seed in (0, 1))
    more = HoldOut([*images, ("a", "new.png")], 0.5, 0, "here")
    assert 60 < sum(first.is_test(*i) != other.is_test(*i) for i in images) < 140  # 100 expected of independent halves
    assert sum(first.is_test(*i) != more.is_test(*i) for i in images) <= 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_image_is_lost_or_doubled(tmp_path_factory, data):
    part = st.text(string.ascii_lowercase, min_size=1, max_size=3)
    names = data.draw(st.lists(part, min_size=2, max_size=4, unique=True))
    files = [
        f"{name}/{'/'.join([*inner, str(number)])}.png"
        for name in names
        for number, inner in enumerate(data.draw(st.lists(st.lists(part, max_size=3), min_size=2, max_size=5)))
    ]
    source = open_at(fill(tmp_path_factory.mktemp("d") / "d", *files))
    train, test = origins(source, "train"), origins(source, "test")
    assert sorted(train + test) == sorted(files)
    assert source.classes == sorted(names)
    assert {o.split("/")[0] for o in train} == {o.split("/")[0] for o in test} == set(names)
