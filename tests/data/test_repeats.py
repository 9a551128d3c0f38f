"""Values that repeat in enlarged images are stored once: which ciphers keep that, and that every bit comes back."""

import json

import numpy as np
import pytest
from conftest import make_config, make_places, write_raw
from skimage.data import astronaut

from ppvit.ciphers import CIPHERS, keys, make_cipher
from ppvit.ciphers.keys import DEMO_KEY
from ppvit.config import Encrypt
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.data.images import encode_png
from ppvit.data.repeats import Layout, enlargement, find_layout, read_layout
from ppvit.pipeline import STAGES
from ppvit.verbs import rekey

# how often less is stored of images of 8 px, enlarged four times for blocks of 4 px
FEWER = {
    **dict.fromkeys(("none", "shuffle", "scramble", "block", "pixel_position", "etc", "restricted"), 16),
    **dict.fromkeys(("np", "block_np", "subblock_etc", "pe", "ffx"), 8),  # each pixel inverted or replaced, and not
    "le": 4,  # pairs of nibbles of two pixels
}
NONE = ("ele", "neuracrypt", "neuracrypt_gray", "neuracrypt_per_channel", "orthogonal", "disposable")


def enlarged(count: int, side: int, factor: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    return small.repeat(factor, 1).repeat(factor, 2)


def test_every_cipher_is_sorted():
    assert {*FEWER, *NONE} == set(CIPHERS)


@pytest.mark.parametrize("name", FEWER)
def test_ciphers_that_keep_repeats(name):
    images, ids = enlarged(30, 8, 4), np.arange(30)
    cipher = make_cipher(name, DEMO_KEY, 32, 4)
    layout = find_layout(cipher, images[:16], ids)
    assert layout.distinct * FEWER[name] <= 32 * 32 * 3
    for ciphertext in cipher.encrypt(images, ids):
        packed = layout.packed(ciphertext, "x")
        assert packed.nbytes * FEWER[name] <= ciphertext.nbytes
        np.testing.assert_array_equal(layout.unpacked(packed, ciphertext.shape), ciphertext)
    # numbered as they stand, so that the numbers tell nothing of where plain pixels went
    assert (np.diff(layout.first) > 0).all()


@pytest.mark.parametrize("name", NONE)
def test_ciphers_that_do_not_are_refused(name):
    cipher = make_cipher(name, DEMO_KEY, 32, 4, **({"token_width": 8} if name.startswith("neuracrypt") else {}))
    with pytest.raises(UsageError, match=rf"repeated_values once: cipher {name} does not keep repeats"):
        find_layout(cipher, enlarged(16, 8, 4), np.arange(16))


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_the_enlargement_need_not_fit_the_blocks(factor):
    """CIFAR-10 at 224 px is enlarged sevenfold, and blocks have 16 px."""
    images = enlarged(16, 16, factor)
    assert enlargement(images) == factor
    cipher = make_cipher("block_np", DEMO_KEY, 16 * factor, 16)
    layout = find_layout(cipher, images, np.arange(16))
    assert layout.distinct <= 2 * 16 * 16 * 3  # each value of the small image, as it is and inverted
    (ciphertext,) = cipher.encrypt(images[:1])
    np.testing.assert_array_equal(layout.unpacked(layout.packed(ciphertext, "x"), ciphertext.shape), ciphertext)


def test_keys_of_images_and_images_that_are_not_enlarged_are_refused():
    with pytest.raises(UsageError, match="the images are not enlarged"):
        find_layout(make_cipher("block", DEMO_KEY, 32, 4), enlarged(16, 32, 1), np.arange(16))
    cipher = make_cipher("pe", DEMO_KEY, 32, 4, key_scope="image")
    with pytest.raises(UsageError, match="does not keep repeats"):
        find_layout(cipher, enlarged(16, 8, 4), np.arange(16))


def configured(**encrypt):
    settings = {"resize_filter": "nearest", "images_per_shard": 10, **encrypt}
    return make_config(dataset={"image_size": 16}, cipher={"name": "block"}, encrypt=settings)


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw", {"train": 20, "val": 7, "test": 9}, size=4)


def test_training_reads_the_same_ciphertext_from_less_disk(tmp_path, raw, capsys):
    config, folders = configured(), {}
    for kind in ("stored", "once"):
        places = make_places(tmp_path / kind, configured(repeated_values=kind), raw=raw)
        STAGES["encrypt"].run(configured(repeated_values=kind), places)
        folders[kind] = places.encrypted
    told = capsys.readouterr().out
    # 36 images of 16 x 16 x 3 bytes or of 48, and what a tar and formats add
    assert told.count("36 encrypted pictures take about 0.1 MiB in") == 2
    for split in ("train", "val", "test"):
        both = [EncryptedImages(folder, split) for folder in folders.values()]
        order = [np.arange(len(both[0]))]
        (first,), (second,) = (list(load_batches(dataset, order)) for dataset in both)
        assert (first[0] == second[0]).all()
        assert (first[1] == second[1]).all()
        assert both[1].manifest["distinct"] == 4 * 4 * 3
    # an image takes its 48 values, and the 80 bytes of NumPy's header, rounded to 128
    assert both[1]._readers[0]._places[0, 0, 1] == 48 + 128
    assert config.encrypt.repeated_values == "stored"


def test_images_of_another_size_among_them_are_refused(tmp_path, raw):
    import ppvit.data.plain as plain_images

    read = plain_images.PlainImages.read

    def with_noise(self, start, stop, view=0):
        images = read(self, start, stop, view).copy()
        if start <= 17 < stop and stop > 16:  # behind the sample
            images[17 - start] = np.random.default_rng(0).integers(0, 256, images.shape[1:])
        return images

    config = configured(repeated_values="once")
    places = make_places(tmp_path, config, raw=raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_images.PlainImages, "read", with_noise)
        with pytest.raises(
            PpvitError, match=r"image 17: its ciphertext does not repeat .* set encrypt.repeated_values=s"
        ):
            STAGES["encrypt"].run(config, places)
    assert not places.encrypted.exists()


BAD = {
    "missing": (lambda path: path.unlink(), "layout.npy is missing"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-4]), "layout.npy: its shape"),
    "no array": (lambda path: path.write_bytes(b"x" * 1000), "it does not begin like an array"),
    "huge": (lambda path: path.write_bytes(bytes(10**6)), "larger than"),
    "beyond": (lambda path: Layout(np.full(768, 48, np.int32), np.arange(1)).write(path.parent), "does not use the 48"),
    "negative": (lambda path: Layout(np.full(768, -1, np.int32), np.arange(1)).write(path.parent), "does not use"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_layouts_that_cannot_be_right_are_refused(tmp_path, raw, kind):
    config = configured(repeated_values="once")
    places = make_places(tmp_path, config, raw=raw)
    STAGES["encrypt"].run(config, places)
    change, told = BAD[kind]
    change(places.encrypted / "train" / "layout.npy")
    with pytest.raises(PpvitError) as caught:
        EncryptedImages(places.encrypted, "train")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_with_more_values_than_there_are_is_refused(tmp_path, raw):
    config = configured(repeated_values="once")
    places = make_places(tmp_path, config, raw=raw)
    STAGES["encrypt"].run(config, places)
    path = places.encrypted / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "distinct": 769}))
    with pytest.raises(PpvitError, match="distinct 769"):
        EncryptedImages(places.encrypted, "train")
    path.write_text(json.dumps({**manifest, "distinct": 47}))
    with pytest.raises(PpvitError, match="does not use the 47 stored values"):
        EncryptedImages(places.encrypted, "train")


def test_layouts_are_found_alike_and_read_back(tmp_path):
    images, cipher = enlarged(16, 4, 4), make_cipher("block", DEMO_KEY, 16, 4)
    layout = find_layout(cipher, images, np.arange(16))
    layout.write(tmp_path)
    again = read_layout(tmp_path, layout.distinct, 768)
    np.testing.assert_array_equal(again.places, find_layout(cipher, enlarged(16, 4, 4, seed=5), np.arange(16)).places)
    np.testing.assert_array_equal(again.first, layout.first)


def test_values_stored_once_are_not_compressed_too():
    with pytest.raises(ValueError, match=r"encrypt\.compress is for PNG.*set encrypt\.compress=false"):
        Encrypt(repeated_values="once", compress=True, resize_filter="nearest")


@pytest.mark.parametrize(("name", "pngs"), [("orthogonal", False), ("neuracrypt", False), ("le", True)])
def test_compression_of_what_is_no_png_is_refused(tmp_path, raw, name, pngs):
    config = make_config(dataset={"image_size": 16}, cipher={"name": name}, encrypt={"compress": True})
    places = make_places(tmp_path, config, raw=raw)
    if pngs:
        STAGES["encrypt"].run(config, places)
        assert EncryptedImages(places.encrypted, "train").manifest["compression"]
    else:
        with pytest.raises(UsageError, match=rf"PNG, and {name} stores .* format; set encrypt\.compress=false"):
            STAGES["encrypt"].run(config, places)
        assert not places.encrypted.exists()


@pytest.mark.parametrize(
    ("kept", "stored"), [("distinct", {"repeated_values": "once"}), ("compression", {"compress": True})]
)
def test_another_key_keeps_how_it_is_stored(tmp_path, raw, kept, stored):
    config = configured(**stored)
    places = make_places(tmp_path, config, raw=raw)
    STAGES["encrypt"].run(config, places)
    old, new = (make_cipher("block", key, 16, 4) for key in (DEMO_KEY, keys.generate()))
    (tmp_path / "again").mkdir()
    rekey._encrypt_again(places.encrypted, tmp_path / "again", old, new)
    for split in ("train", "val", "test"):
        before, after = (EncryptedImages(folder, split) for folder in (places.encrypted, tmp_path / "again"))
        assert after.manifest[kept] == before.manifest[kept] is not None
        everything = np.arange(len(before))
        plain = [c.decrypt(d.ciphertext(everything)) for c, d in ((old, before), (new, after))]
        np.testing.assert_array_equal(*plain)


def test_compression_is_read_back_and_told(tmp_path, capsys):
    """Smooth images under a cipher that moves whole blocks shrink; noise is stored as it is."""
    smooth = astronaut()[::8, ::8][:64, :64]
    assert len(encode_png(smooth, compress=True)) < 0.95 * len(encode_png(smooth))
    noise = enlarged(1, 64, 1)[0]
    assert encode_png(noise, compress=True) == encode_png(noise)
    raw = write_raw(tmp_path / "raw", {"train": 6, "test": 6}, size=4)  # enlarged, which makes them smooth
    sizes = {}
    for compress in (False, True):
        config = make_config(dataset={"image_size": 32}, cipher={"name": "scramble"}, encrypt={"compress": compress})
        places = make_places(tmp_path / str(compress), config, raw=raw)
        STAGES["encrypt"].run(config, places)
        sizes[compress] = EncryptedImages(places.encrypted, "train")
    everything = np.arange(6)
    np.testing.assert_array_equal(*(dataset.ciphertext(everything) for dataset in sizes.values()))
    plain, compressed = (dataset.manifest for dataset in sizes.values())
    assert plain["compression"] is None
    assert compressed["compression"].startswith("zlib ")
    members = [sum(int(d._readers[0]._places[n, 0, 1]) for n in range(6)) for d in sizes.values()]
    assert members[1] < 0.9 * members[0]
