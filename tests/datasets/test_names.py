"""Names of classes in every spelling, encoding and script: kept apart, or the same, and never garbled in silence."""

import csv
import json
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from warnings import catch_warnings, simplefilter

import pytest
from conftest import make_config
from image_files import encoded, everything, fill, open_at, origins

from ppvit.core.errors import PpvitError
from ppvit.data.sealed import read_dataset
from ppvit.datasets.class_names import check_names
from ppvit.datasets.raw import write_raw
from ppvit.datasets.source import check_classes

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
ODD = [
    "=1+1", "+SUM(A1)", "-2+3", "@cmd", "\u2260", '"quoted"', "it's", "a,b;c", "<b>&amp;", "$x_1$", "\\frac{1}{2}",
    "%d %s {0} {{x}}", "# heading", "- item", "a: b", "null", "~", "*bold* _it_ `c`", "[x](y)", "|a|b|", "--><script>",
    "שלום", "مرحبا", "नमस्ते", "猫", "😀", "👩\u200d🔬", "0", "1e5", "x" * 200, "a b", "\u202egnp.exe", "CON", "-rf",
]  # fmt: skip


class Stored(zipfile.ZipInfo):
    """A member whose name is written in the given bytes, with and without the flag that says UTF-8."""

    def __init__(self, raw, flag):
        super().__init__("name")
        self.raw, self.flag = raw, flag

    def _encodeFilenameFlags(self):
        return self.raw, self.flag


def pack(path, names, encoding="utf-8", flag=0, extra=lambda name: b"", suffix="/"):
    """A zip of three images under each name, in an encoding that the zip does not state, as old tools write it."""
    with zipfile.ZipFile(path, "w") as archive, catch_warnings():
        simplefilter("ignore")  # of names that zipfile takes for the same
        for name in names:
            for number in range(3):
                whole = f"{name}{suffix}{number}.png"
                member = Stored(whole.encode(encoding), flag)
                member.extra = extra(whole)
                archive.writestr(member, encoded(number))
    return path


# --- spellings of Unicode


def test_two_spellings_of_a_name_are_one_class(tmp_path):
    files = [f"{name}/{number}.png" for name, numbers in ((COMPOSED, "012"), (DECOMPOSED, "345")) for number in numbers]
    source = open_at(fill(tmp_path / "d", *files, "tea/{4}.png"))
    assert source.classes == [COMPOSED, "tea"]
    assert sum(sample.label == 0 for split in ("train", "test") for sample in getattr(source, split)()) == 6


def test_train_and_test_may_be_spelled_in_two_ways(tmp_path):
    source = open_at(fill(tmp_path / "d", *(f"train/{c}/x.png" for c in (COMPOSED, "b")),
                          *(f"test/{c}/x.png" for c in (DECOMPOSED, "b"))))  # fmt: skip
    assert source.classes == ["b", COMPOSED]


def test_images_of_one_name_in_two_spellings_are_all_there(tmp_path, capsys):
    files = [
        f"{folder}/{name}{number}.png" for folder in "ab" for name in (COMPOSED, DECOMPOSED) for number in range(3)
    ]
    source = open_at(fill(tmp_path / "d", *files))
    counts = [len(origins(source, split)) for split in ("train", "test")]
    assert sum(counts) == 12
    told = capsys.readouterr().out
    assert f"train {counts[0]:>9}" in told
    assert f"test  {counts[1]:>9}" in told


def test_a_folder_and_its_archives_split_alike_in_either_spelling(tmp_path):
    names = [f"{name}/{unicodedata.normalize(form, 'ü')}{number}.png" for name in "ab" for number in range(5)
             for form in ["NFC"]]  # fmt: skip
    plain = fill(tmp_path / "plain", *names)
    apple = fill(tmp_path / "apple", *(unicodedata.normalize("NFD", name) for name in names))
    with tarfile.open(tmp_path / "apple.tar", "w") as tar:
        tar.add(apple, "apple")
    test = origins(open_at(plain), "test")
    assert origins(open_at(apple), "test") == test
    assert sorted(origins(open_at(tmp_path / "apple.tar"), "test")) == sorted(f"apple/{name}" for name in test)


def test_names_that_are_no_utf8_stay_apart_and_are_remarked_on(tmp_path, capsys):
    for name in (b"caf\xe9", b"caf\xea", b"tea"):
        folder = bytes(tmp_path / "d") + b"/" + name
        fill(folder.decode("utf-8", "surrogateescape"), "{3}.png")
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        tar.add(tmp_path / "d", "d")
    for path in (tmp_path / "d", tmp_path / "d.tar"):
        source = open_at(path)
        assert source.classes == ["caf\\xe9", "caf\\xea", "tea"]
        assert len(everything(source)["train"]) + len(everything(source)["test"]) == 9
        assert "the name caf\\xe9 is not in UTF-8; its bytes are shown" in capsys.readouterr().out


def test_names_that_differ_in_case_only_are_asked_about(tmp_path, capsys):
    assert open_at(fill(tmp_path / "d", "Cat/{2}.png", "cat/{2}.png")).classes == ["Cat", "cat"]
    assert "are 'Cat' and 'cat' meant as two classes?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a", "b\nc"], r"class 1 has control characters or is too long; rename it: 'b\\nc'$"),
        (["a", "b\u2028c"], "class 1 has control characters"),
        (["\ud800", "b"], "class 0 has control characters"),
        (["a", "\x7f"], "class 1 has control characters"),
        (["a", "x" * 1001], "class 1 has control characters or is too long"),
        (["a", " "], "class 1 has no name"),
        (["a", ""], "class 1 has no name"),
        (["a", "b", "a"], "classes 0 and 2 have the same name, 'a'; rename"),
        ([COMPOSED, DECOMPOSED], "have the same name, .* spelled in two ways"),
    ],
)
def test_names_that_no_data_set_may_have(names, told):
    counts = dict.fromkeys(range(len(names)), 1)
    with pytest.raises(PpvitError, match=told):
        check_classes(names, counts, counts, "here")


# --- zips


@pytest.mark.parametrize(
    ("encoding", "names", "read_as"),
    [
        ("cp932", ["いぬ", "ねこ"], "cp932"),
        ("cp932", ["表", "ソフト"], "cp932"),  # the second byte of either is a backslash
        ("cp437", ["Äpfel", "Käse", "Café"], "cp437"),
        ("cp850", ["Ñandú", "Çedilla"], "cp437"),  # the same letters at the same places
        ("cp852", ["żółw", "świnia"], "cp852"),
        ("cp866", ["кошка", "собака"], "cp866"),
        ("cp1252", ["Äpfel", "Käse"], "cp1252"),
        ("big5", ["貓", "狗", "蘋果"], "big5"),
    ],
)
def test_zip_names_of_which_one_reading_makes_words(tmp_path, capsys, encoding, names, read_as):
    source = open_at(pack(tmp_path / "d.zip", names, encoding))
    assert source.classes == sorted(names)
    assert len(everything(source)["train"]) == 2 * len(names)
    said = capsys.readouterr().err
    assert f"does not say in which encoding its names are; they were read as {read_as}, such as {names[0]}" in said
    assert said.count("does not say") == 1


@pytest.mark.parametrize(
    ("encoding", "names", "readings"),
    [
        ("gbk", ["猫", "狗"], ["猫/0.png (gb2312)", "챔/0.png (euc_kr)"]),
        ("euc_kr", ["고양이", "개"], ["고양이/0.png (euc_kr)", "(gb2312)"]),
        ("cp1251", ["кошка", "собака"], ["кошка/0.png (cp1251)", "(cp1252)"]),
        ("cp932", ["ああ", "いう"], ["éáéá/0.png (cp437)", "ああ/0.png (cp932)"]),
        ("big5", ["石", "竹"], ["石/0.png (big5)", "(gb2312)"]),
    ],
)
def test_zip_names_of_several_readings_are_refused_with_them(tmp_path, encoding, names, readings):
    with pytest.raises(PpvitError, match="does not say in which encoding its names are") as caught:
        open_at(pack(tmp_path / "d.zip", names, encoding))
    assert all(reading in str(caught.value) for reading in readings)
    assert not any("\uff61" <= letter <= "\uff9f" for letter in str(caught.value))  # kana of half a width
    assert "unpack it" in str(caught.value)


def test_files_of_several_readings_in_folders_of_plain_names_are_read(tmp_path, capsys):
    source = open_at(pack(tmp_path / "d.zip", ["a/猫", "b/狗"], "gbk", suffix=""))
    assert source.classes == ["a", "b"]
    assert "a/\\xc3\\xa80.png" in origins(source, "train") + origins(source, "test")
    assert "the bytes are shown" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [0, 0x800])
def test_zip_names_in_utf8_with_and_without_the_flag(tmp_path, capsys, flag):
    names = ["いぬ", "Äpfel", DECOMPOSED]
    source = open_at(pack(tmp_path / "d.zip", names, "utf-8", flag))
    assert source.classes == sorted(["いぬ", "Äpfel", COMPOSED])
    assert "encoding" not in capsys.readouterr().err


@pytest.mark.parametrize("whole", [True, False])
def test_info_zips_field_of_unicode_names(tmp_path, whole):
    """0x7075: version 1, CRC-32 of the other name, the name in UTF-8; of another CRC it is out of date."""

    def field(name):
        crc = zlib.crc32(name.encode("gbk")) ^ (0 if whole else 1)
        content = b"\1" + struct.pack("<I", crc) + name.encode()
        return struct.pack("<HH", 0x5455, 1) + b"\0" + struct.pack("<HH", 0x7075, len(content)) + content

    path = pack(tmp_path / "d.zip", ["猫", "狗"], "gbk", extra=field)
    if whole:
        assert open_at(path).classes == ["狗", "猫"]
    else:
        with pytest.raises(PpvitError, match="does not say"):
            open_at(path)


def test_names_that_are_said_to_be_utf8_and_are_not(tmp_path):
    with pytest.raises(PpvitError, match=r"d\.zip is damaged .*utf-8"):
        open_at(pack(tmp_path / "d.zip", ["いぬ"], "cp932", flag=0x800))


def test_what_zipfile_writes_itself_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name in ("いぬ", "x"):
            for number in range(2):
                archive.writestr(f"{name}/{number}.png", encoded())
    assert open_at(tmp_path / "d.zip").classes == ["x", "いぬ"]


@pytest.mark.parametrize("name", ["../x", "猫/../../x", "C:/x"])
def test_decoded_names_that_point_out_are_refused(tmp_path, name):
    with pytest.raises(PpvitError, match="points out of the archive"):
        open_at(pack(tmp_path / "d.zip", [name, "y"], "utf-8"))


# --- names that mean something elsewhere


def test_odd_names_go_through_the_raw_data_set(tmp_path, capsys):
    for name in ODD:
        fill(tmp_path / "d" / name, "{2}.png")
    source = open_at(tmp_path / "d")
    assert source.classes == sorted(ODD)
    told = capsys.readouterr()
    assert "\u202e" not in told.out + told.err  # which turns what follows it on a terminal
    write_raw(source, make_config(dataset={"name": "imagefolder"}).dataset, tmp_path / "raw")
    assert read_dataset(tmp_path / "raw")[0]["classes"] == sorted(ODD)
    assert json.loads((tmp_path / "raw/dataset.json").read_text(encoding="utf-8"))["classes"] == sorted(ODD)


def test_odd_names_are_no_errors():
    check_names(ODD, "here")


def test_the_list_of_findings_runs_nothing_in_a_spreadsheet(tmp_path):
    names = ["=HYPERLINK(1)", "+1", "-2+3", "@cmd", 'quo"ted', "a,b"]
    for name in names:
        fill(tmp_path / "d" / name, ("=1.png", encoded(1)), ("2.png", encoded(2)))  # all the same pixels
    write_raw(open_at(tmp_path / "d"), make_config(dataset={"name": "imagefolder"}).dataset, tmp_path / "raw")
    with (tmp_path / "raw/findings.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert {"'=HYPERLINK(1)", "'@cmd", 'quo"ted', "a,b"} <= {*cells}
