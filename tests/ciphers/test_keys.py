"""Keys: identity, keyring, derivation with frozen vectors, uniformity."""

from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from ppvit.ciphers import keys
from ppvit.ciphers.keys import Key
from ppvit.ciphers.stream import KeyStream
from ppvit.core.errors import PpvitError


def test_key_id_is_a_domain_separated_hash():
    # SHA-256 of b"ppvit key id v1\0" + 32 zero bytes, computed with coreutils' sha256sum
    assert Key(bytes(32)).id == "pk-8a9509fb3ae114c9"


def test_stream_is_hkdf_then_chacha20():
    # an independent derivation: RFC 5869 written out with hmac, and ChaCha20 blocks by RFC 8439's quarter rounds
    secret, purpose = bytes(range(32)), ("block", "shuffle", 4, 32)
    extracted = _hmac(bytes(32), secret)
    subkey = _hmac(extracted, b"ppvit/v1/block/shuffle/4/32\x01")
    expected = np.frombuffer(_chacha20_block(subkey, 0) + _chacha20_block(subkey, 1), "<u4")
    np.testing.assert_array_equal(KeyStream(Key(secret), purpose).uint32(32), expected)


def test_frozen_permutation():
    # a change here is a change of keys.VERSION: every ciphertext of every user would become unreadable
    purpose = ("block", "shuffle", 4, 32)
    permutation = KeyStream(Key(bytes(range(32))), purpose).permutation(12).tolist()
    assert permutation == [9, 2, 6, 8, 10, 3, 1, 4, 5, 0, 11, 7]
    assert permutation == _fisher_yates(Key(bytes(range(32))), purpose, 12)


def _fisher_yates(key: Key, purpose: tuple, size: int) -> list[int]:
    words = iter(KeyStream(key, purpose).uint32(1000).tolist())
    values = list(range(size))
    for last in range(size - 1, 0, -1):
        word = next(word for word in words if word < 2**32 // (last + 1) * (last + 1))
        values[last], values[word % (last + 1)] = values[word % (last + 1)], values[last]
    return values


def test_permutations_are_uniform():
    """Chi-square over all 24 orders of four, from 12,000 independent purposes; fails by chance once in 10,000."""
    counts = np.zeros(factorial(4))
    digits = 5 ** np.arange(4)
    places = {}
    for number in range(12_000):
        permutation = KeyStream(Key(bytes(32)), ("test", number)).permutation(4)
        counts[places.setdefault(int(permutation @ digits), len(places))] += 1
    assert chisquare(counts).pvalue > 1e-4


def test_masks_choose_every_position_alike():
    masks = np.array([KeyStream(Key(bytes(32)), ("mask", number)).half_mask(12) for number in range(4000)])
    assert (masks.sum(1) == 6).all()
    assert chisquare(masks.sum(0)).pvalue > 1e-4


@pytest.mark.parametrize("bound", [2, 3, 6, 8, 10, 96])
def test_choices_are_uniform_and_independent(bound):
    drawn = KeyStream(Key(bytes(32)), ("choices", bound)).choices(bound, 48_000)
    assert drawn.shape == (48_000,)
    assert chisquare(np.bincount(drawn, minlength=bound)).pvalue > 1e-4
    pairs = drawn[0::2] * bound + drawn[1::2]
    if bound <= 10:
        assert chisquare(np.bincount(pairs, minlength=bound**2)).pvalue > 1e-4


@given(st.integers(1, 2**32), st.integers(0, 40))
def test_choices_are_words_below_the_limit(bound: int, count: int):
    """By rejection, one word after another: for large bounds nearly half of the words are too large."""
    words = KeyStream(Key(bytes(32)), ("choices",)).uint32(400).tolist()
    kept = [word % bound for word in words if word < 2**32 // bound * bound]
    drawn = KeyStream(Key(bytes(32)), ("choices",)).choices(bound, count)
    assert drawn.tolist() == kept[:count]
    assert drawn.dtype == np.intp


def test_normal_numbers_are_normal_and_independent():
    """Kolmogorov and Smirnov's test of the distribution; correlation between neighbours and between both halves, which
    Box and Muller's transform takes from the same pairs of words."""
    for count in (10_000, 9_999, 1):
        drawn = KeyStream(Key(bytes(32)), ("normal", count)).normal(count)
        assert drawn.shape == (count,)
        assert np.isfinite(drawn).all()
    drawn = KeyStream(Key(bytes(32)), ("normal",)).normal(50_000)
    assert kstest(drawn, "norm").pvalue > 1e-4
    for first, second in ((drawn[:-1], drawn[1:]), (drawn[:25_000], drawn[25_000:])):
        for power in (1, 2):  # of the numbers, and of their sizes
            assert abs(np.corrcoef(first**power, second**power)[0, 1]) < 4 / len(first) ** 0.5


def test_normal_numbers_are_box_and_mullers():
    words = KeyStream(Key(bytes(32)), ("normal",)).uint32(6).astype(float)
    radius = np.sqrt(-2 * np.log((words[:3] + 0.5) / 2**32))
    angle = 2 * np.pi * words[3:] / 2**32
    expected = [*(radius * np.cos(angle)), *(radius * np.sin(angle))]
    for count in (5, 6):
        found = KeyStream(Key(bytes(32)), ("normal",)).normal(count)
        np.testing.assert_allclose(found, expected[:count], rtol=1e-12)


def test_a_stream_goes_on_where_it_stopped():
    whole = KeyStream(Key(bytes(32)), ("a",)).uint32(70_000)  # more than one chunk
    stream = KeyStream(Key(bytes(32)), ("a",))
    parts = [stream.uint32(count).copy() for count in (1, 0, 16_383, 2, 33_614, 20_000)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole)) > 69_000  # no chunk is repeated


@pytest.mark.parametrize("kept", [slice(0, 4), slice(28, 32), slice(0, 31), slice(1, 32)])
def test_all_bytes_of_a_key_matter(kept):
    """The trap of 32-bit seeds: keys that agree in 4 bytes, or in all but one, have nothing in common."""
    secret = bytes(range(32))
    other = bytearray(byte ^ 0xFF for byte in secret)
    other[kept] = secret[kept]
    first, second = (KeyStream(Key(bytes(each)), ("a",)).uint32(4096) for each in (secret, other))
    assert (first == second).mean() < 0.001
    bits = np.unpackbits((first ^ second).view(np.uint8)).mean()
    assert abs(bits - 0.5) < 4 * 0.5 / (32 * 4096) ** 0.5  # half of all bits differ
    assert Key(secret).id != Key(bytes(other)).id


def test_every_single_byte_of_a_key_matters():
    secret = bytes(range(32))
    keys_of = [secret] + [secret[:i] + bytes([secret[i] ^ 1]) + secret[i + 1 :] for i in range(32)]
    streams = {KeyStream(Key(each), ("a",)).uint32(8).tobytes() for each in keys_of}
    assert len(streams) == 33
    assert len({Key(each).id for each in keys_of}) == 33


def test_a_key_of_another_length_is_refused():
    for length in (0, 4, 16, 31, 33, 64):
        with pytest.raises(PpvitError, match=f"a key has 32 bytes, this one has {length}"):
            Key(bytes(length))


@given(st.integers(1, 2**32))
def test_below_stays_below(bound: int):
    assert 0 <= KeyStream(Key(bytes(32)), ("below", bound)).below(bound) < bound


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_other_keys_and_purposes_give_other_streams(first: bytes, second: bytes):
    words = KeyStream(Key(first), ("a",)).uint32(8).tolist()
    assert (words == KeyStream(Key(second), ("a",)).uint32(8).tolist()) == (first == second)
    assert words != KeyStream(Key(first), ("b",)).uint32(8).tolist()


def test_secret_is_not_shown():
    key = keys.generate()
    assert key.secret.hex() not in repr(key)
    assert repr(key) == f"Key({key.id})"


def _hmac(key: bytes, message: bytes) -> bytes:
    import hmac

    return hmac.new(key, message, "sha256").digest()


def _chacha20_block(key: bytes, counter: int) -> bytes:
    """RFC 8439 section 2.3, nonce zero."""
    state = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *np.frombuffer(key, "<u4").tolist(), counter, 0, 0, 0]
    working = list(state)

    def rotate(value: int, bits: int) -> int:
        return ((value << bits) | (value >> (32 - bits))) & 0xFFFFFFFF

    def quarter_round(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            working[x] = (working[x] + working[y]) & 0xFFFFFFFF
            working[z] = rotate(working[z] ^ working[x], bits)

    for _ in range(10):
        for column in range(4):
            quarter_round(column, column + 4, column + 8, column + 12)
        for diagonal in range(4):
            quarter_round(diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
    return np.array([(a + b) & 0xFFFFFFFF for a, b in zip(state, working, strict=True)], "<u4").tobytes()
