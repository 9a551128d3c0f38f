"""Random views of training images: their bytes, what they depend on, where they go, and what they give away."""

import hashlib
import hmac
import json
import math
import os
import pickle

import numpy as np
import pytest
import timm.data
import torch
from conftest import make_config, make_places, photographs, write_raw
from PIL import Image, ImageEnhance, ImageOps
from secret_forms import forms_of_bytes

from ppvit.audit.view import to_blocks
from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.ciphers.keys import Key
from ppvit.config import Encrypt
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import write_json
from ppvit.core.reading import read_json, sha256_of_folder
from ppvit.data import storing
from ppvit.data.batches import EncryptedImages, epoch_batches
from ppvit.data.plain import PlainImages
from ppvit.data.sampling import views_in_turn
from ppvit.data.views import Views
from ppvit.pipeline import STAGES
from ppvit.verbs import encrypt, rekey

RANDOM = ("flip_crop", "flip_crop_colour", "randaugment")
CIPHER, OTHER, DRAWS = (Key(bytes([number]) * 32) for number in (1, 2, 3))
# HKDF-SHA256 (RFC 5869) without a salt of its own, one block
SALT = hmac.digest(hmac.digest(bytes(32), DRAWS.secret, "sha256"), b"ppvit/v1/views\x01", "sha256")


@pytest.fixture(autouse=True)
def ring():
    for key in (CIPHER, OTHER, DRAWS):
        keys.save(key)


# --- a view's bytes, by a straight implementation


def seeded(recipe: str, index: int, view: int) -> torch.Generator:
    message = b"ppvit-views-v1|" + SALT + f"|{recipe}|{index}|{view}".encode()
    return torch.Generator().manual_seed(int(hashlib.sha256(message).hexdigest()[:16], 16))


def part(picture: Image.Image, size: int, random: torch.Generator) -> Image.Image:
    """Half to nine tenths of the area, up to 4 : 3, anywhere; then a coin for the mirror."""
    area, shape, across, down = torch.rand(4, dtype=torch.float64, generator=random).tolist()
    area = 0.5 + 0.4 * area
    ratio = min(4 / 3, 1 / area) ** (2 * shape - 1)
    width, height = math.sqrt(area * ratio) * picture.width, math.sqrt(area / ratio) * picture.height
    left, top = across * (picture.width - width), down * (picture.height - height)
    box = [round(number, 3) for number in (left, top, left + width, top + height)]
    cut = picture.resize((size, size), Image.Resampling.BICUBIC, box)
    return ImageOps.mirror(cut) if torch.rand(1, generator=random) < 0.5 else cut


def coloured(picture: Image.Image, random: torch.Generator) -> Image.Image:
    order = torch.randperm(4, generator=random).tolist()
    light, contrast, colour = (float(torch.empty(1).uniform_(0.6, 1.4, generator=random)) for _ in range(3))
    turn = float(torch.empty(1).uniform_(-0.1, 0.1, generator=random))
    for step in order:
        if step == 3:
            hue, saturation, value = picture.convert("HSV").split()
            turned = (np.asarray(hue).astype(int) + math.trunc(turn * 255)) % 256
            picture = Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")
        else:
            kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
            picture = kind(picture).enhance((light, contrast, colour)[step])
    return picture


def augmented(picture: Image.Image, random: torch.Generator) -> Image.Image:
    """Two of the 14 operations at magnitude 9 of 0 .. 30, in the order of the paper's code; 0.3 of the largest each."""
    for _ in range(2):
        number = int(torch.randint(14, (), generator=random))
        sign = -1 if 1 <= number <= 9 and torch.rand((), generator=random) <= 0.5 else 1
        picture = operation(picture, number, sign * 0.3)
    return picture


def operation(picture: Image.Image, number: int, strength: float) -> Image.Image:
    def affine(*matrix):
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    if number in (1, 2):  # ShearX, ShearY
        shear = math.copysign(float(np.float32(0.09)), strength)
        return affine(1, shear, 0, 0, 1, 0) if number == 1 else affine(1, 0, 0, shear, 1, 0)
    if number in (3, 4):  # TranslateX, TranslateY
        moved = -int(strength * 150 / 331 * picture.width)
        return affine(1, 0, moved, 0, 1, 0) if number == 3 else affine(1, 0, 0, 0, 1, moved)
    if number == 5:
        return picture.rotate(30 * strength, Image.Resampling.BILINEAR)
    if 6 <= number <= 9:
        kind = ("Brightness", "Color", "Contrast", "Sharpness")[number - 6]
        return getattr(ImageEnhance, kind)(picture).enhance(1 + 0.9 * strength)
    return {
        0: lambda: picture,
        10: lambda: ImageOps.posterize(picture, 8 - round(9 / 7.5)),
        11: lambda: ImageOps.solarize(picture, 255 * (1 - strength)),
        12: lambda: ImageOps.autocontrast(picture),
        13: lambda: ImageOps.equalize(picture),
    }[number]()


STRAIGHT = {"flip_crop": lambda cut, random: cut, "flip_crop_colour": coloured, "randaugment": augmented}


@pytest.mark.parametrize("recipe", RANDOM)
def test_bytes_are_those_of_a_straight_implementation(recipe):
    views = Views(3, recipe, DRAWS)
    for index, plain in enumerate(photographs(40, 40)):
        random = seeded(recipe, index, 2)
        expected = STRAIGHT[recipe](part(Image.fromarray(plain), 32, random), random)
        np.testing.assert_array_equal(
            views.draw(plain, index, 2, 32, "bicubic", "center"), np.asarray(expected), str(index)
        )


def test_what_a_view_shows_of_pictures_that_are_no_squares():
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = 200  # what view 0 shows where the middle is cut out
    views = Views(9, "flip_crop", DRAWS)
    for view in range(1, 9):
        assert (views.draw(wide, 0, view, 32, "bicubic", "center") == 200).all()
        squashed = views.draw(wide, 0, view, 32, "bicubic", "squash")
        assert squashed.min() == 0
        assert squashed.max() >= 200
    padded = [views.draw(np.full((40, 80, 3), 200, np.uint8), 0, view, 32, "nearest", "pad") for view in range(9)]
    assert {tuple(np.unique(each)) for each in padded} == {(0, 200)}  # bars are part of the picture, as in view 0


def test_nothing_but_salt_recipe_image_and_view_decides(monkeypatch):
    plain = photographs(1, 40)[0]

    def drawn(count=3, recipe="randaugment", key=DRAWS, index=5, view=2):
        return Views(count, recipe, key).draw(plain, index, view, 32, "bicubic", "center").tobytes()

    torch.manual_seed(0)
    before, state = drawn(), torch.get_rng_state()
    torch.rand(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert drawn() == drawn(count=8) == before
    finally:
        torch.set_num_threads(threads)
    torch.set_rng_state(state)
    drawn()
    assert torch.equal(torch.get_rng_state(), state)  # dropout and the like draw on as if nothing had been drawn
    others = [drawn(key=OTHER), drawn(index=6), drawn(view=1), drawn(recipe="flip_crop"), drawn(index=52, view=0)]
    assert len({before, *others}) == 6
    # 1|12 and 11|2 are told apart
    assert Views(3, "none", DRAWS).seed(1, 12) != Views(3, "none", DRAWS).seed(11, 2)


# --- what they give away


def mirrored_blocks(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the blocks of 4 px whose values are those of the block at the mirrored place of another picture."""
    first, second = (np.sort(to_blocks(each[None], 4)[0], axis=1) for each in (one, other[:, ::-1]))
    return float((first == second).all(axis=1).mean())


@pytest.mark.parametrize("size", [16, 32])
def test_no_view_is_the_mirror_of_another(size):
    """Of small pictures, parts on whole pixels would come up twice, once flipped, or be the whole picture."""
    plain = photographs(12, 16)
    views = Views(24, "flip_crop", DRAWS)
    for index, picture in enumerate(plain):
        drawn = [views.draw(picture, index, view, size, "bicubic", "center") for view in range(views.count)]
        assert mirrored_blocks(drawn[0], drawn[0][:, ::-1]) == 1
        assert max(mirrored_blocks(one, other) for one in drawn for other in drawn) < 0.2


def run(places, **sections):
    config = make_config(**{"dataset": {"image_size": 16, "val_fraction": 0.0}, **sections})
    encrypt.run(config, places)
    return config


def of(folder, raw, **encrypting):
    """Encrypt with the keys of these tests; the settings."""
    cipher = encrypting.pop("cipher", {"name": "block_np", "key_id": CIPHER.id})
    settings = {"images_per_shard": 16, "view_key_id": DRAWS.id, **encrypting}
    return run(make_places(folder, raw=raw, encrypted=folder), encrypt=settings, cipher=cipher)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw") / "digits", {"train": 40, "test": 12})


def test_more_views_only_add_files(tmp_path, raw):
    of(tmp_path / "one", raw)
    of(tmp_path / "three", raw, views=3)
    of(tmp_path / "four", raw, views=4)
    one, three, four = (sha256_of_folder(tmp_path / name) for name in ("one", "three", "four"))
    changed = {"train/manifest.json", "train/_info.json"}
    numbers = [f"{number:06d}.tar" for number in range(3)]
    assert set(three) - set(one) == {f"train/view{view}-{number}" for view in (1, 2) for number in numbers}
    assert {name for name in one if one[name] != three[name]} == changed
    assert {name for name in three if three[name] != four[name]} == changed
    assert "view" not in (tmp_path / "one" / "train" / "manifest.json").read_text()
    # other shards hold the same pictures
    of(tmp_path / "larger", raw, views=3, images_per_shard=40)
    assert np.array_equal(*(every_view(tmp_path / name) for name in ("three", "larger")))


def every_view(folder) -> np.ndarray:
    dataset = EncryptedImages(folder, "train")
    return dataset.ciphertext(dataset.in_all_views(np.arange(len(dataset))))


def test_a_process_that_gets_them_draws_the_same():
    views = pickle.loads(pickle.dumps(Views(3, "flip_crop", DRAWS)))
    assert (views, views.salt) == (Views(3, "flip_crop", DRAWS), SALT)


def test_every_key_and_no_key_encrypt_the_same_views(tmp_path, raw):
    of(tmp_path / "plain", raw, views=3, cipher={"name": "none"})
    plain = every_view(tmp_path / "plain")
    for key in (CIPHER, OTHER):
        config = of(tmp_path / key.id, raw, views=3, cipher={"name": "block_np", "key_id": key.id})
        assert np.array_equal(load_cipher(config).decrypt(every_view(tmp_path / key.id)), plain)
    config = of(tmp_path / "fewer", raw, views=3, cipher={"name": "none"})
    whole = PlainImages(raw, "train", config.dataset, config.encrypt, views=Views.of(config, "train"))
    part = config.dataset.model_copy(update={"train_fraction": 0.5, "seed": 1})
    some = PlainImages(raw, "train", part, config.encrypt, views=Views.of(config, "train"))
    for index in range(3):  # another choice and order of images: an image keeps its views
        first = some.read(index, index + 1)
        place = next(place for place in range(40) if np.array_equal(whole.read(place, place + 1), first))
        assert np.array_equal(whole.read(place, place + 1, 2), some.read(index, index + 1, 2))
    of(tmp_path / "salt", raw, views=3, cipher={"name": "none"}, view_key_id=OTHER.id)
    again = every_view(tmp_path / "salt")
    assert np.array_equal(again[:40], plain[:40])
    assert not np.array_equal(again[40:], plain[40:])


def test_each_view_has_a_key_of_its_own_where_each_image_has(tmp_path, raw):
    cipher = {"name": "pe", "key_scope": "image", "key_id": CIPHER.id}
    config = of(tmp_path / "out", raw, views=3, view_recipe="none", cipher=cipher)
    stored = every_view(tmp_path / "out").reshape(3, 40, -1)  # the same pictures three times
    assert len({stored[view, index].tobytes() for view in range(3) for index in range(40)}) == 120
    plain = {
        split: PlainImages(raw, split, config.dataset, config.encrypt, views=Views.of(config, split))
        for split in ("train", "test")
    }
    ids = [plain["train"].ids(0, 40, view) for view in range(3)] + [plain["test"].ids(0, 12)]
    assert len(set(np.concatenate(ids).tolist())) == 132
    assert np.array_equal(
        load_cipher(config).decrypt(stored[2].reshape(40, 16, 16, 3), ids[2]), plain["train"].read(0, 40)
    )


def test_other_splits_have_one_view(tmp_path, raw):
    config = of(tmp_path / "out", raw, views=3)
    test = EncryptedImages(tmp_path / "out", "test")
    assert (test.views, EncryptedImages(tmp_path / "out", "train").views) == (1, 3)
    of(tmp_path / "one", raw)
    assert len({sha(tmp_path / name / "test") for name in ("out", "one")}) == 1
    assert Views.of(config, "val") is None


def sha(folder) -> str:
    return json.dumps(sha256_of_folder(folder), sort_keys=True)


def test_the_salt_goes_nowhere(tmp_path, raw):
    of(tmp_path / "out", raw, views=3)
    places = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    forms = {form for secret in (DRAWS.secret, SALT) for form in forms_of_bytes(secret)}
    forms |= {
        DRAWS.id.encode(),
        *(str(Views(3, "flip_crop", DRAWS).seed(0, view)).encode() for view in (1, 2)),
    }
    for path in places:
        assert not any(form in path.read_bytes() for form in forms), path
    manifest = read_json(tmp_path / "out" / "train" / "manifest.json", "encrypt")
    assert manifest["views"] == 3
    assert manifest["view_recipe"] == "flip_crop"
    assert manifest["view_versions"].keys() == {"torchvision", "pillow"}
    assert SALT.hex() not in repr(Views(3, "flip_crop", DRAWS))
    assert Views(3, "flip_crop", DRAWS).salt == SALT


def test_the_public_key_draws_no_views_for_a_secret_one(tmp_path, raw, capsys):
    with pytest.raises(UsageError, match=r"view_key_id is the public demo key.*ppvit keygen"):
        of(tmp_path / "out", raw, views=2, view_key_id=keys.DEMO_KEY.id)
    with pytest.raises(UsageError, match="pk-0123456789abcdef is not in the keyring"):
        of(tmp_path / "out", raw, views=2, view_key_id="pk-0123456789abcdef")
    assert not (tmp_path / "out").exists()
    for cipher in ({"name": "none"}, {"name": "block"}):  # nothing to protect, or the public key too
        of(tmp_path / "out", raw, views=2, view_key_id=keys.DEMO_KEY.id, cipher=cipher)
        assert "the public demo key draws the views" in capsys.readouterr().err


def test_disk_is_told_and_asked_for_beforehand(tmp_path, raw, capsys, monkeypatch):
    of(tmp_path / "out", raw, views=3)
    told = capsys.readouterr().out
    assert "train: 3 views of each of 40 images" in told
    assert "132 encrypted pictures take about" in told
    asked = []
    monkeypatch.setattr(storing, "announce_size", lambda *asks: asked.append(asks[2]))
    for views in (1, 3):
        of(tmp_path / "out", raw, views=views)
    assert asked[1] / asked[0] == pytest.approx((3 * 40 + 12) / (40 + 12))


def test_views_are_not_enlarged_pictures():
    """Whose values would repeat at the same places."""
    with pytest.raises(ValueError, match=r"repeated_values is once.*views 3"):
        Encrypt(views=3, repeated_values="once", resize_filter="nearest")
    assert Encrypt(views=3, repeated_values="once", view_recipe="none").views == 3


def test_what_is_not_read_reruns_nothing():
    def read(**settings):
        return STAGES["encrypt"].narrowed(make_config(encrypt=settings)).encrypt.model_fields_set

    assert {"view_recipe", "view_key_id"} & read() == set()
    assert {"view_recipe", "view_key_id"} & read(views=2, view_recipe="none") == {"view_recipe"}
    assert {"view_recipe", "view_key_id"} & read(views=2) == {"view_recipe", "view_key_id"}
    assert STAGES["verify"].narrowed(make_config(encrypt={"views": 2})).encrypt.views == 1


# --- reading


@pytest.mark.parametrize("first", [0, 7])
def test_views_take_turns(tmp_path, raw, first):
    of(tmp_path / "out", raw, views=3)
    stored = EncryptedImages(tmp_path / "out", "train")

    def epoch(number, world=1):
        parts = [epoch_batches(40, 7, 5, number, rank, world, views=stored.views) for rank in range(world)]
        return np.concatenate([batch for part in parts for batch in part])

    taken = [epoch(first + number) for number in range(3)]
    assert all(np.array_equal(np.sort(samples % 40), np.arange(40)) for samples in taken)  # each image once
    assert np.array_equal(np.sort(np.concatenate(taken)), np.arange(120))  # in k epochs, each view of it once
    shares = np.bincount(taken[0] // 40)
    assert shares.max() - shares.min() <= 1  # in each epoch, as many of each view
    assert np.array_equal(np.sort(epoch(first, world=3)), np.sort(taken[0]))  # whatever the number of processes
    of(tmp_path / "one", raw)
    assert EncryptedImages(tmp_path / "one", "train").views == 1
    assert not views_in_turn(np.arange(40), first, 1).any()


def test_an_image_that_comes_again_in_an_epoch_shows_its_next_view():
    strata = np.array([0] * 4 + [1] * 36)  # each of the four comes five times
    for epoch in range(3):
        samples = np.concatenate(epoch_batches(40, 7, 5, epoch, strata=strata, views=3))
        for image in range(4):
            views = samples[samples % 40 == image] // 40
            assert views.tolist() == [(epoch + image + time) % 3 for time in range(5)]
        alone = np.concatenate(epoch_batches(40, 7, 5, epoch, strata=strata))
        assert np.array_equal(alone, samples % 40)  # in the order that a single view has
        shares = [np.concatenate(epoch_batches(40, 7, 5, epoch, rank, 2, strata, views=3)) for rank in range(2)]
        assert np.array_equal(np.sort(np.concatenate(shares)), np.sort(samples))


def test_samples_are_numbered_by_view(tmp_path, raw):
    config = of(tmp_path / "out", raw, views=3)
    stored = EncryptedImages(tmp_path / "out", "train")
    plain = PlainImages(raw, "train", config.dataset, config.encrypt, views=Views.of(config, "train"))
    cipher = load_cipher(config)
    assert len(stored) == len(stored.labels()) == 40
    for view, index in ((0, 0), (1, 0), (2, 39)):
        image, label = stored[view * 40 + index]
        expected = cipher.encrypt(plain.read(index, index + 1, view))[0]
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
        assert label == plain.labels[index]
    assert plain.labels.tolist() == stored.labels().tolist()


def test_timm_reads_the_first_view_or_all(tmp_path, raw):
    of(tmp_path / "out", raw, views=3, cipher={"name": "none"})
    stored = EncryptedImages(tmp_path / "out", "train")
    for split, count in (("train", 40), ("train_views", 120)):
        dataset = timm.data.create_dataset(
            "wds/own", root=str(tmp_path / "out" / "train"), split=split, is_training=False, batch_size=1
        )
        assert len(dataset) == count
        read = sorted((int(label), np.asarray(image).tobytes()) for image, label in dataset)
        expected = ((stored[sample][1], stored.ciphertext(np.array([sample]))[0].tobytes()) for sample in range(count))
        assert read == sorted(expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda manifest: manifest.update(views=2), "views 2: it lists shards of 3"),
        (lambda manifest: manifest.pop("view_shards"), "views 3: it lists shards of 1"),
        (lambda manifest: manifest["view_shards"].reverse(), "shard 0 is not named view1-000000.tar"),
        (lambda manifest: manifest["view_shards"][0].pop(), "the shards hold 32 images, not the 40"),
        (lambda manifest: manifest.update(views=10**9), "'views': input should be less than or equal to 1000"),
        (lambda manifest: manifest.update(view_recipe="exec"), "view_recipe"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, raw, change, told):
    of(tmp_path / "out", raw, views=3)
    path = tmp_path / "out" / "train" / "manifest.json"
    manifest = read_json(path, "encrypt")
    change(manifest)
    write_json(path, manifest)
    with pytest.raises(PpvitError, match=told):
        EncryptedImages(tmp_path / "out", "train")


def test_views_with_labels_of_others_are_refused(tmp_path, raw):
    of(tmp_path / "out", raw, views=2)
    folder = tmp_path / "out" / "train"
    of(tmp_path / "other", raw, views=2, cipher={"name": "none"})
    run(
        make_places(tmp_path, raw=raw, encrypted=tmp_path / "other"),
        dataset={"image_size": 16, "val_fraction": 0.0, "seed": 1},
        encrypt={"images_per_shard": 16, "views": 2, "view_key_id": DRAWS.id}, cipher={"name": "none"},
    )  # fmt: skip
    manifest, others = (
        read_json(place / "manifest.json", "encrypt") for place in (folder, tmp_path / "other" / "train")
    )
    for shard in others["view_shards"][0]:
        os.replace(tmp_path / "other" / "train" / shard["name"], folder / shard["name"])
    write_json(folder / "manifest.json", manifest | {"view_shards": others["view_shards"]})
    with pytest.raises(PpvitError, match="view 1 has other labels than the images"):
        EncryptedImages(tmp_path / "out", "train")


def test_another_key_for_all_views(tmp_path, raw):
    for key in (CIPHER, OTHER):
        of(tmp_path / key.id, raw, views=3, cipher={"name": "pe", "key_scope": "image", "key_id": key.id})
    places = make_places(tmp_path, raw=raw, encrypted=tmp_path / CIPHER.id)
    assert rekey.run(places, CIPHER.id, OTHER.id) == [tmp_path / CIPHER.id]
    assert sha(tmp_path / CIPHER.id) == sha(tmp_path / OTHER.id)


def test_recipes_have_one_list():
    from typing import get_args

    from ppvit.data.manifests import EncryptedManifest

    told = EncryptedManifest.model_fields["view_recipe"].annotation
    assert set(get_args(Encrypt.model_fields["view_recipe"].annotation)) == {"none", *RANDOM}
    assert set(get_args(get_args(told)[0])) == {"none", *RANDOM}
