"""Folders of Hugging Face `datasets`: written by that library, read without it."""

import io
import json
import os
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import damaged
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encoded, open_at
from PIL import Image

from ppvit.core.errors import PpvitError, UsageError

CLASSES = ["zebra", "cat", "dog"]  # in another order than the alphabet's
FEATURES = Features({"image": datasets.Image(), "label": ClassLabel(names=CLASSES)})


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache of datasets")


def picture(number, extension="png"):
    return {"bytes": encoded(number, extension), "path": f"{number}.{extension}"}


def made(count=9, start=0, features=FEATURES, **columns):
    """A data set of ``count`` images, whose labels go through the classes."""
    columns = {"image": [picture(start + n) for n in range(count)], "label": [n % 3 for n in range(count)]} | columns
    return Dataset.from_dict({name: columns[name] for name in features}, features=features)


def hub_folder(folder, splits, under="data", shards=1):
    """As the hub keeps it, by push_to_hub."""
    (folder / under).mkdir(parents=True, exist_ok=True)
    for split, of in splits.items():
        for shard in range(shards):
            name = f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            of.shard(shards, shard, contiguous=True).to_parquet(str(folder / under / name))
    return folder


def read(samples):
    """(pixels, label) of each, as nested lists."""
    return [(np.asarray(Image.open(io.BytesIO(s.image)).convert("RGB")).tolist(), s.label) for s in samples]


def by_datasets(of):
    """The same by `datasets` itself."""
    return [(np.asarray(row["image"].convert("RGB")).tolist(), row["label"]) for row in of]


SPLITS = {"train": made(9), "validation": made(3, 100), "test": made(6, 50)}


def test_a_folder_of_the_hub_is_read_as_datasets_reads_it(tmp_path):
    folder = hub_folder(tmp_path / "d", SPLITS, shards=3)
    source = open_at(folder, "huggingface")
    assert source.classes == CLASSES
    expected = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "c"))
    assert read(source.train()) == by_datasets(expected["train"]) == by_datasets(SPLITS["train"])
    assert read(source.test()) == by_datasets(expected["test"])
    assert read(source.val()) == by_datasets(expected["validation"])
    assert next(source.test()).origin == "data/test-00000-of-00003.parquet[0]"
    assert not source.multilabel


def layouts():
    """name -> what writes all of ``SPLITS`` into a folder."""
    ways = {"push_to_hub": hub_folder, "one configuration": lambda d, s: hub_folder(d, s, "plain_text")}

    def converted(folder, splits):  # by the hub, in refs/convert/parquet
        for split, of in splits.items():
            (folder / "default" / split).mkdir(parents=True)
            of.to_parquet(str(folder / "default" / split / "0000.parquet"))

    def flat(folder, splits):
        for split, of in splits.items():
            of.to_parquet(str(folder / f"{split}.parquet"))

    def in_cache_of_hub(folder, splits):
        hub_folder(folder / "blobs", splits, ".")
        snapshot = folder / "snapshots/0123abc/data"
        snapshot.mkdir(parents=True)
        for number, file in enumerate(sorted((folder / "blobs").iterdir())):
            blob = file.rename(file.with_name(f"{number:064x}"))
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text("0123abc")

    def cache_of_load_dataset(folder, splits):
        shutil.rmtree(folder)
        hub_folder(folder.with_name("original"), splits)
        datasets.load_dataset(str(folder.with_name("original")), cache_dir=str(folder))

    ways |= {"converted": converted, "flat": flat, "hub's cache": in_cache_of_hub}
    return ways | {
        "save_to_disk": lambda folder, splits: DatasetDict(splits).save_to_disk(str(folder)),
        "cache of load_dataset": cache_of_load_dataset,
    }


@pytest.mark.parametrize("layout", layouts())
def test_every_layout_gives_the_same(tmp_path, layout):
    folder = tmp_path / "d"
    folder.mkdir()
    layouts()[layout](folder, SPLITS)
    source = open_at(folder, "huggingface")
    assert source.classes == CLASSES
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert read(getattr(source, split)()) == by_datasets(SPLITS[name])


@pytest.mark.parametrize(
    "pattern",
    [
        "data/{}-{:05d}-of-00002-b42a775f407cee45.parquet",  # by older versions of datasets
        "{}_{:02d}.parquet",
        "{}.{}.parquet",
        "{}2017-{}.parquet",
        "{}/part-{}.parquet",
        "partial-{}/{:04d}.parquet",
        "data/own-{}-{:05d}-of-00002.parquet",
    ],
)
def test_files_are_of_the_split_that_they_are_called_by(tmp_path, pattern):
    for split, of in SPLITS.items():
        for shard in range(2):
            path = tmp_path / pattern.format(split, shard)
            path.parent.mkdir(parents=True, exist_ok=True)
            of.shard(2, shard, contiguous=True).to_parquet(str(path))
    source = open_at(tmp_path, "huggingface")
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert read(getattr(source, split)()) == by_datasets(SPLITS[name])


@pytest.mark.parametrize("way", ["file.parquet", "saved", "data-00000-of-00001.arrow"])
def test_one_table_is_divided_by_class(tmp_path, capsys, way):
    of = made(30)
    if way == "file.parquet":
        path = tmp_path / way
        of.to_parquet(str(path))
    else:
        of.save_to_disk(str(tmp_path / "saved"))
        path = tmp_path / "saved" if way == "saved" else tmp_path / "saved" / way
    source = open_at(path, "huggingface", test_fraction=0.2)
    train, test = read(source.train()), read(source.test())
    assert sorted(train + test) == sorted(by_datasets(of))
    assert sorted(label for _, label in test) == [0, 0, 1, 1, 2, 2]
    assert source.val is None
    assert "them too, download.holdout_fraction of each class" in capsys.readouterr().out
    assert read(open_at(path, "huggingface", test_fraction=0.2, seed=1).test()) != test


@pytest.mark.parametrize(
    ("names", "test"),
    [(("train", "validation"), "validation"), (("training", "dev"), "dev"), (("train", "val"), "val")],
)
def test_validation_stands_in_for_a_missing_test_split(tmp_path, capsys, names, test):
    folder = hub_folder(tmp_path / "d", dict(zip(names, (made(9), made(6, 50)), strict=True)))
    source = open_at(folder, "huggingface")
    assert read(source.test()) == by_datasets(made(6, 50))
    assert source.val is None
    assert "val is used as the test split, since there is no other" in capsys.readouterr().out


def test_a_test_split_without_labels_is_not_used(tmp_path, capsys):
    """As those of competitions are: every label is -1, or there is none."""
    for number, labels in enumerate(([-1] * 3, [None] * 3)):
        splits = {**SPLITS, "test": made(3, label=labels)}
        source = open_at(hub_folder(tmp_path / f"{number}", splits), "huggingface")
        assert read(source.test()) == by_datasets(SPLITS["validation"])
        assert "the test split carries no labels and is not used" in capsys.readouterr().out
    splits = {**SPLITS, "train": made(9, label=[0, 1, 2, None, -1, 0, 1, 2, 0])}
    source = open_at(hub_folder(tmp_path / "some", splits), "huggingface")
    assert [sample.origin[-2] for sample in source.train()] == list("0125678")
    assert "2 of 9 images of train have no label and are left out" in capsys.readouterr().out
    with pytest.raises(PpvitError, match="no image has a label"):
        open_at(hub_folder(tmp_path / "none", {"train": made(3, label=[-1] * 3)}), "huggingface")


# --- labels of every kind


def test_names_in_the_readme_stand_in_for_those_the_file_lacks(tmp_path):
    table = made(9).data.table.replace_schema_metadata(None)
    folder = tmp_path / "d"
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(table, folder / f"{split}.parquet")
    assert open_at(folder, "huggingface").classes == ["0", "1", "2"]
    info = datasets.DatasetInfo(features=FEATURES)
    card = datasets.info.DatasetInfosDict({"default": info})
    card.write_to_directory(str(folder))  # README.md, as push_to_hub does it
    assert "class_label" in (folder / "README.md").read_text()
    assert open_at(folder, "huggingface").classes == CLASSES


@pytest.mark.parametrize(
    ("kind", "labels", "classes", "numbers"),
    [
        (Value("string"), ["b", "a", "é"] * 3, ["a", "b", "é"], [1, 0, 2]),
        (Value("large_string"), ["b", "a", "c"] * 3, ["a", "b", "c"], [1, 0, 2]),
        (Value("int64"), [102, 7, 30] * 3, ["7", "30", "102"], [2, 0, 1]),
        (Value("uint8"), [1, 2, 3] * 3, ["1", "2", "3"], [0, 1, 2]),
        (Value("int32"), [1, -1, 1] * 3, ["-1", "1"], [1, 0, 1]),
        (Value("bool"), [True, False, True] * 3, ["False", "True"], [1, 0, 1]),
    ],
)
def test_labels_without_declared_classes(tmp_path, kind, labels, classes, numbers):
    features = Features({"image": datasets.Image(), "label": kind})
    of = made(9, features=features, label=labels)
    source = open_at(hub_folder(tmp_path / "d", {"train": of, "test": of}), "huggingface")
    assert source.classes == classes
    assert [sample.label for sample in source.train()] == numbers * 3


def test_categories_of_pandas(tmp_path):
    table = pa.table({"image": [encoded(n) for n in range(6)], "label": pa.array(["x", "y"] * 3).dictionary_encode()})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    source = open_at(tmp_path, "huggingface")
    assert source.classes == ["x", "y"]
    assert [sample.label for sample in source.train()] == [0, 1] * 3
    assert next(source.train()).image == encoded(0)  # a column of bytes alone


@pytest.mark.parametrize(
    ("inner", "labels", "classes"),
    [
        (ClassLabel(names=["p", "q", "r"]), [[2, 0], [], [1], [0, 1, 2], [0], [2, 2]], ["p", "q", "r"]),
        (Value("string"), [["r", "p"], [], ["q"], ["p", "q", "r"], ["p"], ["r"]], ["p", "q", "r"]),
    ],
)
def test_several_labels(tmp_path, capsys, inner, labels, classes):
    features = Features({"image": datasets.Image(), "labels": List(inner)})
    of = made(6, features=features, labels=labels)
    expected = [(0, 2), (), (1,), (0, 1, 2), (0,), (2,)]
    source = open_at(hub_folder(tmp_path / "d", {"train": of, "test": of}), "huggingface")
    assert source.multilabel
    assert source.classes == classes
    said = capsys.readouterr().out
    assert "12 images of 3 labels" in said
    assert "labels (train + test): p (3 + 3), q (2 + 2), r (3 + 3)" in said
    assert [sample.label for sample in source.train()] == expected
    single = open_at(hub_folder(tmp_path / "single", {"train": of}), "huggingface", test_fraction=0.5)
    both = [sample.label for split in (single.train, single.test) for sample in split()]
    assert sorted(both) == sorted(expected)


@pytest.mark.parametrize("inner", ["int64", "float32", "bool"])
def test_a_list_of_zeros_and_ones_marks_the_labels_by_place(tmp_path, inner):
    marks = [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0]]
    features = Features({"image": datasets.Image(), "labels": List(Value(inner))})
    of = made(6, features=features, labels=marks)
    source = open_at(hub_folder(tmp_path / "d", {"train": of, "test": of}), "huggingface")
    assert source.classes == ["0", "1", "2"]
    assert [sample.label for sample in source.train()] == [(0, 2), (), (1,), (0, 1), (0,), (1, 2)]


@pytest.mark.parametrize(("inner", "lists"), [("int64", [[0, 1], [1], [0]]), ("int64", [[0, 1], [1, 0], [0, 1]])])
def test_lists_of_two_class_numbers_are_no_marks(tmp_path, inner, lists):
    features = Features({"image": datasets.Image(), "labels": List(Value(inner))})
    of = made(3, features=features, labels=lists)
    source = open_at(hub_folder(tmp_path / "d", {"train": of, "test": of}), "huggingface", label_column="labels")
    assert [sample.label for sample in source.train()] == [tuple(sorted(each)) for each in lists]


def test_lists_of_other_fractions_are_no_labels(tmp_path):
    features = Features({"image": datasets.Image(), "labels": List(Value("float32"))})
    of = made(2, features=features, labels=[[0.5, 1], [0, 1]])
    with pytest.raises(PpvitError, match="column labels hold numbers that are no class numbers, nor 0 and 1 in lists"):
        open_at(hub_folder(tmp_path / "d", {"train": of}), "huggingface")


def test_held_out_images_are_stratified_by_the_rarest_of_several_labels(tmp_path, capsys):
    features = Features({"image": datasets.Image(), "labels": List(ClassLabel(names=["often", "rare"]))})
    of = made(40, features=features, labels=[[0, 1] if n % 10 == 0 else [0] for n in range(40)])
    folder = hub_folder(tmp_path / "d", {"train": of})
    for seed in range(4):
        source = open_at(folder, "huggingface", test_fraction=0.5, seed=seed)
        assert sum(sample.label == (0, 1) for sample in source.test()) == 2
    assert "download.holdout_fraction of each rarest label of an image" in capsys.readouterr().out


def test_named_classes_without_images_are_left_out(tmp_path, capsys):
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["w", "x", "y", "z"])})
    of = made(4, features=features, label=[3, 1, 1, 3])
    source = open_at(hub_folder(tmp_path / "d", {"train": of, "test": of}), "huggingface")
    assert source.classes == ["x", "z"]
    assert [sample.label for sample in source.train()] == [1, 0, 0, 1]
    assert "classes without an image are left out: w, y" in capsys.readouterr().out


def test_columns_are_chosen_where_there_are_several(tmp_path):
    features = Features(
        {"img": datasets.Image(), "other": datasets.Image(), "fine_label": ClassLabel(names=["a", "b", "c"])}
        | {"coarse_label": ClassLabel(names=["u", "v"]), "id": Value("int64"), "note": Value("string")}
    )
    of = made(
        6,
        features=features,
        img=[picture(n) for n in range(6)],
        other=[picture(n + 100) for n in range(6)],
        fine_label=[0, 1, 2] * 2,
        coarse_label=[0, 1] * 3,
        id=list(range(6)),
        note=["x"] * 6,
    )
    folder = hub_folder(tmp_path / "d", {"train": of, "test": of})
    with pytest.raises(UsageError, match="fine_label, coarse_label could all be the labels; set it to one of img, ot"):
        open_at(folder, "huggingface")
    source = open_at(folder, "huggingface", label_column="coarse_label")  # "img" is a usual name
    assert source.classes == ["u", "v"]
    assert next(source.train()).image == encoded(0)
    source = open_at(folder, "huggingface", label_column="fine_label", image_column="other")
    assert source.classes == ["a", "b", "c"]
    assert next(source.train()).image == encoded(100)
    for wrong, told in (
        ({"label_column": "nothing"}, r"dataset\.label_column: .*: there is no column nothing; set it to one of img"),
        ({"label_column": "fine_labels"}, r"set it to one of img, .*; did you mean 'fine_label'"),
        ({"label_column": "img"}, r"dataset\.label_column: .*: img holds neither whole numbers nor text; set it to"),
        ({"image_column": "note"}, r"dataset\.image_column: .*: note holds no images; set it to one of img"),
    ):
        with pytest.raises(UsageError, match=told):
            open_at(folder, "huggingface", **wrong)


def test_fractions_are_no_labels_and_it_is_said_which_column_holds_them(tmp_path):
    features = Features({"image": datasets.Image(), "label": Value("float64")})
    folder = hub_folder(tmp_path / "d", {"train": made(4, features=features, label=[0.5, 1, 0, 1])})
    with pytest.raises(UsageError, match="label holds neither whole numbers nor text; set it to one of image"):
        open_at(folder, "huggingface")


def test_sound_is_no_image(tmp_path):
    table = pa.table({"audio": [{"bytes": b"x", "path": ""}], "label": [0]})
    info = {"info": {"features": {"audio": {"_type": "Audio"}, "label": {"_type": "Value", "dtype": "int64"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match="no column holds images; set it to one of audio, label"):
        open_at(tmp_path, "huggingface")


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_images_are_kept_as_they_are_under_their_own_ending(tmp_path, extension):
    pictures = [picture(n, extension) | {"path": None} for n in range(6)]
    source = open_at(
        hub_folder(tmp_path / "d", {"train": made(6, image=pictures), "test": made(6, image=pictures)}), "huggingface"
    )
    assert [(sample.image, sample.extension) for sample in source.train()] == [
        (each["bytes"], extension) for each in pictures
    ]


# --- configurations


CONFIGS = """---
configs:
- config_name: small
  data_files:
  - split: train
    path: parts/a-*
  - split: test
    path: parts/b-*
- config_name: large
  data_files: {train: ["parts/c-*", "parts/a-*"], test: parts/b-*}
---
# Text
"""


def test_configurations_of_the_readme(tmp_path):
    files = {"a-0": made(6), "b-0": made(3, 10), "c-0": made(3, 20)}
    (tmp_path / "parts").mkdir()
    for name, of in files.items():
        of.to_parquet(str(tmp_path / f"parts/{name}.parquet"))
    (tmp_path / "README.md").write_text(CONFIGS)
    with pytest.raises(UsageError, match=r"several configurations: small, large; set dataset\.subset to one"):
        open_at(tmp_path, "huggingface")
    with pytest.raises(UsageError, match="no configuration 'larg' but small, large; did you mean 'large'"):
        open_at(tmp_path, "huggingface", subset="larg")
    with pytest.raises(UsageError, match="no configuration 'medium' but small, large"):
        open_at(tmp_path, "huggingface", subset="medium")
    assert read(open_at(tmp_path, "huggingface", subset="small").train()) == by_datasets(files["a-0"])
    large = open_at(tmp_path, "huggingface", subset="large")
    assert sorted(read(large.train())) == sorted(by_datasets(files["a-0"]) + by_datasets(files["c-0"]))
    (tmp_path / "README.md").write_text(CONFIGS.replace("config_name: large", "config_name: large\n  default: true"))
    assert len(read(open_at(tmp_path, "huggingface").train())) == 9


def test_configurations_by_folder(tmp_path):
    for name, count in (("cropped", 9), ("full", 6)):
        hub_folder(tmp_path / "d", {"train": made(count), "test": made(3), "extra": made(3)}, name)
    with pytest.raises(UsageError, match="several configurations: cropped, full"):
        open_at(tmp_path / "d", "huggingface")
    assert len(read(open_at(tmp_path / "d", "huggingface", subset="full").train())) == 6


def test_splits_that_are_not_used_are_said(tmp_path, capsys):
    folder = hub_folder(tmp_path / "d", {**SPLITS, "extra": made(3), "train_unclean": made(3)})
    assert read(open_at(folder, "huggingface").train()) == by_datasets(SPLITS["train"])
    assert "splits that are not used: extra, train_unclean" in capsys.readouterr().out
    hub_folder(tmp_path / "e", {"train_a": made(3), "train_b": made(3), "test": made(3)})
    with pytest.raises(UsageError, match="train_a and train_b could both be the train split"):
        open_at(tmp_path / "e", "huggingface")


# --- what is not right, and what would be dangerous


def test_a_shard_that_is_missing_is_noticed(tmp_path):
    folder = hub_folder(tmp_path / "d", SPLITS, shards=3)
    (folder / "data/train-00001-of-00003.parquet").unlink()
    with pytest.raises(PpvitError, match="data/train has 2 of 3 files; download the rest"):
        open_at(folder, "huggingface")


@pytest.mark.parametrize("pattern", ["https://example.org/*.parquet", "hf://datasets/a/b/*", "/etc/*", "../secret/*"])
def test_a_readme_leads_nowhere_else(tmp_path, pattern):
    hub_folder(tmp_path / "d", {"train": made(9), "test": made(3)})
    hub_folder(tmp_path / "secret", {"train": made(3, 200)}, ".")
    card = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}]}
    (tmp_path / "d/README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    assert read(open_at(tmp_path / "d", "huggingface").train()) == by_datasets(made(9))


@pytest.mark.parametrize("name", ["../secret/data-00000-of-00001.arrow", "/etc/passwd", "..", "", 3, None])
def test_the_state_of_a_saved_data_set_leads_nowhere_else(tmp_path, name):
    made(9).save_to_disk(str(tmp_path / "d"))
    made(9).save_to_disk(str(tmp_path / "secret"))
    (tmp_path / "d/state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(PpvitError, match=r"state\.json names no files of this folder"):
        open_at(tmp_path / "d", "huggingface")
    (tmp_path / "d/dataset_dict.json").write_text(json.dumps({"splits": ["train", name]}))
    with pytest.raises(PpvitError, match="names no splits"):
        open_at(tmp_path / "d", "huggingface")


def test_an_image_that_is_only_a_path_is_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(3))
    schema = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()}
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 2
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": rows, "label": [0, 1]}, pa.schema(schema)), tmp_path / f"{split}.parquet")
    source = open_at(tmp_path, "huggingface")
    with pytest.raises(PpvitError, match=r"train\.parquet\[0\] holds no image but the path .*secret\.png"):
        list(source.train())


def test_no_code_of_a_data_set_is_run(tmp_path):
    folder = hub_folder(tmp_path / "own", SPLITS)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    open_at(folder, "huggingface")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("content", ["", "cut", "other", "letters"])
def test_damaged_tables(tmp_path, suffix, content):
    path = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        made(30).to_parquet(str(path))
    else:
        made(30).save_to_disk(str(tmp_path / "d"))
        (tmp_path / "d/data-00000-of-00001.arrow").rename(path)
    data = path.read_bytes()
    path.write_bytes({"": b"", "cut": data[: len(data) // 2], "other": b"PAR1" * 9, "letters": b"x" * 5000}[content])
    with pytest.raises(PpvitError, match=rf"train\.{suffix} is damaged or no {suffix} file") as caught:
        list(open_at(path, "huggingface").train())
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    made(30).to_parquet(str(folder / "train.parquet"))
    made(30).save_to_disk(str(folder / "saved"))
    arrow = (folder / "saved/data-00000-of-00001.arrow").rename(folder / "train.arrow")
    return {path.suffix: path for path in (folder / "train.parquet", arrow)}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@settings(max_examples=50)
@given(data=st.data())
def test_a_damaged_table_is_read_or_refused(tables, suffix, data):
    path = tables[suffix].with_stem("damaged")
    path.write_bytes(damaged(data, tables[suffix].read_bytes()))
    line = ""
    try:
        list(open_at(path, "huggingface").train())
    except PpvitError as error:
        line = str(error)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [5] * 3 + [0] * 6}, "the label 5 is none of the 3 classes that have names"),
        ({"label": [0] * 9}, "at least two classes are needed, found only 'zebra'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, changes, message):
    table = made(9).data.table
    for name, values in changes.items():
        table = table.set_column(1, table.schema.field(name), pa.array(values, pa.int64()))
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(PpvitError, match=message):
        open_at(tmp_path, "huggingface")


@pytest.mark.parametrize("rows", [6, 12])
def test_a_table_that_changes_while_it_is_read_is_told(tmp_path, rows):
    folder = hub_folder(tmp_path / "d", {"train": made(9), "test": made(9)})
    source = open_at(folder, "huggingface")
    (file,) = (folder / "data").glob("train*.parquet")
    made(rows).to_parquet(str(file))
    with pytest.raises(PpvitError, match=r"train.*parquet changed while it was read; run again once nothing writes it"):
        list(source.train())


def test_a_clone_without_its_large_files_is_told(tmp_path):
    folder = hub_folder(tmp_path / "d", SPLITS)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n"
    (folder / "data/test-00000-of-00001.parquet").write_text(pointer)
    with pytest.raises(PpvitError, match=r"parquet is a pointer of Git LFS, not the file; fetch it: git lfs pull"):
        open_at(folder, "huggingface")


def test_files_of_two_data_sets_are_not_mixed(tmp_path):
    made(9).to_parquet(str(tmp_path / "train.parquet"))
    other = Features({"image": datasets.Image(), "label": ClassLabel(names=["p", "q", "r"])})
    made(9, features=other).to_parquet(str(tmp_path / "test.parquet"))
    with pytest.raises(PpvitError, match="the column label is not the same in all files"):
        open_at(tmp_path, "huggingface")


def test_what_is_no_folder_of_tables(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"a\.txt is neither a folder nor a \.parquet or \.arrow file"):
        open_at(tmp_path / "a.txt", "huggingface")
    with pytest.raises(PpvitError, match=r"holds no \.parquet and no \.arrow files"):
        open_at(tmp_path, "huggingface")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="needs a data set: set dataset.path"):
        open_at("data/none", "huggingface")


@pytest.mark.parametrize(
    "card", ["---\n: [\n---\n", "---\n&a [*a]\n---\n", "---\n- 1\n---\n", "no card", "---\nx: 1\n"]
)
def test_any_readme(tmp_path, card):
    folder = hub_folder(tmp_path / "d", SPLITS)
    (folder / "README.md").write_text(card)
    if ": [" in card:
        with pytest.raises(PpvitError, match=r"README\.md does not begin with valid YAML"):
            open_at(folder, "huggingface")
    else:
        assert open_at(folder, "huggingface").classes == CLASSES


def test_a_small_file_that_says_a_large_image_many_times_is_not_read_at_once(tmp_path):
    image = encoded() + bytes(2**19)  # compresses to nothing, and is stored once
    table = pa.table({"image": pa.array([image] * 128).dictionary_encode(), "label": [0, 1] * 64})
    for split in ("train", "test"):
        plain = table.set_column(0, "image", table["image"].cast(pa.binary()))
        pq.write_table(plain, tmp_path / f"{split}.parquet", use_dictionary=True, dictionary_pagesize_limit=2**24)
    assert (tmp_path / "train.parquet").stat().st_size < 2**19
    before = pa.total_allocated_bytes()
    for number, sample in enumerate(open_at(tmp_path, "huggingface").train()):
        assert len(sample.image) == len(image)
        assert pa.total_allocated_bytes() - before < 2**24  # of 64 MiB
        if number == 20:
            break


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    folder = hub_folder(tmp_path / "d", SPLITS)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(PpvitError, match=r"needs pyarrow; install it: pip install 'ppvit\[hf\]'"):
        open_at(folder, "huggingface")
