"""The audit where training images have several views: what attacks use, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest
from test_audit import noise
from test_audit_keys import BLOCK, SIZE, headline, smooth, truth, world

from ppvit.audit.amount import Amount
from ppvit.audit.attacks import known_plaintext, pooled
from ppvit.audit.rows import attack_rows
from ppvit.audit.score import key_recovered_percent
from ppvit.audit.verdict import Scored, views_raise
from ppvit.audit.view import KeySpace, View
from ppvit.ciphers import make_cipher
from ppvit.ciphers.keys import Key


def of_two_views(first: np.ndarray, second: np.ndarray) -> View:
    """Known pairs whose images have two views."""
    view, _ = world("block")
    plain = np.concatenate([first, second])
    encrypted = view.oracle(plain)
    pairs = tuple(sorted({1, len(first)}))
    return replace(view, views=2, known_plain=plain, known_encrypted=encrypted, known_pairs=pairs)


def test_arrays_are_cut_by_images_and_views():
    first, second = noise(5, SIZE, 1), noise(5, SIZE, 2)
    view = of_two_views(first, second)
    assert list(view.amounts((1, 5))) == [Amount(1, 1), Amount(1, 2), Amount(5, 1), Amount(5, 2)]
    assert np.array_equal(view.part(view.known_plain, Amount(3, 1)), first[:3])
    assert np.array_equal(view.part(view.known_plain, Amount(3, 2)), np.concatenate([first[:3], second[:3]]))
    alone, _ = world("block")
    assert list(alone.amounts((1, 5))) == [Amount(1, 1), Amount(5, 1)]
    assert np.array_equal(alone.part(alone.known_plain, Amount(3, 1)), alone.known_plain[:3])


def test_a_second_view_tells_what_the_first_does_not():
    """One grey picture, which tells nothing of the key, and another view of it, whose values all differ."""
    view = of_two_views(np.full((1, SIZE, SIZE, 3), 90, np.uint8), noise(1, SIZE))
    found = {finding.variant: finding for finding in known_plaintext.find(view)}
    assert found.keys() == {"1", "1_all_views"}
    shares = {name: key_recovered_percent(found[name].key, truth("block"), view.space) for name in found}
    assert shares["1"] < 10
    assert shares["1_all_views"] == 100
    assert headline(known_plaintext.find(view)).variant == "1_all_views"
    assert found["1_all_views"].needs == "one plain image in all 2 views and their ciphertexts"
    assert found["1"].needs == "one plain image and its ciphertext"


@pytest.mark.parametrize("cipher", ["block", "orthogonal"])
def test_pooled_uses_all_views(cipher):
    used = make_cipher(cipher, Key(bytes(32)), SIZE, BLOCK)
    pictures = smooth(6, 3)
    view = View(KeySpace.of(used), BLOCK, used.encrypt(pictures[:2]), 0, SIZE, public_plain=smooth(6, 4),
                pooled=used.encrypt(pictures), pooled_images=(1, 3), views=2)  # fmt: skip
    found = [(finding.variant, finding.needs.split(" and ")[0]) for finding in pooled.find(view)]
    assert found == [
        ("1", "one ciphertext"),
        ("1_all_views", "one image in all 2 views, encrypted"),
        ("3", "3 ciphertexts"),
        ("3_all_views", "3 images in all 2 views, encrypted"),
    ]
    assert headline(pooled.find(view)).variant == "3_all_views"


def test_what_views_add_is_said():
    """At the number of images where they add most: with more images an attack may find all without them."""

    def scored(attack, variant, key):
        return Scored(attack, "", key, 0.0, 0.0, 0.0, variant=variant)

    found = {
        "pooled": [
            scored("pooled", "1", 20.0), scored("pooled", "1_all_views", 40.0),
            scored("pooled", "20", 100.0), scored("pooled", "20_all_views", 100.0),
        ],
        "known_plaintext": [scored("known_plaintext", "3", 90.0), scored("known_plaintext", "3_all_views", 90.0)],
        "weights": [scored("weights", "", 100.0), scored("weights", "finetuned", 100.0)],
    }  # fmt: skip
    first, told = views_raise(found, 3)
    assert first == {"pooled": 100.0, "known_plaintext": 90.0}
    assert told == "Training images have 3 views, which raise what pooled finds of 1 image from 20 to 40 %."
    found["known_plaintext"][1] = scored("known_plaintext", "3_all_views", 95.0)
    assert views_raise(found, 3)[1].endswith(
        "from 20 to 40 % and what known_plaintext finds of 3 images from 90 to 95 %."
    )
    del found["pooled"], found["known_plaintext"]
    assert views_raise(found, 3) == ({}, "Training images have 3 views, in which no attack here finds more.")


def test_rows_name_them():
    names = ["pooled_20", "pooled_20_all_views", "pooled", "known_plaintext_1_all_views"]
    rows = [name for name, *_ in attack_rows({f"{name}_ssim": 0.5 for name in names})]
    assert rows == ["pooled, 20 ciphertexts", "pooled, 20 ciphertexts, all views", "known plaintext, 1 pair, all views"]
