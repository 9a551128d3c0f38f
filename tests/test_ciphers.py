"""Every cipher: round trip, wrong key, definition, geometry."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppvit.ciphers import CIPHERS, make_cipher
from ppvit.errors import UsageError
from ppvit.keys import Key

KEYED = [name for name, cipher in CIPHERS.items() if cipher.keyed]
STEPS = {  # scramble, shuffle, invert: the table of the specification
    "none": (False, False, False),
    "shuffle": (False, True, False),
    "scramble": (True, False, False),
    "block": (True, True, False),
    "np": (False, False, True),
    "block_np": (True, True, True),
}


def images_of(size: int, count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


geometries = st.sampled_from([(8, 2), (12, 4), (16, 4), (24, 8), (16, 16)])
secrets = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("name", CIPHERS)
@given(secret=secrets, geometry=geometries, seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_round_trip_is_bit_exact(name, secret, geometry, seed):
    cipher = make_cipher(name, Key(secret), *geometry)
    plain = images_of(geometry[0], seed=seed)
    encrypted = cipher.encrypt(plain)
    assert encrypted.dtype == np.uint8
    assert encrypted.shape == plain.shape
    np.testing.assert_array_equal(cipher.decrypt(encrypted), plain)
    np.testing.assert_array_equal(plain, images_of(geometry[0], seed=seed))  # the input is left alone


@pytest.mark.parametrize("name", CIPHERS)
@given(secret=secrets)
@settings(max_examples=10, deadline=None)
def test_batch_equals_images_one_by_one(name, secret):
    cipher = make_cipher(name, Key(secret), 16, 4)
    plain = images_of(16, count=5)
    singly = np.concatenate([cipher.encrypt(plain[i : i + 1], np.array([i])) for i in range(5)])
    np.testing.assert_array_equal(cipher.encrypt(plain, np.arange(5)), singly)


@pytest.mark.parametrize("name", KEYED)
def test_other_keys_give_other_ciphertext_and_do_not_decrypt(name, key, other_key):
    plain = images_of(32)
    right, wrong = (make_cipher(name, each, 32, 4) for each in (key, other_key))
    encrypted = right.encrypt(plain)
    assert (encrypted != wrong.encrypt(plain)).mean() > 0.4  # noise images: np alone changes half of the values
    assert (wrong.decrypt(encrypted) != plain).mean() > 0.4


@pytest.mark.parametrize("name", CIPHERS)
def test_encryption_is_the_definition(name, key):
    """Against the gather form of the specification, one block and one value at a time."""
    size, p = 16, 4
    cipher = make_cipher(name, key, size, p)
    plain = images_of(size)
    affine = cipher.affine_map()
    blocks = _to_blocks(plain, p)
    expected = np.empty_like(blocks)
    for t in range(blocks.shape[1]):
        for j in range(blocks.shape[2]):
            value = blocks[:, affine.block_permutation[t], affine.value_permutation[j]]
            expected[:, t, j] = value if affine.sign[j] > 0 else 255 - value
    np.testing.assert_array_equal(_to_blocks(cipher.encrypt(plain), p), expected)


def _to_blocks(images: np.ndarray, p: int) -> np.ndarray:
    """(n, H, W, 3) to (n, N, B), values in the order C, h, w of a convolution's weight."""
    side = images.shape[1] // p
    blocks = [
        images[:, row * p : (row + 1) * p, column * p : (column + 1) * p].transpose(0, 3, 1, 2).reshape(len(images), -1)
        for row in range(side)
        for column in range(side)
    ]
    return np.stack(blocks, axis=1)


@pytest.mark.parametrize("name", CIPHERS)
def test_each_cipher_takes_its_steps_and_no_others(name, key):
    affine = make_cipher(name, key, 32, 4).affine_map()
    scrambles, shuffles, inverts = STEPS[name]
    assert sorted(affine.block_permutation) == list(range(64))
    assert sorted(affine.value_permutation) == list(range(48))
    assert (affine.block_permutation.tolist() != list(range(64))) == scrambles
    assert (affine.value_permutation.tolist() != list(range(48))) == shuffles
    assert (affine.sign < 0).sum() == (24 if inverts else 0)  # a keyed half


def test_steps_of_other_ciphers_and_geometries_are_independent(key):
    # one key may serve several runs: what one of them reveals must not open the others
    permutations = [
        make_cipher(name, key, size, 4).affine_map().value_permutation.tolist()
        for name, size in (("shuffle", 32), ("block", 32), ("block_np", 32), ("block", 64))
    ]
    assert len({tuple(permutation) for permutation in permutations}) == 4


def test_scrambling_moves_whole_blocks_and_shuffling_stays_inside(key):
    plain = images_of(16, count=1)
    blocks = _to_blocks(plain, 4)[0]
    scrambled = _to_blocks(make_cipher("scramble", key, 16, 4).encrypt(plain), 4)[0]
    shuffled = _to_blocks(make_cipher("shuffle", key, 16, 4).encrypt(plain), 4)[0]
    assert {block.tobytes() for block in scrambled} == {block.tobytes() for block in blocks}
    np.testing.assert_array_equal(np.sort(shuffled, 1), np.sort(blocks, 1))


def test_geometry_and_shape_errors(key):
    with pytest.raises(UsageError, match="block_size 5 does not divide"):
        make_cipher("block", key, 32, 5)
    with pytest.raises(UsageError, match="did you mean 'block_np'"):
        make_cipher("block_npp", key, 32, 4)
    cipher = make_cipher("block", key, 32, 4)
    with pytest.raises(
        UsageError, match=r"expects uint8 images of shape \(n, 32, 32, 3\), got float64 \(1, 32, 32, 3\)"
    ):
        cipher.encrypt(np.zeros((1, 32, 32, 3)))
    with pytest.raises(UsageError, match=r"got uint8 \(16, 16, 3\)"):
        cipher.decrypt(np.zeros((16, 16, 3), np.uint8))


def test_ciphers_need_no_torch():
    code = "import sys, ppvit.ciphers, ppvit.encrypt, ppvit.keys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
