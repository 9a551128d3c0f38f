"""Validation images: which ones are held out of the training images, and what becomes of a set's own."""

import numpy as np
import pytest
from conftest import make_config, make_places, write_raw
from hypothesis import given
from hypothesis import strategies as st

from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.core.reading import sha256_of_folder
from ppvit.data.batches import EncryptedImages
from ppvit.data.labels import labelling_of
from ppvit.data.plain import hold_out, image_id, plain_splits
from ppvit.data.shards import read_manifest
from ppvit.verbs import encrypt, rekey, show


def splits_of(raw, **dataset):
    config = make_config(dataset={"image_size": 16, **dataset})
    return plain_splits(raw, config.dataset, config.encrypt)


def pictures(plain) -> list[bytes]:
    return [image.tobytes() for image in plain.read(0, len(plain))] if len(plain) else []


@given(st.lists(st.integers(0, 6), min_size=1, max_size=150), st.floats(0, 0.9))
def test_each_stratum_gives_its_share_and_keeps_an_image(strata, fraction):
    strata = np.array(strata)
    held_out = hold_out(strata, fraction)
    spare = 0
    for stratum in np.unique(strata):
        members = held_out[strata == stratum]
        share = min(fraction * len(members), len(members) - 1)
        assert share - 1 < members.sum() < share + 1
        assert members.sum() < len(members)
        assert (np.diff(members.astype(int)) >= 0).all()  # the last ones, so that more training images include fewer
        spare += len(members) - 1
    wanted = round(fraction * len(strata))
    assert held_out.sum() <= wanted
    if spare >= wanted and len(np.unique(strata)) == 1:
        assert held_out.sum() == wanted


def test_small_strata_together_give_their_share():
    """Ten classes of four images: a tenth of each rounds to none, a tenth of all is four."""
    assert hold_out(np.repeat(np.arange(10), 4), 0.1).sum() == 4
    assert hold_out(np.arange(10), 0.5).sum() == 0  # a class of one image stays in training


@pytest.mark.parametrize("part", [{}, {"train_fraction": 0.5}, {"first_images": 30}])
def test_train_and_val_are_the_chosen_training_images(tmp_path, part):
    raw = write_raw(tmp_path / "raw", {"train": 60, "test": 12})
    everything = splits_of(raw, val_fraction=0, **part)
    assert len(everything["val"]) == 0
    apart = splits_of(raw, val_fraction=0.2, **part)
    whole, train, val = (pictures(each) for each in (everything["train"], apart["train"], apart["val"]))
    assert len(val) == round(0.2 * len(whole))
    assert set(train) | set(val) == set(whole)
    assert not set(train) & set(val)
    assert [image for image in whole if image in set(train)] == train  # in the same order
    counts = np.bincount(apart["val"].labels)
    assert counts.max() - counts.min() <= 1
    assert pictures(apart["test"]) == pictures(everything["test"])


def test_fewer_training_images_are_a_part_of_more(tmp_path):
    raw = write_raw(tmp_path / "raw", {"train": 60, "test": 12})
    more, fewer = (splits_of(raw, val_fraction=0.2, train_fraction=share)["train"] for share in (1.0, 0.4))
    assert set(pictures(fewer)) < set(pictures(more))


@pytest.mark.parametrize(
    ("part", "images"),
    [({}, 20), ({"val_fraction": 0.5}, 20), ({"train_fraction": 0.25}, 6), ({"first_images": 30}, 11)],
)
def test_a_sets_own_validation_images_are_taken_as_its_training_images_are(tmp_path, part, images):
    """20 of 3 classes: 7, 7 and 6, of which a quarter is 2 each, and half 4, 4 and 3."""
    raw = write_raw(tmp_path / "raw", {"train": 60, "val": 20, "test": 12})
    own, without = splits_of(raw, **part), splits_of(raw, **{**part, "val_fraction": 0})
    assert len(own["val"]) == images
    assert pictures(own["train"]) == pictures(without["train"])  # none is held out
    assert not set(pictures(own["val"])) & set(pictures(own["train"]))


def test_ids_of_images_are_those_of_no_other_split(tmp_path):
    """A cipher with a key for every image would encrypt two images alike under one id."""
    splits = splits_of(write_raw(tmp_path / "raw", {"train": 60, "test": 12}), val_fraction=0.2)
    ids = np.concatenate([each.ids(0, len(each)) for each in splits.values()] + [[image_id("query", 0)]])
    assert len(np.unique(ids)) == 73
    assert (image_id("train", 5), image_id("test", 5), image_id("query", 5)) == (5, 2**32 + 5, 2**33 + 5)


def test_several_labels_are_held_out_by_the_rarest():
    """Of 40 images every tenth alone carries label 2, and two of the four of them are held out."""
    labels = np.zeros((40, 3), bool)
    labels[:, 0], labels[::2, 1], labels[::10, 2] = True, True, True
    held_out = hold_out(labelling_of("multilabel", 3).strata(labels), 0.5)
    assert labels[held_out].sum(0).tolist() == [20, 10, 2]


def test_an_empty_split_is_written_read_and_brought_to_another_key(tmp_path):
    old, new = keys.generate(), keys.generate()
    for key in (old, new):
        keys.save(key)
    config = make_config(dataset={"image_size": 16}, cipher={"key_id": old.id})
    places = make_places(tmp_path, config, raw=write_raw(tmp_path / "raw", {"train": 20, "test": 6}))
    encrypt.run(config, places)
    images = EncryptedImages(places.encrypted, "val")
    assert (len(images), images.labels().shape, images.num_classes) == (0, (0,), 3)
    assert read_manifest(places.encrypted / "val")["shards"] == []
    rekey.run(places, old.id, new.id)
    assert read_manifest(places.encrypted / "val")["key_id"] == new.id
    encrypt.run(
        make_config(dataset={"image_size": 16}, cipher={"key_id": new.id}),
        replaced := make_places(tmp_path / "anew", config, raw=places.raw),
    )
    assert sha256_of_folder(places.encrypted) == sha256_of_folder(replaced.encrypted)


def test_another_key_takes_the_validation_images_along(tmp_path):
    old, new = keys.generate(), keys.generate()
    for key in (old, new):
        keys.save(key)
    dataset = {"image_size": 16, "val_fraction": 0.3}
    config = make_config(dataset=dataset, cipher={"key_id": old.id})
    places = make_places(tmp_path, config, raw=write_raw(tmp_path / "raw", {"train": 20, "test": 6}))
    encrypt.run(config, places)
    rekey.run(places, old.id, new.id)
    moved = make_config(dataset=dataset, cipher={"key_id": new.id})
    plain = plain_splits(places.raw, moved.dataset, moved.encrypt)["val"]
    ciphertext = EncryptedImages(places.encrypted, "val").ciphertext(np.arange(6))
    np.testing.assert_array_equal(load_cipher(moved).decrypt(ciphertext, plain.ids(0, 6)), plain.read(0, 6))


@pytest.mark.parametrize("key_scope", ["image", "shared"])
def test_a_validation_image_is_encrypted_under_its_own_id(tmp_path, key_scope):
    config = make_config(dataset={"image_size": 16, "val_fraction": 0.3}, cipher={"name": "pe", "key_scope": key_scope})
    places = make_places(tmp_path, config, raw=write_raw(tmp_path / "raw", {"train": 20, "test": 6}))
    encrypt.run(config, places)
    plain = plain_splits(places.raw, config.dataset, config.encrypt)["val"]
    ours = load_cipher(config).encrypt(plain.read(0, 6), plain.ids(0, 6))
    np.testing.assert_array_equal(EncryptedImages(places.encrypted, "val").ciphertext(np.arange(6)), ours)


def test_sizes_of_all_splits_are_said(tmp_path, capsys):
    config = make_config(dataset={"image_size": 16, "val_fraction": 0.1})
    places = make_places(tmp_path, config, raw=write_raw(tmp_path / "raw", {"train": 1200, "test": 6}))
    assert show.encrypted_sizes(places) == ""
    encrypt.run(config, places)
    told = "1,080 training, 120 validation and 6 test images"
    assert capsys.readouterr().out.splitlines()[0] == told
    assert show.encrypted_sizes(places) == told
