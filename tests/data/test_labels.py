"""Labels, one an image or several: their text, their strata, and shards of both kinds that are not ours."""

import json

import numpy as np
import pytest
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from ppvit.core.errors import PpvitError
from ppvit.core.files import write_json
from ppvit.data.batches import EncryptedImages
from ppvit.data.images import encode_png
from ppvit.data.labels import MOST_LABELS, ClassNumbers, LabelSets, labelling_of, recorded
from ppvit.data.manifests import RawManifest
from ppvit.data.plain import select
from ppvit.data.shards import ShardReader, shard_records, write_shard

PNG = encode_png(np.zeros((8, 8, 3), np.uint8))


@given(st.sets(st.integers(0, 19)))
def test_the_text_of_several_labels_is_read_back(numbers):
    labelling = LabelSets(20)
    text = labelling.text(tuple(sorted(numbers)))
    assert text == " ".join(map(str, sorted(numbers)))
    row = labelling.parsed(text.encode(), "here")
    assert set(np.flatnonzero(row)) == numbers
    assert labelling.text(row) == text
    assert len(text) <= labelling.text_bytes


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"3 1", "do not ascend"),
        (b"1 1", "do not ascend"),
        (b"0 5", "class 5, the manifest says 5"),
        (b"4294967296", "not class numbers"),
        (b"-1", "not class numbers"),
        (b" 1", "not class numbers"),
        (b"1 ", "not class numbers"),
        (b"1\n", "not class numbers"),
        (b"1  2", "not class numbers"),
        (b"1,2", "not class numbers"),
        (b"1\t2", "not class numbers"),
        (b"1.0", "not class numbers"),
        (b"00 1", "not class numbers"),
        ("\u0661".encode(), "not class numbers"),  # a digit of another script
        (b"\x80\x04N.", "not class numbers"),
    ],
)
def test_other_texts_are_refused(text, told):
    with pytest.raises(PpvitError, match=f"^here.*{told}"):
        LabelSets(5).parsed(text, "here")


@pytest.mark.parametrize("text", [b"", b"0 1", b"x"])
def test_a_class_number_is_one_number(text):
    with pytest.raises(PpvitError, match="not a class number"):
        ClassNumbers(5).parsed(text, "here")


def test_the_stratum_of_an_image_is_its_rarest_label():
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]], bool)  # 4, 2 and 2 images
    labelling = LabelSets(3)
    assert labelling.counts(labels).tolist() == [4, 2, 2]
    assert labelling.strata(labels).tolist() == [1, 0, 2, 1, 3, 0]
    assert labelling.targets(labels).dtype == np.float32


def test_a_fraction_of_several_labels_keeps_their_shares_and_is_nested():
    random = np.random.default_rng(0)
    labels = random.random((4000, 5)) < (0.5, 0.2, 0.1, 0.05, 0.01)
    strata = LabelSets(5).strata(labels)
    tenth, half = (select(strata, fraction, (0,)) for fraction in (0.1, 0.5))
    assert set(tenth) < set(half)
    assert len(tenth) == pytest.approx(400, abs=3)
    # the rarest label is a stratum of its own, so its share is kept to the image
    assert labels[tenth, 4].sum() == round(0.1 * labels[:, 4].sum())
    assert labels[tenth].mean(0) == pytest.approx(labels.mean(0), abs=0.03)


def test_multi_class_is_not_written_down():
    assert recorded("multiclass") == {}
    assert recorded("multilabel") == {"task": "multilabel"}
    assert labelling_of("multiclass", 3) == ClassNumbers(3)
    assert labelling_of("multilabel", 3) == LabelSets(3)


# --- shards


def shards(folder, *texts: bytes, classes: int = 3, **changes):
    """One encrypted split of such labels."""
    split = folder / "train"
    split.mkdir(parents=True)
    shard = write_shard(split / "000000.tar", [{"png": PNG, "cls": text} for text in texts])
    manifest = {
        "schema": 2, "split": "train", "num_classes": classes, "task": "multilabel", "count": len(texts),
        "cipher": {"name": "block", "block_size": 4}, "key_id": "pk-6a84562a80f3ffa0", "demo_key": True,
        "image_size": 8, "isometry": "values", "isometry_options": {}, "resize_filter": "bicubic", "crop": "center",
        "value_range": None, "facts": dict.fromkeys(("linear", "permutes", "keeps_blocks", "one_key"), True),
        "shape": [8, 8, 3], "dtype": "uint8", "shards": shard_records([shard]),
    }  # fmt: skip
    write_json(split / "manifest.json", {**manifest, **changes})
    return folder


def test_shards_of_several_labels(tmp_path):
    images = EncryptedImages(shards(tmp_path, b"", b"0 2", b"1"), "train")
    assert images.labels().tolist() == [[False] * 3, [True, False, True], [False, True, False]]
    image, target = images[1]
    assert image.shape == (3, 8, 8)
    assert (target.dtype, target.tolist()) == (np.float32, [1, 0, 1])


def test_more_classes_than_images_are_no_contradiction_here(tmp_path):
    assert EncryptedImages(shards(tmp_path, b"0 6", classes=7), "train").num_classes == 7


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([b"0", b"0 3"], "has class 3, the manifest says 3 classes"),
        ([b"0", b"2 1"], "do not ascend"),
        ([b"0", b"0 1 2 2 2 2 2 2 2 2 2 2 2 2 2"], "holds b'0 1 2"),
        ([b"0", b"00 1 2"], "holds b'00 1 2"),
        ([b"0", b"9" * 2**20], "has class 999999, "),
    ],
)
def test_labels_that_are_not_ours_are_refused_in_little_memory(tmp_path, texts, told):
    line = refused(EncryptedImages, shards(tmp_path, *texts), "train", most_bytes=2e6)
    assert told in line
    assert "sample 00000001" in line


def test_a_sample_without_a_label_is_no_sample_without_labels(tmp_path):
    shard = write_shard(tmp_path / "000000.tar", [{"png": PNG, "cls": b""}, {"png": PNG}])
    line = refused(ShardReader, tmp_path, "train", shard_records([shard]), LabelSets(3))
    assert "sample 00000001 has no image or no label" in line


def test_two_empty_labels_are_two_labels(tmp_path):
    path = tmp_path / "000000.tar"
    write_shard(path, [{"png": PNG, "cls": b""}])
    empty = write_shard(tmp_path / "again.tar", [{"cls": b"", "png": PNG}])
    content = (tmp_path / "again.tar").read_bytes()
    path.write_bytes(content[:512] + content)  # the member .cls, of no bytes, twice
    record = {"name": path.name, "samples": 1, "sha256": empty.sha256}
    assert "has two labels" in refused(ShardReader, tmp_path, "train", [record], LabelSets(3))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "several"}, "'task'"),
        ({"task": None}, "'task'"),
        ({"num_classes": MOST_LABELS + 1}, f"{MOST_LABELS + 1} classes are more than the {MOST_LABELS}"),
        ({"task": "multiclass"}, "not a class number"),
    ],
)
def test_manifests_that_say_other_tasks_are_refused(tmp_path, changes, told):
    line = refused(EncryptedImages, shards(tmp_path, b"0", b"", b"0 1", **changes), "train")
    assert told in line


def test_raw_manifests_bound_the_number_of_labels():
    record = {"name": "train-000000.tar", "samples": 1, "sha256": "0" * 64}
    manifest = {
        "schema": 2, "name": "x", "classes": [str(number) for number in range(MOST_LABELS + 1)], "source": "",
        "counts": {"train": 1, "test": 1},
        "shards": {"train": [record], "test": [{**record, "name": "test-000000.tar"}]},
    }  # fmt: skip
    RawManifest.model_validate(manifest)
    with pytest.raises(ValueError, match="are more than the"):
        RawManifest.model_validate_json(json.dumps({**manifest, "task": "multilabel"}))
