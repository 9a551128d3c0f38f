"""Every cipher: round trip, wrong key, one slow reference each, the affine map, the traps of public code, geometry."""

import hashlib
import subprocess
import sys
from collections import Counter
from itertools import permutations
from math import comb, factorial, log2

import numpy as np
import pytest
import torch
from conftest import photographs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch.nn import functional

from ppvit.ciphers import CIPHERS, make_cipher
from ppvit.ciphers.gather import FlatMap
from ppvit.ciphers.keys import Key
from ppvit.ciphers.stream import KeyStream
from ppvit.core.errors import UsageError

OPTIONS = {  # id: name and options; sides of sub-blocks divide all block sides below
    "subblock_etc per block": ("subblock_etc", {"key_scope": "block"}),
    "subblock_etc 1 px": ("subblock_etc", {"key_scope": "block", "sub_block_size": 1}),
    "orthogonal float16": ("orthogonal", {"storage": "float16"}),
    "orthogonal uint8": ("orthogonal", {"storage": "uint8"}),
    "le 1 px": ("le", {"sub_block_size": 1}),
    "pe grey": ("pe", {"colour_order": False}),
    "pe per image": ("pe", {"key_scope": "image"}),
    "pe grey per image": ("pe", {"key_scope": "image", "colour_order": False}),
    "restricted mostly fixed": ("restricted", {"fixed_blocks": 0.8, "fixed_values": 0.9}),
    "restricted loose": ("restricted", {"fixed_blocks": 0.0, "fixed_values": 0.0}),
    "disposable loose": ("disposable", {"fixed_blocks": 0.2, "fixed_values": 0.1}),
    **{name: (name, {"token_width": 16}) for name in CIPHERS if name.startswith("neuracrypt")},
}
VARIANTS = {name: (name, {}) for name in CIPHERS} | OPTIONS


def of_all(holds) -> list[str]:
    """The variants whose cipher is as ``holds`` says."""
    made = {
        variant: make_cipher(name, Key(bytes(32)), 16, 4, **options) for variant, (name, options) in VARIANTS.items()
    }
    return [variant for variant, cipher in made.items() if holds(cipher)]


# what a cipher says of itself; the tests below measure whether it is true
IMAGE_KEYED = of_all(lambda cipher: cipher.image_keys)
MAPPED = of_all(lambda cipher: cipher.affine_map() is not None)
UNMAPPED = [variant for variant in VARIANTS if variant not in MAPPED]
KEYED = of_all(lambda cipher: cipher.keyed)
MANY_KEYS = of_all(lambda cipher: cipher.key_space_bits > 40)  # of few encryptions two keys may choose the same
INVERTIBLE = of_all(lambda cipher: cipher.invertible)
LOSSLESS = of_all(lambda cipher: cipher.lossless)

geometries = st.sampled_from([(8, 2), (12, 4), (16, 4), (24, 8)])
secrets = st.binary(min_size=32, max_size=32)


def cipher_of(variant: str, key: Key | None, image_size: int = 16, block_size: int = 4):
    name, options = VARIANTS[variant]
    return make_cipher(name, key, image_size, block_size, **options)


def images_of(size: int, count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def encrypt(cipher, images: np.ndarray) -> np.ndarray:
    return cipher.encrypt(images, np.arange(len(images)))


def differing(first: np.ndarray, second: np.ndarray) -> float:
    """Share of values that differ."""
    return (first != second).mean()


def test_variants_cover_every_option():
    for name in PUBLISHED:
        varied = {option for each, options in VARIANTS.values() if each == name for option in options}
        assert varied == set(CIPHERS[name].options), name


# round trip, keys, batches


@pytest.mark.parametrize("variant", LOSSLESS)
@given(secret=secrets, geometry=geometries, seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_round_trip_is_bit_exact(variant, secret, geometry, seed):
    cipher = cipher_of(variant, Key(secret), *geometry)
    plain, ids = images_of(geometry[0], seed=seed), np.array([seed, 7 + seed, 2**62 - seed])
    encrypted = cipher.encrypt(plain, ids)
    assert cipher.lossless
    assert cipher.invertible
    assert encrypted.dtype == cipher.dtype
    assert encrypted.shape == (3, *cipher.shape) == plain.shape
    np.testing.assert_array_equal(cipher.decrypt(encrypted, ids), plain)
    np.testing.assert_array_equal(plain, images_of(geometry[0], seed=seed))  # the input is left alone


@pytest.mark.parametrize("variant", ["block_np", "etc", "subblock_etc", "le", "ele", "pe", "ffx", "orthogonal"])
def test_round_trip_of_one_block(variant, key):
    plain = images_of(16)
    cipher = cipher_of(variant, key, 16, 16)
    np.testing.assert_array_equal(cipher.decrypt(cipher.encrypt(plain)), plain)


@pytest.mark.parametrize("side", [1, 2, 4, 8])
@pytest.mark.parametrize("fill", ["black", "white", "binary", "ramp"])
@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_orthogonal_is_bit_exact_on_extreme_images(side, fill, storage, key):
    plain = {
        "black": np.zeros((1, 16, 16, 3), np.uint8),
        "white": np.full((1, 16, 16, 3), 255, np.uint8),
        "binary": (images_of(16, 20) & 1) * np.uint8(255),
        "ramp": np.arange(768, dtype=np.uint8).reshape(1, 16, 16, 3),
    }[fill]
    cipher = make_cipher("orthogonal", key, 16, side)
    np.testing.assert_array_equal(cipher.decrypt(cipher.encrypt(plain)), plain)


@pytest.mark.parametrize("variant", VARIANTS)
@given(secret=secrets)
@settings(max_examples=4, deadline=None)
def test_batch_equals_images_one_by_one(variant, secret):
    cipher = cipher_of(variant, Key(secret))
    plain, ids = images_of(16, count=5), np.array([4, 0, 3, 99, 1])
    together = cipher.encrypt(plain, ids)
    singly = np.concatenate([cipher.encrypt(plain[i : i + 1], ids[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(together, singly)
    np.testing.assert_array_equal(cipher.encrypt(plain[::-1], ids[::-1]), together[::-1])  # and a view of an array
    if cipher.invertible:
        undone = cipher.decrypt(together, ids)
        singly = [cipher.decrypt(together[i : i + 1], ids[i : i + 1]) for i in range(5)]
        np.testing.assert_array_equal(undone, np.concatenate(singly))


@pytest.mark.parametrize("variant", VARIANTS)
def test_encryption_is_repeatable(variant, key):
    plain = images_of(16)
    first, second = (encrypt(cipher_of(variant, Key(bytes(range(32)))), plain) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert differing(first, encrypt(cipher_of(variant, key), plain)) == 0


@pytest.mark.parametrize("variant", KEYED)
def test_other_keys_give_other_ciphertext_and_do_not_decrypt(variant, key, other_key):
    plain = images_of(32)
    right, wrong = (cipher_of(variant, each, 32) for each in (key, other_key))
    encrypted = encrypt(right, plain)
    # noise images: np and grey pe change half of the values; what stays in place does not change
    least = {"restricted mostly fixed": 0.25, "ffx": 0.7, "etc": 0.9, "ele": 0.9}.get(variant, 0.4)
    assert differing(encrypted, encrypt(wrong, plain)) > least
    if right.invertible:
        assert differing(wrong.decrypt(encrypted, np.arange(3)), plain) > least


@pytest.mark.parametrize("variant", MANY_KEYS)
@given(first=secrets, second=secrets)
@settings(max_examples=5, deadline=None)
def test_different_keys_different_ciphertext(variant, first, second):
    plain = images_of(16, count=1)
    right, wrong = (cipher_of(variant, Key(each)) for each in (first, second))
    encrypted = encrypt(right, plain)
    assert (differing(encrypted, encrypt(wrong, plain)) > 0) == (first != second)
    if right.lossless:
        assert (differing(wrong.decrypt(encrypted, np.zeros(1)), plain) > 0) == (first != second)


@pytest.mark.parametrize("variant", MANY_KEYS)
def test_every_byte_of_the_key_matters(variant):
    """The trap of 32-bit seeds: keys that agree in their first or last 4 bytes, or in all but one bit, differ."""
    plain, secret = images_of(16, count=1), bytes(range(32))
    keys = [secret, secret[:4] + bytes(28), bytes(28) + secret[-4:]]
    keys += [secret[:i] + bytes([secret[i] ^ 1]) + secret[i + 1 :] for i in range(32)]
    ciphertexts = {encrypt(cipher_of(variant, Key(each)), plain).tobytes() for each in keys}
    assert len(ciphertexts) == len(keys)


@pytest.mark.parametrize("variant", IMAGE_KEYED)
def test_image_keys_depend_on_the_whole_id_and_nothing_else(variant, key):
    cipher = cipher_of(variant, key)
    assert cipher.image_keys
    assert cipher.affine_map() is None
    same = np.repeat(images_of(16, count=1), 5, axis=0)
    ids = np.array([0, 1, 2**32, 2**62, -1])  # 0 and 2^32 agree in 32 bits
    encrypted = cipher.encrypt(same, ids)
    assert len({image.tobytes() for image in encrypted}) == 5
    np.testing.assert_array_equal(cipher.encrypt(same[:1], ids[3:4]), encrypted[3:4])
    if cipher.invertible:
        np.testing.assert_array_equal(cipher.decrypt(encrypted, ids), same)
        assert differing(cipher.decrypt(encrypted, np.roll(ids, 1)), same) > 0.2


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in IMAGE_KEYED])
def test_other_ciphers_ignore_ids(variant, key):
    cipher = cipher_of(variant, key)
    assert not cipher.image_keys
    plain = images_of(16)
    np.testing.assert_array_equal(cipher.encrypt(plain, np.array([5, 6, 7])), cipher.encrypt(plain))


def test_steps_of_other_ciphers_and_geometries_are_independent(key):
    # one key may serve several runs: what one of them reveals must not open the others
    permutations_of = [
        make_cipher(name, key, size, 4).affine_map().value_permutation.tolist()
        for name, size in (("shuffle", 32), ("block", 32), ("block_np", 32), ("block", 64))
    ]
    assert len({tuple(permutation) for permutation in permutations_of}) == 4


@pytest.mark.parametrize("variant", ["ele", "etc", "subblock_etc per block", "pe", "pe grey"])
def test_block_positions_have_independent_keys(variant, key):
    affine = cipher_of(variant, key, 64).affine_map()
    assert affine.per_position
    seen = {(p.tobytes(), s.tobytes()) for p, s in zip(affine.value_permutation, affine.sign, strict=True)}
    # etc has 96 of them for 256 positions; the others far more than positions
    assert len(seen) > 80 if variant == "etc" else len(seen) == 256


# the affine map


def centred_blocks(images: np.ndarray, p: int, nibbles: bool) -> np.ndarray:
    """Twice the distance from the middle of the range, (n, N, V): odd integers for bytes and nibbles."""
    blocks = to_blocks(images, p).astype(np.float64)
    if nibbles:
        high, low = blocks // 16, blocks % 16
        return 2 * np.concatenate([high, low], axis=2) - 15
    return 2 * blocks - 255


def to_blocks(images: np.ndarray, p: int) -> np.ndarray:
    """(n, H, W, 3) to (n, N, B), values in the order C, h, w of a convolution's weight, by slicing."""
    side = images.shape[1] // p
    blocks = [
        images[:, row * p : (row + 1) * p, column * p : (column + 1) * p].transpose(0, 3, 1, 2).reshape(len(images), -1)
        for row in range(side)
        for column in range(side)
    ]
    return np.stack(blocks, axis=1)


@pytest.mark.parametrize("variant", MAPPED)
@given(secret=secrets, geometry=geometries)
@settings(max_examples=4, deadline=None)
def test_affine_map_describes_encryption(variant, secret, geometry):
    """y_t = M (s_t * x_{kb[t]}[kp_t]), one position at a time, on bytes or nibbles centred on their middle."""
    size, p = geometry
    cipher = cipher_of(variant, Key(secret), size, p)
    affine, plain = cipher.affine_map(), images_of(size)
    x = centred_blocks(plain, p, affine.nibbles)
    y = centred_blocks(cipher.encrypt_exactly(plain), p, affine.nibbles)
    blocks, values = (size // p) ** 2, 3 * p * p * (2 if affine.nibbles else 1)
    assert sorted(affine.block_permutation) == list(range(blocks))
    assert affine.per_position == (affine.value_permutation.shape == (blocks, values))
    assert affine.sign.shape == affine.value_permutation.shape
    assert set(np.unique(affine.sign)) <= {-1, 1}
    for t in range(blocks):
        order = affine.value_permutation[t] if affine.per_position else affine.value_permutation
        sign = affine.sign[t] if affine.per_position else affine.sign
        assert sorted(order) == list(range(values))
        expected = x[:, affine.block_permutation[t]][:, order] * sign
        if affine.matrix is not None:
            expected = expected @ affine.matrix.T
        np.testing.assert_allclose(y[:, t], expected, rtol=0, atol=0 if affine.matrix is None else 1e-9)


STEPS = {  # scramble, move values inside blocks, invert: the table of the specification
    "none": (False, False, False),
    "shuffle": (False, True, False),
    "scramble": (True, False, False),
    "block": (True, True, False),
    "np": (False, False, True),
    "block_np": (True, True, True),
    "pixel_position": (True, True, False),
    "etc": (True, True, True),
    "subblock_etc": (True, True, True),
    "subblock_etc per block": (True, True, True),
    "le": (False, True, True),
    "ele": (True, True, True),
    "pe": (False, True, True),
    "pe grey": (False, False, True),
    "restricted": (True, True, False),
}


@pytest.mark.parametrize("variant", STEPS)
def test_each_cipher_takes_its_steps_and_no_others(variant, key):
    cipher = cipher_of(variant, key, 64, 8)  # 16 sub-blocks, of which some are inverted
    affine = cipher.affine_map()
    values = affine.value_permutation.shape[-1]
    taken = (
        affine.block_permutation.tolist() != list(range(64)),
        bool((affine.value_permutation != np.arange(values)).any()),
        bool((affine.sign < 0).any()),
    )
    assert taken == STEPS[variant]
    assert (cipher.scrambles, cipher.inverts) == (taken[0], taken[2])  # what attackers are told


@pytest.mark.parametrize("variant", ["np", "block_np"])
def test_negative_positive_inverts_exactly_half(variant, key):
    assert (cipher_of(variant, key, 32).affine_map().sign < 0).sum() == 24


# what a cipher says of itself, which attacks and adaptation go by

CLAIMS = {
    "uniform": {"none", "shuffle", "scramble", "block", "np", "block_np"},
    "turns_blocks": {"etc"},
    "keeps_pixels": {"pe"},
    "replaces_values": {"ffx"},
    "makes_tokens": {"neuracrypt"},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_ciphers_claim_what_their_papers_say(claim, key):
    claimed = {name for name in PUBLISHED if getattr(cipher_of(name, key), claim)}
    assert claimed == CLAIMS[claim]


def test_what_no_map_describes(key):
    unmapped = {name for name in PUBLISHED if cipher_of(name, key).affine_map() is None}
    assert unmapped == {"ffx", "disposable", "neuracrypt"}
    assert cipher_of("ffx", key).image_map(0) is None


@pytest.mark.parametrize("variant", of_all(lambda cipher: cipher.uniform))
def test_uniform_choices_are_uniform_over_keys(variant):
    """4 blocks of one pixel: 24 orders of the blocks, 6 of the three values, 3 ways to invert half of them."""
    maps = [cipher_of(variant, Key(number.to_bytes(32, "big")), 2, 1).affine_map() for number in range(1200)]
    for part, count in (("block_permutation", 24), ("value_permutation", 6), ("sign", 3)):
        counts = list(Counter(getattr(each, part).tobytes() for each in maps).values())
        assert len(counts) == 1 or (len(counts) == count and chisquare(counts).pvalue > 1e-4), part


@pytest.mark.parametrize("variant", of_all(lambda cipher: cipher.turns_blocks))
def test_blocks_are_turned_as_a_whole(variant, key):
    cipher, plain = cipher_of(variant, key), images_of(16, count=1)
    transforms_in(plain[0], encrypt(cipher, plain)[0], cipher.image_map(0).block_permutation, 4)


@pytest.mark.parametrize("variant", of_all(lambda cipher: cipher.keeps_pixels))
def test_values_stay_in_their_pixels(variant, key):
    plain = images_of(16)
    encrypted = encrypt(cipher_of(variant, key), plain)
    folded = (np.sort(np.minimum(images, 255 - images), axis=-1) for images in (plain, encrypted))
    np.testing.assert_array_equal(*folded)


@pytest.mark.parametrize("variant", of_all(lambda cipher: cipher.replaces_values))
def test_a_table_replaces_values_at_some_positions_of_every_block(variant, key):
    plain = images_of(64, count=4)
    x, y = (to_blocks(images, 4).reshape(-1, 48) for images in (plain, encrypt(cipher_of(variant, key, 64), plain)))
    replaced = (x != y).any(axis=0)
    assert 0 < replaced.sum() < 48
    pairs = set(zip(x[:, replaced].ravel().tolist(), y[:, replaced].ravel().tolist(), strict=True))
    assert len(pairs) == len({before for before, _ in pairs}) == len({after for _, after in pairs}) == 256


@pytest.mark.parametrize("variant", IMAGE_KEYED)
def test_the_map_of_one_image_describes_its_encryption(variant, key):
    cipher = cipher_of(variant, key)
    affine = cipher.image_map(7)
    if affine is None:
        return
    plain = images_of(16, count=1)
    flat = FlatMap.of(affine, 16, 4)
    np.testing.assert_array_equal(flat.encrypt(plain), cipher.encrypt(plain, np.array([7])))


# every cipher against a slow reference that is written from the table of the specification


def stream(key: Key, *purpose: str | int) -> KeyStream:
    return KeyStream(key, purpose)


def block_at(image: np.ndarray, number: int, p: int) -> np.ndarray:
    row, column = divmod(number, image.shape[1] // p)
    return image[row * p : (row + 1) * p, column * p : (column + 1) * p]


def blockwise(image: np.ndarray, p: int, source, change) -> np.ndarray:
    """Ciphertext block t is ``change(plain block source(t), t)``."""
    result = np.full_like(image, 77)
    for t in range((image.shape[0] // p) ** 2):
        block_at(result, t, p)[:] = change(block_at(image, source[t], p).copy(), t)
    return result


def shuffled(block: np.ndarray, order) -> np.ndarray:
    flat = [block[h, w, c] for c in range(3) for h in range(len(block)) for w in range(len(block))]
    return unflatten([flat[source] for source in order], len(block))


def unflatten(flat: list, p: int) -> np.ndarray:
    block = np.zeros((p, p, 3), np.uint8)
    for j, value in enumerate(flat):
        block[j // p % p, j % p, j // (p * p)] = value
    return block


def inverted(block: np.ndarray, mask) -> np.ndarray:
    p = len(block)
    flat = [block[h, w, c] for c in range(3) for h in range(p) for w in range(p)]
    return unflatten([255 - int(value) if chosen else value for value, chosen in zip(flat, mask, strict=True)], p)


def turned(block: np.ndarray, orientation: int, negative: int, colours: int) -> np.ndarray:
    """One of the 96 transforms of EtC: flip, quarter turns, inversion, colour order."""
    block = np.fliplr(block) if orientation >= 4 else block
    block = np.rot90(block, orientation % 4)
    block = 255 - block if negative else block
    return block[:, :, list(permutations(range(3)))[colours]]


def nibbles_of(piece: np.ndarray) -> list[int]:
    m = len(piece)
    places = [(c, h, w) for c in range(3) for h in range(m) for w in range(m)]
    return [int(piece[h, w, c]) // 16 for c, h, w in places] + [int(piece[h, w, c]) % 16 for c, h, w in places]


def learnable(piece: np.ndarray, reverse, order) -> np.ndarray:
    """Tanaka: keyed nibbles v to 15 - v, all of them permuted, pairs of high and low recombined."""
    nibbles = [15 - v if chosen else v for v, chosen in zip(nibbles_of(piece), reverse, strict=True)]
    nibbles = [nibbles[source] for source in order]
    half = len(nibbles) // 2
    return unflatten([16 * high + low for high, low in zip(nibbles[:half], nibbles[half:], strict=True)], len(piece))


def ref_permutation(key, name, image, p, number, options):
    size, blocks, values = len(image), (len(image) // p) ** 2, 3 * p * p
    kb = stream(key, name, "scramble", p, size).permutation(blocks) if "b" in STEPS_OF[name] else range(blocks)
    kp = stream(key, name, "shuffle", p, size).permutation(values) if "s" in STEPS_OF[name] else range(values)
    negative = stream(key, name, "invert", p, size).half_mask(values) if "n" in STEPS_OF[name] else [False] * values
    return blockwise(image, p, kb, lambda block, t: inverted(shuffled(block, kp), negative))


STEPS_OF = {"none": "", "shuffle": "s", "scramble": "b", "block": "bs", "np": "n", "block_np": "bsn"}


def ref_pixel_position(key, name, image, p, number, options):
    kb = stream(key, name, "scramble", p, len(image)).permutation((len(image) // p) ** 2)
    order = stream(key, name, "pixels", p, len(image)).permutation(p * p)

    def change(block, t):
        pixels = [tuple(block[i // p, i % p]) for i in range(p * p)]
        return np.array([pixels[source] for source in order]).reshape(p, p, 3)

    return blockwise(image, p, kb, change)


def ref_etc(key, name, image, p, number, options):
    blocks = (len(image) // p) ** 2
    kb = stream(key, name, "scramble", p, len(image)).permutation(blocks)
    draws = stream(key, name, "transform", p, len(image))
    orientation, negative, colours = (draws.choices(bound, blocks) for bound in (8, 2, 6))
    return blockwise(image, p, kb, lambda block, t: turned(block, orientation[t], negative[t], colours[t]))


def ref_subblock_etc(key, name, image, p, number, options):
    m = options.get("sub_block_size", 2)
    kb = stream(key, name, "scramble", p, len(image)).permutation((len(image) // p) ** 2)

    def change(block, t):
        scope = ("block", t) if options.get("key_scope") == "block" else ("shared",)
        draws, pieces = stream(key, name, "inside", m, *scope, p, len(image)), (p // m) ** 2
        order = draws.permutation(pieces)
        orientation, negative, colours = (draws.choices(bound, pieces) for bound in (8, 2, 6))
        return blockwise(block, m, order, lambda piece, s: turned(piece, orientation[s], negative[s], colours[s]))

    return blockwise(image, p, kb, change)


def ref_le(key, name, image, p, number, options):
    m = options.get("sub_block_size", 2)
    draws = stream(key, name, "nibbles", m, p, len(image))
    reverse, order = draws.choices(2, 6 * m * m), draws.permutation(6 * m * m)
    return blockwise(image, m, range((len(image) // m) ** 2), lambda piece, s: learnable(piece, reverse, order))


def ref_ele(key, name, image, p, number, options):
    kb = stream(key, name, "scramble", p, len(image)).permutation((len(image) // p) ** 2)

    def change(block, t):
        draws = stream(key, name, "nibbles", t, p, len(image))
        reverse, order = draws.choices(2, 6 * p * p), draws.permutation(6 * p * p)
        return learnable(block, reverse, order)

    return blockwise(image, p, kb, change)


def ref_pe(key, name, image, p, number, options):
    size, scope = len(image), ("image", number) if options.get("key_scope") == "image" else ()
    negative = stream(key, name, "invert", *scope, p, size).choices(2, size * size * 3).tolist()
    order = stream(key, name, "colour", *scope, p, size).choices(6, size * size).tolist()
    result = np.empty_like(image)
    for row in range(size):
        for column in range(size):
            t = row // p * (size // p) + column // p
            inside = row % p * p + column % p
            colours = list(permutations(range(3)))[order[t * p * p + inside]]
            for c in range(3):
                v = int(image[row, column, colours[c] if options.get("colour_order", True) else c])
                result[row, column, c] = 255 - v if negative[t * 3 * p * p + c * p * p + inside] else v
    return result


def ref_ffx(key, name, image, p, number, options):
    table = stream(key, name, "values", p, len(image)).permutation(256).tolist()
    chosen = stream(key, name, "positions", p, len(image)).half_mask(3 * p * p)
    result = image.copy()
    for row, column, c in np.ndindex(image.shape):
        if chosen[c * p * p + row % p * p + column % p]:
            result[row, column, c] = table[image[row, column, c]]
    return result


def ref_restricted(key, name, image, p, number, options):
    size, scope = len(image), ("image", number) if name == "disposable" else ()

    def some_stay(step: str, count: int, share: float) -> list[int]:
        draws = stream(key, name, step, *scope, p, size)
        chosen = draws.permutation(count).tolist()
        moving = sorted(chosen[round(share * count) :])
        result = list(range(count))
        for place, source in zip(moving, draws.permutation(len(moving)).tolist(), strict=True):
            result[place] = moving[source]
        return result

    kb = some_stay("scramble", (size // p) ** 2, options.get("fixed_blocks", 0.61))
    kp = some_stay("shuffle", 3 * p * p, options.get("fixed_values", 0.651))
    return blockwise(image, p, kb, lambda block, t: shuffled(block, kp))


REFERENCES = dict.fromkeys(STEPS_OF, ref_permutation) | {
    "pixel_position": ref_pixel_position,
    "etc": ref_etc,
    "subblock_etc": ref_subblock_etc,
    "le": ref_le,
    "ele": ref_ele,
    "pe": ref_pe,
    "ffx": ref_ffx,
    "restricted": ref_restricted,
    "disposable": ref_restricted,
}
PUBLISHED = {*REFERENCES, "orthogonal", "neuracrypt"}  # the ciphers of the literature, of which more is known
REFERENCED = [variant for variant, (name, _) in VARIANTS.items() if name in REFERENCES]


@pytest.mark.parametrize("variant", REFERENCED)
@pytest.mark.parametrize("geometry", [(16, 4), (24, 8)])
def test_encryption_is_the_definition(variant, geometry):
    key = Key(bytes(range(100, 132)))
    name, options = VARIANTS[variant]
    plain, ids = images_of(geometry[0], count=2, seed=5), [3, 2**40]
    encrypted = cipher_of(variant, key, *geometry).encrypt(plain, np.array(ids))
    for image, number, ciphertext in zip(plain, ids, encrypted, strict=True):
        expected = REFERENCES[name](key, name, image, geometry[1], number, options)
        np.testing.assert_array_equal(ciphertext, expected)


def test_learnable_encryption_of_the_paper_has_4_px_pieces():
    key, plain = Key(bytes(range(100, 132))), images_of(16, count=1)
    options = {"sub_block_size": 4}
    encrypted = make_cipher("le", key, 16, 8, **options).encrypt(plain)
    np.testing.assert_array_equal(encrypted[0], ref_le(key, "le", plain[0], 8, 0, options))


def test_scrambling_moves_whole_blocks_and_shuffling_stays_inside(key):
    plain = images_of(16, count=1)
    blocks = to_blocks(plain, 4)[0]
    scrambled = to_blocks(make_cipher("scramble", key, 16, 4).encrypt(plain), 4)[0]
    moved = to_blocks(make_cipher("shuffle", key, 16, 4).encrypt(plain), 4)[0]
    assert {block.tobytes() for block in scrambled} == {block.tobytes() for block in blocks}
    np.testing.assert_array_equal(np.sort(moved, 1), np.sort(blocks, 1))


# orthogonal


@pytest.mark.parametrize("side", [1, 4, 8])
def test_orthogonal_is_its_formula(side, key):
    """Each ciphertext block is Q (x - 127.5) + 127.5, Q orthogonal to 1e-5 and the same for all blocks."""
    cipher = make_cipher("orthogonal", key, 16, side)
    q = cipher.affine_map().matrix
    np.testing.assert_allclose(q @ q.T, np.eye(3 * side**2), atol=1e-5)
    plain = images_of(16)
    x, exact = to_blocks(plain, side), to_blocks(cipher.encrypt_exactly(plain), side)
    stored = cipher.encrypt(plain)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, cipher.encrypt_exactly(plain).astype(np.float32))
    half = make_cipher("orthogonal", key, 16, side, storage="float16").encrypt(plain)
    np.testing.assert_array_equal(half, cipher.encrypt_exactly(plain).astype(np.float16))
    for image in range(len(plain)):
        for t in range(x.shape[1]):
            np.testing.assert_allclose(exact[image, t], q @ (x[image, t] - 127.5) + 127.5, rtol=0, atol=1e-9)
            # an orthogonal map keeps lengths and, between blocks, angles
            assert np.isclose(np.linalg.norm(exact[image, t] - 127.5), np.linalg.norm(x[image, t] - 127.5), rtol=1e-5)


def test_orthogonal_matrices_are_haar_distributed():
    """In three dimensions a Haar column is uniform on the sphere, so that any entry is uniform in [-1, 1]
    (Archimedes), and the trace has mean 0 and variance 1 (Diaconis and Shahshahani); QR alone has neither."""
    drawn = [make_cipher("orthogonal", Key(bytes(30) + bytes(divmod(i, 256))), 8, 1) for i in range(600)]
    matrices = np.stack([cipher.affine_map().matrix for cipher in drawn])
    for row, column in np.ndindex(3, 3):
        assert kstest(matrices[:, row, column], "uniform", (-1, 2)).pvalue > 1e-4
    traces = np.trace(matrices, axis1=1, axis2=2)
    assert abs(traces.mean()) < 4 / 600**0.5
    assert abs(traces.var() - 1) < 0.25
    assert chisquare(np.bincount((np.linalg.det(matrices) > 0).astype(int))).pvalue > 1e-4


def test_quantised_orthogonal_errs_no_more_than_its_step(key):
    """Rounding y / 4 moves y by at most 2 a value, hence x by at most 2 sqrt(B) a block; rounding x again, at most
    doubles that. The mean square error of uniform rounding is 16 / 12, and 1 / 12 more after the second rounding."""
    cipher = make_cipher("orthogonal", key, 16, 4, storage="uint8")
    plain = np.random.default_rng(0).integers(64, 192, (20, 16, 16, 3), dtype=np.uint8)
    exact = cipher.encrypt_exactly(plain)
    assert exact.min() >= 0  # nothing is clipped
    assert exact.max() <= 255
    encrypted = cipher.encrypt(plain)
    assert encrypted.dtype == np.uint8
    assert not cipher.lossless
    assert cipher.invertible
    assert np.abs(encrypted - exact).max() <= 0.5
    error = to_blocks(cipher.decrypt(encrypted), 4).astype(float) - to_blocks(plain, 4)
    assert np.linalg.norm(error, axis=2).max() <= 4 * 48**0.5
    assert abs(np.sqrt((error**2).mean()) - (16 / 12 + 1 / 12) ** 0.5) < 0.03


def test_quantised_orthogonal_is_a_quarter_of_the_exact_one(key):
    plain = images_of(16)
    quarter, full = (make_cipher("orthogonal", key, 16, 4, storage=storage) for storage in ("uint8", "float32"))
    expected = (full.encrypt_exactly(plain) - 127.5) / 4 + 127.5
    np.testing.assert_allclose(quarter.encrypt_exactly(plain), expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(quarter.encrypt(plain), np.clip(np.round(expected), 0, 255))
    # an image chosen with the key: a row of Q as a picture reaches sqrt(2 B / pi) standard deviations, beyond 4
    row = full.affine_map().matrix[0].reshape(3, 4, 4).transpose(1, 2, 0)
    chosen = np.tile(np.where(row > 0, 255, 0).astype(np.uint8), (4, 4, 1))[None]
    assert quarter.encrypt_exactly(chosen).max() > 256
    assert quarter.encrypt(chosen).max() == 255


@pytest.mark.parametrize(("size", "p"), [(32, 4), (64, 16)])
def test_coordinates_of_the_largest_blocks_are_standard_normal(size, p):
    """White is as far from the middle as a block can be. 127.5 Q 1 is a random direction of length 127.5 sqrt(B), so
    that beyond 4 * 127.5, where uint8 clips, are 6.3e-5 of its values over all keys; photographs are less extreme."""
    white = np.full((1, size, size, 3), 255, np.uint8)
    count = 60 if p == 4 else 4
    ciphers = [make_cipher("orthogonal", Key(bytes(31) + bytes([i])), size, p, storage="uint8") for i in range(count)]
    coordinates = np.stack([to_blocks(each.encrypt_exactly(white), p)[0, 0] - 127.5 for each in ciphers]) * 4 / 127.5
    assert kstest(coordinates.ravel(), "norm").pvalue > 1e-3
    assert (np.abs(coordinates) > 4).mean() < 1e-3
    for each in ciphers[:4]:
        exact = each.encrypt_exactly(photographs(8, size))
        assert exact.min() >= -0.5
        assert exact.max() <= 255.5


def test_orthogonal_of_the_batch_is_that_of_its_images_to_the_bit(key):
    # matrix products take other ways for other sizes, which must not show
    cipher = make_cipher("orthogonal", key, 32, 8)
    plain = images_of(32, count=33)
    together = cipher.encrypt_exactly(plain)
    for start, stop in ((0, 1), (1, 4), (4, 33)):
        np.testing.assert_array_equal(cipher.encrypt_exactly(plain[start:stop]), together[start:stop])


# neuracrypt


@pytest.mark.parametrize(("size", "p", "width"), [(16, 4, 16), (24, 8, 10)])
def test_neuracrypt_is_its_network_in_torch(size, p, width, key):
    cipher = make_cipher("neuracrypt", key, size, p, token_width=width)
    first, hidden, positions, last = (torch.tensor(np.array(part)).double() for part in cipher._encoders[0])
    assert first.shape == (3 * p * p, width)
    assert hidden.shape == (4, width, width)
    assert positions.shape == ((size // p) ** 2, width)
    assert last.shape == (width, width)
    plain, ids = images_of(size), [0, 5, 2**50]
    tokens = cipher.encrypt(plain, np.array(ids))
    assert tokens.shape == (3, *cipher.shape) == (3, (size // p) ** 2, width)
    assert tokens.dtype == np.float16 == cipher.dtype
    convolution = torch.nn.Conv2d(3, width, p, p, bias=False).double()
    convolution.weight.data = first.T.reshape(width, 3, p, p).contiguous()
    for image, number, encrypted in zip(plain, ids, tokens, strict=True):
        x = torch.tensor(image).permute(2, 0, 1)[None].double() / 127.5 - 1
        features = functional.relu(convolution(x))
        for weights in hidden:
            layer = torch.nn.Conv2d(width, width, 1, bias=False).double()
            layer.weight.data = weights.T.reshape(width, width, 1, 1).contiguous()
            norm = torch.nn.BatchNorm2d(width, affine=False).double().train()  # a batch of one image
            features = functional.relu(norm(layer(features)))
        expected = functional.relu(features.flatten(2)[0].T + positions) @ last
        order = KeyStream(key, ("neuracrypt", "order", "image", number, p, size)).permutation(len(expected))
        np.testing.assert_allclose(encrypted, expected[order].detach().numpy(), rtol=2e-3, atol=2e-3)


def test_neuracrypt_tokens_of_equal_images_are_the_same_in_another_order(key):
    cipher = cipher_of("neuracrypt", key)
    same = np.repeat(images_of(16, count=1), 2, axis=0)
    first, second = cipher.encrypt(same, np.array([1, 2]))
    assert differing(first, second) > 0.5
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, second.tolist()))
    assert len(set(map(tuple, first.tolist()))) == 16


def neuracrypt_on(key, plain: np.ndarray, replace, size: int = 16, p: int = 4) -> np.ndarray:
    """Tokens in the order of the patches by a NeuraCrypt whose encoder ``replace`` made, of a colour given thrice."""
    cipher = make_cipher("neuracrypt", key, size, p, token_width=16)
    cipher.__dict__["_encoders"] = [replace]
    tokens = cipher.encrypt(plain, np.arange(len(plain)))
    return np.stack([in_order(cipher, each, number) for number, each in enumerate(tokens)])


def in_order(cipher, tokens: np.ndarray, number: int) -> np.ndarray:
    order = KeyStream(cipher._key, (cipher.name, "order", "image", number, 4, 16)).permutation(len(tokens))
    return tokens[np.argsort(order)]


@pytest.mark.parametrize(("name", "parts"), [
    ("neuracrypt_gray", [(0.299, 0.587, 0.114)]),
    ("neuracrypt_per_channel", [(1, 0, 0), (0, 1, 0), (0, 0, 1)]),
])  # fmt: skip
def test_neuracrypt_of_colours_is_neuracrypt_of_its_parts(name, parts, key):
    """An encoder of p^2 inputs sees a mixture of the colours as one of 3 p^2 does whose weights are mixed so."""
    cipher, plain = make_cipher(name, key, 16, 4, token_width=16), images_of(16)
    tokens = np.stack(
        [in_order(cipher, each, number) for number, each in enumerate(cipher.encrypt(plain, np.arange(3)))]
    )
    assert tokens.shape == (3, 16, 16 * len(parts))
    assert len(cipher._encoders) == len(parts)
    for number, (encoder, shares) in enumerate(zip(cipher._encoders, parts, strict=True)):
        first, *others = encoder
        wide = np.concatenate([share * first for share in shares]).astype(np.float32)
        expected = neuracrypt_on(key, plain, (wide, *others))
        np.testing.assert_allclose(tokens[:, :, 16 * number : 16 * number + 16], expected, rtol=4e-3, atol=4e-3)
    if len(parts) == 3:
        assert not np.allclose(cipher._encoders[0][0], cipher._encoders[1][0])


def test_neuracrypt_has_no_decryption(key):
    cipher = cipher_of("neuracrypt", key)
    assert not cipher.invertible
    assert not cipher.lossless
    with pytest.raises(UsageError, match="'neuracrypt' has no decryption"):
        cipher.decrypt(encrypt(cipher, images_of(16)), np.arange(3))


# EtC, and the traps of public code around it


def transforms_in(plain: np.ndarray, encrypted: np.ndarray, blocks: np.ndarray, p: int) -> list[tuple[int, int, int]]:
    """Which of the 96 transforms took each plain block to its ciphertext: found by trying all, from pixels alone."""
    found = []
    for t, source in enumerate(blocks):
        block, target = block_at(plain, source, p), block_at(encrypted, t, p)
        fits = [
            (orientation, negative, colours)
            for orientation, negative, colours in np.ndindex(8, 2, 6)
            if np.array_equal(turned(block, orientation, negative, colours), target)
        ]
        assert len(fits) == 1, f"block {t} is {len(fits)} of the 96 transforms of its plain block"
        found += fits
    return found


def require_uniform(found: list[tuple[int, int, int]]) -> None:
    for choice, bound in zip(zip(*found, strict=True), (8, 2, 6), strict=True):
        counts = np.bincount(choice, minlength=bound)
        assert len(counts) == bound
        assert chisquare(counts).pvalue > 1e-4, counts


@pytest.mark.parametrize("variant", ["etc", "subblock_etc per block"])
def test_all_orientations_inversions_and_colour_orders_occur_alike(variant, key):
    """8 x 2 x 6 choices, read off the pixels; a rotation key that reaches 4 orientations fails here."""
    p = 4
    options = {"key_scope": "block", "sub_block_size": p} if variant != "etc" else {}
    name = VARIANTS[variant][0]
    cipher = make_cipher(name, key, 64, p, **options)  # one sub-block a block, so that both ciphers are EtC
    plain = images_of(64, count=1)
    found = transforms_in(plain[0], cipher.encrypt(plain)[0], cipher.affine_map().block_permutation, p)
    require_uniform(found)


def test_the_96_transforms_are_drawn_independently(key):
    """Chi-square over all 96 combinations at 6,400 positions, from the affine map."""
    p, affine = 2, make_cipher("etc", key, 160, 2).affine_map()
    flat = np.arange(12).reshape(3, p, p)  # C, h, w
    pixels = [np.rot90(flat, turns, axes=(1, 2)) for turns in range(4)]
    pixels += [np.rot90(flat.transpose(0, 2, 1), turns, axes=(1, 2)) for turns in range(4)]  # transposed: the others
    numbers = {}
    for square in pixels:
        for colours in permutations(range(3)):
            numbers[square[list(colours)].tobytes()] = len(numbers)
    assert len(numbers) == 48
    drawn = [numbers[order.astype(flat.dtype).tobytes()] for order in affine.value_permutation]
    assert (affine.sign == affine.sign[:, :1]).all()  # a block is inverted as a whole or not at all
    assert chisquare(np.bincount(2 * np.array(drawn) + (affine.sign[:, 0] < 0), minlength=96)).pvalue > 1e-4


def test_four_orientations_would_be_noticed():
    """The trap itself: 0..3 quarter turns, without flips."""
    random = np.random.default_rng(0)
    found = [(int(random.integers(4)), int(random.integers(2)), int(random.integers(6))) for _ in range(256)]
    with pytest.raises(AssertionError):
        require_uniform(found)


@pytest.mark.parametrize("variant", ["etc", "subblock_etc", "subblock_etc per block", "pe", "pixel_position"])
def test_no_channel_is_duplicated_or_lost(variant, key):
    """Each colour of the plain image has levels of its own, which must all be found again, as often as before."""
    plain = images_of(16, count=1) % 32 + np.array([0, 64, 32], np.uint8)  # inverted ones are 128 and above
    encrypted = cipher_of(variant, key).encrypt(plain)
    require_same_channels(plain, encrypted)


def require_same_channels(plain: np.ndarray, encrypted: np.ndarray) -> None:
    for channel in range(3):
        levels = np.where(encrypted >= 128, 255 - encrypted, encrypted)
        own = levels[levels // 32 == (0, 2, 1)[channel]]
        np.testing.assert_array_equal(np.sort(own), np.sort(plain[..., channel].ravel()))


def test_colours_assigned_in_place_would_be_noticed():
    """The trap itself: the first assignment overwrites what the second one reads, and one colour is lost."""
    plain = images_of(16, count=1) % 32 + np.array([0, 64, 32], np.uint8)
    encrypted = plain.copy()
    encrypted[..., 0] = encrypted[..., 1]
    encrypted[..., 1] = encrypted[..., 0]
    with pytest.raises(AssertionError):
        require_same_channels(plain, encrypted)


def test_pe_inverts_and_orders_alike_over_an_image(key):
    plain = images_of(64, count=1) % 32 + np.array([0, 64, 32], np.uint8)
    encrypted = cipher_of("pe", key, 64).encrypt(plain)[0].reshape(-1, 3)
    negative = encrypted >= 128
    for channel in range(3):
        assert chisquare(np.bincount(negative[:, channel].astype(int))).pvalue > 1e-4
    colours = (np.where(negative, 255 - encrypted, encrypted) // 32) @ np.array([9, 3, 1])
    counts = np.bincount(colours)
    assert chisquare(counts[counts > 0]).pvalue > 1e-4
    assert (counts > 0).sum() == 6


# restricted


@pytest.mark.parametrize("share", [0.0, 0.25, 0.61, 0.9, 1.0])
def test_restricted_leaves_its_share_in_place(share, key):
    affine = make_cipher("restricted", key, 32, 4, fixed_blocks=share, fixed_values=share).affine_map()
    for permutation in (affine.block_permutation, affine.value_permutation):
        count = len(permutation)
        fixed = int((permutation == np.arange(count)).sum())
        assert fixed >= round(share * count)  # some of the moving ones may fall into their own places
        # a random permutation has 1 fixed point on average, more than 8 once in a million
        assert fixed <= round(share * count) + 8


def test_restricted_of_share_one_is_plain_and_of_share_zero_moves_all(key):
    plain = images_of(16)
    still = make_cipher("restricted", key, 16, 4, fixed_blocks=1.0, fixed_values=1.0)
    np.testing.assert_array_equal(still.encrypt(plain), plain)
    affine = make_cipher("restricted", key, 64, 8, fixed_blocks=0.0, fixed_values=0.0).affine_map()
    assert (affine.block_permutation == np.arange(64)).sum() < 8
    assert (affine.value_permutation == np.arange(192)).sum() < 8


def test_default_shares_are_those_of_the_paper(key):
    """120 of 196 blocks and 500 of 768 values at 224 px; which of them is keyed."""
    options = CIPHERS["restricted"].options
    assert round(options["fixed_blocks"] * 196) == 120
    assert round(options["fixed_values"] * 768) == 500
    from ppvit.config import Cipher as Settings

    for name in ("restricted", "disposable"):
        for option, default in CIPHERS[name].options.items():
            assert Settings.model_fields[option].default == default


def test_which_entries_stay_is_keyed(key, other_key):
    moved = [
        make_cipher("restricted", each, 32, 4).affine_map().value_permutation != np.arange(48)
        for each in (key, other_key)
    ]
    assert (moved[0] != moved[1]).any()


def test_every_entry_stays_as_often_as_others():
    """Half of 12 values stay; over 1,000 images of `disposable` each value should have stayed alike."""
    cipher = make_cipher("disposable", Key(bytes(32)), 8, 2, fixed_blocks=1.0, fixed_values=0.5)
    plain = np.zeros((1000, 8, 8, 3), np.uint8)
    plain[:, :2, :2] = np.arange(12).reshape(3, 2, 2).transpose(1, 2, 0)
    first = to_blocks(cipher.encrypt(plain, np.arange(1000)), 2)[:, 0]
    stayed = (first == np.arange(12)).sum(0)
    assert (((first == np.arange(12)).sum(1)) >= 6).all()
    assert chisquare(stayed).pvalue > 1e-4
    counts = [np.bincount(first[:, j], minlength=12) for j in range(12)]  # and moves to all places alike
    for j, count in enumerate(counts):
        assert chisquare(np.delete(count, j)).pvalue > 1e-4


# key spaces, from the specification's counts in exact integers


def _space(variant: str, blocks: int, p: int) -> int:
    b, m = 3 * p * p, VARIANTS[variant][1].get("sub_block_size", 2)
    moved, pieces = factorial(blocks), (p // m) ** 2
    half = comb(b, b // 2)
    inside = factorial(pieces) * 96**pieces
    return {
        "none": 1,
        "shuffle": factorial(b),
        "scramble": moved,
        "block": moved * factorial(b),
        "np": half,
        "block_np": moved * factorial(b) * half,
        "pixel_position": moved * factorial(p * p),
        "etc": moved * 96**blocks,
        "subblock_etc": moved * inside,
        "subblock_etc per block": moved * inside**blocks,
        "subblock_etc 1 px": moved * inside**blocks,
        "le": 2 ** (6 * m * m) * factorial(6 * m * m),
        "le 1 px": 2**6 * factorial(6),
        "ele": moved * (2 ** (6 * p * p) * factorial(6 * p * p)) ** blocks,
        "pe": 48 ** (blocks * p * p),
        "pe grey": 8 ** (blocks * p * p),
        "ffx": half * factorial(256),
        "restricted": factorial(blocks)
        // factorial(round(0.61 * blocks))
        * factorial(b)
        // factorial(round(0.651 * b)),
    }[variant]


@pytest.mark.parametrize("variant", [*STEPS, "ffx"])
def test_key_space(variant, key):
    assert cipher_of(variant, key).key_space_bits == pytest.approx(log2(_space(variant, 16, 4)), abs=1e-6)


# errors


@pytest.mark.parametrize(
    ("name", "geometry", "options", "told"),
    [
        ("block", (32, 5), {}, "block_size 5 does not divide"),
        ("etc", (32, 3), {}, "block_size 3 does not divide"),
        ("neuracrypt", (32, 5), {}, "block_size 5 does not divide"),
        ("block_npp", (32, 4), {}, "did you mean 'block_np'"),
        ("aes", (32, 4), {}, "unknown cipher.name 'aes'; there are none, shuffle"),
        ("le", (32, 4), {"sub_block_size": 3}, "sub_block_size 3 does not divide cipher.block_size 4"),
        ("le", (32, 4), {"sub_block_size": 8}, "sub_block_size 8 does not divide cipher.block_size 4"),
        ("le", (32, 4), {"sub_block_size": 0}, "sub_block_size 0 does not divide cipher.block_size 4"),
        ("subblock_etc", (32, 4), {"sub_block_size": 3}, "sub_block_size 3 does not divide cipher.block_size 4"),
        ("subblock_etc", (32, 4), {"key_scope": "image"}, "'image' does not exist for cipher 'subblock_etc'; use shar"),
        ("pe", (32, 4), {"key_scope": "block"}, "'block' does not exist for cipher 'pe'; use shared or image"),
        ("pe", (32, 4), {"key_scope": "none"}, "key_scope 'none' does not exist"),
        ("orthogonal", (32, 4), {"storage": "float64"}, "'float64' must be float32, float16 or uint8"),
        ("restricted", (32, 4), {"fixed_blocks": 1.5}, "fixed_blocks 1.5 must be a share"),
        ("disposable", (32, 4), {"fixed_values": -0.1}, "fixed_values -0.1 must be a share"),
        ("neuracrypt", (16, 16), {}, "needs 2 blocks or more, cipher.block_size 16 makes one"),
        ("neuracrypt", (32, 4), {"token_width": 0}, "token_width 0 must be 1 or more"),
        ("etc", (32, 4), {"storage": "uint8"}, "'etc' has no option storage"),
    ],
)
def test_geometry_and_option_errors(name, geometry, options, told, key):
    with pytest.raises(UsageError, match=told) as caught:
        make_cipher(name, key, *geometry, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_of_another_shape_or_dtype_are_refused(variant, key):
    cipher = cipher_of(variant, key)
    expected = rf"cipher '{cipher.name}' expects uint8 images of shape \(n, 16, 16, 3\), got"
    wrong = (np.zeros((1, 16, 16, 3)), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 16, 20, 3), np.uint8))
    wrong += (np.zeros((1, 3, 16, 16), np.uint8), np.zeros((1, 16, 16, 3), np.float16))
    for images in wrong:
        with pytest.raises(UsageError, match=expected):
            cipher.encrypt(images, np.zeros(1, np.int64))


@pytest.mark.parametrize("variant", INVERTIBLE)
def test_ciphertext_of_another_shape_or_dtype_is_refused(variant, key):
    cipher = cipher_of(variant, key)
    other = np.uint8 if cipher.dtype == np.float16 else np.float16
    for images in (np.zeros((1, 16, 16, 3), other), np.zeros((16, 16, 3), cipher.dtype)):
        with pytest.raises(UsageError, match=rf"expects {cipher.dtype} images of shape"):
            cipher.decrypt(images, np.zeros(1, np.int64))


@pytest.mark.parametrize("variant", IMAGE_KEYED)
def test_missing_ids_are_refused(variant, key):
    cipher, plain = cipher_of(variant, key), images_of(16)
    for ids in (None, np.arange(2)):
        with pytest.raises(UsageError, match="has a key for every image, so it needs one id for each"):
            cipher.encrypt(plain, ids)
        if cipher.invertible:
            with pytest.raises(UsageError, match="so it needs one id for each"):
                cipher.decrypt(plain, ids)


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_rebuild_the_cipher_and_hold_no_secret(variant, key):
    cipher, plain = cipher_of(variant, key), images_of(16)
    public = dict(cipher.settings)
    assert key.secret.hex() not in str(public)
    again = make_cipher(public.pop("name"), key, 16, public.pop("block_size"), **public)
    np.testing.assert_array_equal(encrypt(again, plain), encrypt(cipher, plain))


def test_plain_images_need_no_key():
    plain = images_of(16)
    np.testing.assert_array_equal(make_cipher("none", None, 16, 4).encrypt(plain), plain)


def test_ciphers_need_no_torch():
    code = "import sys, ppvit.ciphers, ppvit.data.encrypted, ppvit.ciphers.keys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


FROZEN = {
    "none": "fe7f957aec14d14f",
    "shuffle": "dbc16b0ba6fe6ba7",
    "scramble": "b806eccf0e38b2a2",
    "block": "0517e3568cb8d2cf",
    "np": "a6982ee59754d1bb",
    "block_np": "3fef8f27dc73ae3d",
    "pixel_position": "1496f9fe0002088f",
    "etc": "73d867287e752062",
    "subblock_etc": "994ae638fb1999d1",
    "subblock_etc per block": "fbbc0f4d602d96d3",
    "subblock_etc 1 px": "edd056d2f76c03fb",
    "le": "21e91cac4ca4e666",
    "le 1 px": "b8fb947c620a0fe5",
    "ele": "e1f78605bc6ad14b",
    "pe": "e061037444d61017",
    "pe grey": "7d25b00060afbf94",
    "pe per image": "f253037fe1fc1ad5",
    "pe grey per image": "3cb98529eda579aa",
    "ffx": "04ce290c03259757",
    "restricted": "1545512b66f31f08",
    "restricted mostly fixed": "98d20f5aa3f7a173",
    "restricted loose": "6ac49dfab27f8778",
    "disposable": "c150da9fec4d2e7b",
    "disposable loose": "a2143c60ce66cea2",
}


@pytest.mark.parametrize("variant", REFERENCED)
def test_frozen_ciphertext(variant, key):
    """From our own output, only to freeze it: a change here is a change of keys.VERSION, since every ciphertext of
    every user would become unreadable. That the ciphertext is right is what the tests above show."""
    plain = np.arange(2 * 768, dtype=np.uint16).reshape(2, 16, 16, 3).astype(np.uint8)
    digest = hashlib.sha256(encrypt(cipher_of(variant, key), plain).tobytes()).hexdigest()[:16]
    assert digest == FROZEN[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_images_are_no_error(variant, key):
    name, options = VARIANTS[variant]
    cipher = make_cipher(name, key, 16, 4, **options)
    encrypted = cipher.encrypt(images_of(16, count=0), np.arange(0))
    assert encrypted.shape == (0, *cipher.shape)
    assert encrypted.dtype == cipher.dtype
    if cipher.invertible:
        assert cipher.decrypt(encrypted, np.arange(0)).shape == (0, 16, 16, 3)
