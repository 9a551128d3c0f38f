"""The pooled ciphertext-only attack and the jigsaw solver under it. Expected values are the true keys and pictures."""

from itertools import permutations

import numpy as np
import pytest
import skimage.data
from conftest import cifar, enlarged
from conftest import photographs as crops_of_two
from PIL import Image

from ppvit.audit.attacks.pooled import recover_key
from ppvit.audit.score import mean_ssim
from ppvit.audit.solvers.placement import edge_costs, place
from ppvit.audit.solvers.symmetry import best_over_symmetries, equivalent_keys
from ppvit.audit.view import decrypt, from_blocks, to_blocks
from ppvit.ciphers import AffineMap, make_cipher
from ppvit.ciphers.keys import Key


def key(number=1):
    return Key(bytes([number]) * 32)


def rng(seed=0):
    return np.random.default_rng(seed)


def photographs(count, size, seed=0):
    """Random crops of three sharp photographs, uint8, (n, H, H, 3)."""
    random = rng(seed)
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "coffee", "chelsea")]
    crops = []
    for index in range(count):
        source = sources[index % 3]
        side = int(min(source.size) * random.uniform(0.3, 1))
        left, top = (int(random.integers(0, length - side + 1)) for length in source.size)
        box = (left, top, left + side, top + side)
        crops.append(np.asarray(source.resize((size, size), Image.Resampling.BICUBIC, box=box)))
    return np.stack(crops)


def attack(cipher, encrypted, seed=0):
    return recover_key(
        encrypted,
        cipher.block_size,
        scrambles=cipher.scrambles,
        shuffles=cipher.shuffles,
        inverts=cipher.inverts,
        rng=rng(seed),
    )


def equivalents(found, cipher):
    return equivalent_keys(
        found,
        cipher.block_size,
        cipher.image_size,
        scrambles=cipher.scrambles,
        shuffles=cipher.shuffles,
        inverts=cipher.inverts,
    )


def same(one, other):
    parts = ("block_permutation", "value_permutation", "sign")
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in parts)


def share(one, other):
    """Fraction of the entries of both permutations that are equal."""
    equal = [one.block_permutation == other.block_permutation, one.value_permutation == other.value_permutation]
    return float(np.mean(np.concatenate(equal)))


def closeness(images, plain):
    return -float(np.abs(images.astype(float) - plain).mean())


def ssim_on(cipher, found, plain):
    seen = decrypt(cipher.encrypt(plain), found, cipher.block_size)
    return mean_ssim(best_over_symmetries(seen, plain, closeness, negative=cipher.inverts)[0], plain)


# --- pooled


@pytest.mark.parametrize("name", ["none", "scramble", "shuffle", "block", "np", "block_np"])
@pytest.mark.parametrize(("size", "block_size"), [(32, 4), (64, 8)])
def test_photographs_give_the_whole_key(name, size, block_size):
    cipher = make_cipher(name, key(), size, block_size)
    found = attack(cipher, cipher.encrypt(photographs(100, size)))
    assert any(same(each, cipher.affine_map()) for each in equivalents(found, cipher))


@pytest.mark.parametrize("number", [1, 2])
def test_a_hundred_photographs_at_full_size(number):
    cipher = make_cipher("block", key(number), 224, 16)
    encrypted = cipher.encrypt(photographs(100, 224, seed=number))
    found = attack(cipher, encrypted)
    assert any(same(each, cipher.affine_map()) for each in equivalents(found, cipher))


@pytest.mark.parametrize("name", ["block", "block_np"])
def test_twenty_photographs_decrypt_unseen_ones(name):
    cipher = make_cipher(name, key(), 224, 16)
    found = attack(cipher, cipher.encrypt(photographs(20, 224)))
    assert ssim_on(cipher, found, photographs(3, 224, seed=9)) >= 0.999


@pytest.mark.assets
def test_one_enlarged_cifar_image_is_enough():
    plain = np.stack([enlarged(image, 224) for image in cifar(4, every=20)])
    cipher = make_cipher("block", key(), 224, 16)
    found = [attack(cipher, cipher.encrypt(image[None])) for image in plain]
    own = [ssim_on(cipher, each, image[None]) for each, image in zip(found, plain, strict=True)]
    unseen = [ssim_on(cipher, each, plain[:2]) for each in found]
    assert np.count_nonzero(np.array(own) >= 0.945) >= 3
    assert np.count_nonzero(np.array(unseen) >= 0.945) >= 3


@pytest.mark.assets
@pytest.mark.parametrize(("size", "block_size"), [(224, 16), (32, 4), (32, 8)])
def test_cifar_images_give_the_whole_key(size, block_size):
    cipher = make_cipher("block", key(), size, block_size)
    found = attack(cipher, cipher.encrypt(np.stack([enlarged(image, size) for image in cifar(100, every=20)])))
    assert any(same(each, cipher.affine_map()) for each in equivalents(found, cipher))


def test_grey_photographs_decrypt_although_their_colours_cannot_be_told_apart():
    plain = np.repeat(photographs(50, 64)[..., 1:2], 3, axis=3)
    cipher = make_cipher("block", key(), 64, 8)
    found = attack(cipher, cipher.encrypt(plain))
    assert ssim_on(cipher, found, plain[:3]) > 0.999


def test_black_bars_and_blown_out_skies():
    plain = photographs(60, 64)
    plain[::5, :16] = 0
    plain[1::5, -24:] = 255
    plain[2::5] = np.clip(plain[2::5] * 2.2 - 60, 0, 255).astype(np.uint8)
    cipher = make_cipher("block", key(), 64, 8)
    found = attack(cipher, cipher.encrypt(plain))
    assert any(same(each, cipher.affine_map()) for each in equivalents(found, cipher))


def test_a_key_for_every_image_leaves_chance():
    ciphers = [make_cipher("block", key(number), 32, 4) for number in range(1, 101)]
    plain = photographs(100, 32)
    found = attack(ciphers[0], np.concatenate([c.encrypt(p[None]) for c, p in zip(ciphers, plain, strict=True)]))
    # the best of 48 equivalents against 100 keys of 64 + 48 entries; a random permutation has about one right
    hits = [max(share(each, c.affine_map()) for each in equivalents(found, ciphers[0])) for c in ciphers]
    guess = AffineMap(rng(1).permutation(64), rng(2).permutation(48), np.ones(48, np.int8))
    chance = [max(share(each, c.affine_map()) for each in equivalents(guess, ciphers[0])) for c in ciphers]
    assert np.mean(hits) == pytest.approx(np.mean(chance), abs=0.02)
    assert ssim_on(ciphers[0], found, plain[:3]) < 0.4


@pytest.mark.parametrize("content", ["noise", "flat"])
def test_nothing_to_go_by_is_no_error(content):
    encrypted = np.full((2, 32, 32, 3), 77, np.uint8)
    if content == "noise":
        encrypted = rng().integers(0, 256, encrypted.shape, dtype=np.uint8)
    found = attack(make_cipher("block_np", key(), 32, 4), encrypted)
    assert sorted(found.block_permutation) == list(range(64))
    assert sorted(found.value_permutation) == list(range(48))
    assert set(found.sign) <= {-1, 1}


@pytest.mark.parametrize("block_size", [1, 2, 8])
def test_extreme_block_sizes_give_valid_keys(block_size):
    cipher = make_cipher("block", key(), 16, block_size)
    found = attack(cipher, cipher.encrypt(photographs(4, 16)))
    assert sorted(found.block_permutation) == list(range((16 // block_size) ** 2))
    assert sorted(found.value_permutation) == list(range(3 * block_size**2))


def test_same_seed_same_key():
    cipher = make_cipher("block_np", key(), 32, 4)
    encrypted = cipher.encrypt(photographs(10, 32))
    assert same(attack(cipher, encrypted, seed=3), attack(cipher, encrypted, seed=3))


def test_a_pixel_key_per_position_still_leaks_who_is_beside_whom():
    blocks = to_blocks(photographs(100, 128), 16)
    random, scrambled = rng(5), rng(6).permutation(64)
    keyed = np.stack([blocks[:, source][:, random.permutation(768)] for source in scrambled], axis=1)
    options = {"scrambles": True, "shuffles": True, "inverts": False, "per_position": True}
    found = recover_key(from_blocks(keyed, 16), 16, **options, rng=rng())
    true = scrambled[np.argsort(found.block_permutation)].reshape(8, 8)
    row, column = np.divmod(true, 8)
    right = [np.abs(np.diff(row, axis=a)) + np.abs(np.diff(column, axis=a)) == 1 for a in (0, 1)]
    assert np.mean(np.concatenate([r.ravel() for r in right])) >= 0.99
    assert found.value_permutation.shape == (64, 768)


# --- placement


def pieces(images, block_size):
    blocks = to_blocks(images, block_size)
    return blocks.reshape(*blocks.shape[:2], 3, block_size, block_size).transpose(0, 1, 3, 4, 2)


def test_a_cut_photograph_goes_back_together():
    blocks = pieces(np.asarray(Image.fromarray(skimage.data.astronaut()).resize((224, 224)))[None], 16)
    shuffled = rng().permutation(196)
    # a few pieces of the black corner are equal to within the noise
    assert np.mean(shuffled[place(edge_costs(blocks[:, shuffled]), 14, 14)] == np.arange(196)) > 0.97


def test_pieces_need_not_form_a_square():
    blocks = pieces(photographs(20, 64), 8)[:, :40]  # the upper five of eight rows
    shuffled = rng().permutation(40)
    assert np.array_equal(shuffled[place(edge_costs(blocks[:, shuffled]), 5, 8)], np.arange(40))


def test_a_linear_ramp_costs_nothing_where_it_continues():
    ramp = np.repeat(np.add.outer(np.arange(8), 2 * np.arange(12))[:, :, None], 3, axis=2).astype(np.uint8)
    blocks = ramp.reshape(2, 4, 3, 4, 3).transpose(0, 2, 1, 3, 4).reshape(1, 6, 4, 4, 3)
    costs = edge_costs(blocks)
    assert costs.shape == (2, 6, 6)
    assert np.all(np.isinf(costs[:, np.arange(6), np.arange(6)]))
    assert costs[0, 0, 1] == costs[0, 1, 2] == costs[1, 0, 3] == 0
    assert min(costs[0, 0, 3], costs[0, 1, 0], costs[1, 3, 0]) > 0


# --- symmetries


def test_equivalent_keys_decrypt_to_turned_and_recoloured_pictures():
    cipher = make_cipher("block_np", key(), 16, 4)
    plain = rng().integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    encrypted = cipher.encrypt(plain)
    keys = list(equivalent_keys(cipher.affine_map(), 4, 16, inverts=True))
    assert same(keys[0], cipher.affine_map())
    pictures = {decrypt(encrypted, each, 4).tobytes() for each in keys}
    assert len(keys) == len(pictures) == 96
    assert np.ascontiguousarray(np.rot90(plain, axes=(1, 2))[..., [2, 0, 1]]).tobytes() in pictures
    assert np.ascontiguousarray(255 - plain.swapaxes(1, 2)).tobytes() in pictures


@pytest.mark.parametrize(
    ("keyed", "expected"),
    [({"shuffles": False}, 1), ({"scrambles": False}, 6), ({}, 48), ({"shuffles": False, "inverts": True}, 2)],
)
def test_what_is_not_keyed_is_not_free(keyed, expected):
    cipher = make_cipher("block", key(), 16, 4)
    assert len(list(equivalent_keys(cipher.affine_map(), 4, 16, **keyed))) == expected


@pytest.mark.parametrize("negative", [True, False])
def test_no_symmetry_is_nearer(negative):
    plain = rng().integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    for turn, order, inverted in ((3, (2, 0, 1), True), (0, (0, 1, 2), False), (2, (1, 2, 0), False)):
        seen = np.rot90(plain[:, :, ::-1], turn, axes=(1, 2))[..., order] // 2 + 40
        seen = 255 - seen if inverted else seen
        tried = [
            np.rot90(each, quarter, axes=(1, 2))[..., colours]
            for each in (seen, seen[:, ::-1])
            for quarter in range(4)
            for colours in permutations(range(3))
        ]
        tried += [255 - each for each in tried] * negative
        best, _ = best_over_symmetries(seen, plain, mean_ssim, negative=negative)
        assert np.array_equal(best, max(tried, key=lambda each: mean_ssim(each, plain)))
        assert mean_ssim(best, plain) > 0.7 or (inverted and not negative)


def test_the_best_symmetry_is_found_and_named():
    plain = rng().integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    seen = 255 - np.rot90(plain, axes=(1, 2))[..., ::-1]
    best, words = best_over_symmetries(seen, plain, closeness, negative=True)
    assert np.array_equal(best, plain)
    assert words == "turned by 270 degrees, colours BGR, negative"
    assert best_over_symmetries(plain, plain, closeness)[1] == "as found"


@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_crops_of_two_photographs_give_the_whole_key(seed):
    """Few scenes leave corners and rims of the block in doubt, which only swaps of whole pixels settle."""
    cipher = make_cipher("block", key(seed), 224, 16)
    found = attack(cipher, cipher.encrypt(crops_of_two(20, 224, seed)))
    assert any(same(each, cipher.affine_map()) for each in equivalents(found, cipher))
