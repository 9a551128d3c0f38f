"""Attacks on keys, for every cipher: known and chosen plaintext, weights, and arithmetic on the key space."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import photographs

from ppvit.adaptation.embedding import Embedding, encrypt_embedding
from ppvit.audit import ATTACKS
from ppvit.audit.attacks import brute_force, chosen_plaintext, known_plaintext, pooled, weights
from ppvit.audit.collect import Truth
from ppvit.audit.measure import audit
from ppvit.audit.score import key_recovered_percent, mean_ssim
from ppvit.audit.view import Finding, KeySpace, View, decrypt
from ppvit.ciphers import CIPHERS, make_cipher
from ppvit.ciphers.keys import Key

SIZE, BLOCK = 32, 4
VARIANTS = {name: (name, {}) for name in CIPHERS if name != "none" and not name.startswith("neuracrypt")} | {
    "subblock_etc block keys": ("subblock_etc", {"key_scope": "block"}),
    "orthogonal uint8": ("orthogonal", {"storage": "uint8"}),
    "pe image keys": ("pe", {"key_scope": "image"}),
    "pe without colour order": ("pe", {"colour_order": False}),
    "neuracrypt": ("neuracrypt", {"token_width": 16}),
}
MAPPED = [name for name, (cipher, options) in VARIANTS.items() if make_cipher(
    cipher, Key(bytes(32)), SIZE, BLOCK, **options).affine_map() is not None]  # fmt: skip
UNMAPPED = sorted(VARIANTS.keys() - set(MAPPED))


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def smooth(count: int, seed: int) -> np.ndarray:
    """Pictures of a few waves: neighbours are alike, and colours are not."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = [sum(rng.normal() * np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y) for _ in range(4))
             for _ in range(3 * count)]  # fmt: skip
    pictures = np.reshape(waves, (count, 3, SIZE, SIZE)).transpose(0, 2, 3, 1)
    return np.clip(127 + 50 * pictures, 0, 255).astype(np.uint8)


def world(name: str, adapted: bool = True, known=noise) -> tuple[View, np.ndarray]:
    """What an attacker of a cipher holds, and the plain images under attack."""
    kind, options = VARIANTS[name]
    cipher = make_cipher(kind, Key(bytes(range(32))), SIZE, BLOCK, **options)
    plain, known_plain = smooth(4, 1), known(10, 2)
    random = torch.Generator().manual_seed(0)
    public = Embedding(
        torch.randn(128, 48, generator=random).double(),
        torch.zeros(128).double(),
        torch.randn(64, 128, generator=random).double(),
    )
    affine = cipher.affine_map()
    model = encrypt_embedding(public, affine) if adapted and affine is not None else public
    view = View(
        space=KeySpace.of(cipher),
        block_size=BLOCK,
        encrypted=cipher.encrypt(plain, np.arange(4)),
        seed=0,
        image_size=SIZE,
        known_plain=known_plain,
        known_encrypted=cipher.encrypt(known_plain, 100 + np.arange(10)),
        known_pairs=(1, 10),
        oracle=lambda images: cipher.encrypt(images, 1000 + np.arange(len(images))),
        public=public,
        adapted=model,
        finetuned=model,
    )
    return view, plain


def headline(findings) -> Finding:
    found = [finding for finding in findings if finding.headline]
    assert len(found) == 1
    return found[0]


def truth(name: str):
    kind, options = VARIANTS[name]
    return make_cipher(kind, Key(bytes(range(32))), SIZE, BLOCK, **options).affine_map()


@pytest.mark.parametrize("name", MAPPED)
def test_the_key_decrypts(name):
    view, plain = world(name)
    tolerance = 0 if view.space.example.lossless else 2
    recovered = decrypt(view.encrypted, truth(name), BLOCK)
    assert np.median(np.abs(recovered.astype(int) - plain)) <= tolerance
    assert tolerance or np.array_equal(recovered, plain)
    assert key_recovered_percent(truth(name), truth(name), view.space) == pytest.approx(100)


@pytest.mark.parametrize("name", MAPPED)
def test_random_keys_score_0_on_average(name):
    view, _ = world(name)
    rng = np.random.default_rng(5)
    shares = [key_recovered_percent(view.space.guess(rng), truth(name), view.space) for _ in range(20)]
    assert np.mean(shares) < 8


@pytest.mark.parametrize("name", MAPPED)
def test_ten_pairs_give_the_key(name):
    view, plain = world(name)
    found = headline(known_plaintext.find(view))
    # 64 x 96 nibbles of ele: at ten nibbles each, some are alike by chance
    assert key_recovered_percent(found.key, truth(name), view.space) > (98 if name == "ele" else 99.9)
    assert mean_ssim(found.images, plain) > 0.98


@pytest.mark.parametrize("name", [name for name in MAPPED if name not in ("ele", "subblock_etc block keys")])
def test_one_pair_gives_nearly_the_key_where_keys_are_shared_or_few(name):
    view, _ = world(name)
    found = next(known_plaintext.find(view))
    assert found.needs.startswith("one plain image")
    # pe: 48 ways a pixel could have been encrypted, some of which agree by chance
    assert key_recovered_percent(found.key, truth(name), view.space) > (90 if name.startswith("pe") else 98)


@pytest.mark.parametrize("name", ["disposable", "pe image keys"])
@pytest.mark.parametrize("attack", [known_plaintext, chosen_plaintext], ids=["known", "chosen"])
def test_pairs_under_other_keys_give_nothing(name, attack):
    """Every image has its own key, so what was learned of ten says nothing of the eleventh."""
    view, plain = world(name)
    found = headline(attack.find(view))
    assert found.key is None
    nothing = mean_ssim(view.space.own_cipher(np.random.default_rng(3)).decrypt(view.encrypted, np.arange(4)), plain)
    assert mean_ssim(found.images, plain) < max(nothing, mean_ssim(view.pictures, plain)) + 0.1


def test_a_value_permutation_is_read_off_pairs():
    view, plain = world("ffx")
    found = headline(known_plaintext.find(view))
    assert np.array_equal(found.images, plain)  # 10 images of noise show all 256 values at every position


@pytest.mark.parametrize("name", [*MAPPED, "ffx"])
def test_a_minimal_set_of_helper_images_gives_the_key(name):
    view, plain = world(name)
    found = headline(chosen_plaintext.find(view))
    if found.key is not None:
        assert key_recovered_percent(found.key, truth(name), view.space) > (99 if "orthogonal" in name else 99.999)
    assert mean_ssim(found.images, plain) > (0.7 if name == "orthogonal uint8" else 0.99)
    space = view.space
    if space.example.replaces_values:
        expected = math.ceil(256 / 64)
    elif space.dense:
        expected = math.ceil(49 / 64)
    else:  # information: an image tells log2(b) bits of every place's origin
        base = (16 if space.nibbles else 256) // (2 if space.inverts else 1)
        expected = math.ceil(math.log(64 * space.values, base))
    assert found.scores["images_needed"] == expected


@pytest.mark.parametrize("name", MAPPED)
def test_adapted_weights_give_the_key(name):
    view, plain = world(name)
    found = headline(weights.find(view))
    assert key_recovered_percent(found.key, truth(name), view.space) > 99.9
    assert mean_ssim(found.images, plain) > 0.98


@pytest.mark.parametrize("name", MAPPED)
def test_unadapted_weights_give_nothing(name):
    view, _ = world(name, adapted=False)
    found = headline(weights.find(view))
    assert key_recovered_percent(found.key, truth(name), view.space) < 25  # np: 48 signs, deviation 3.5


@pytest.mark.parametrize("name", UNMAPPED)
def test_where_nothing_adapts_weights_hold_no_key(name):
    view, _ = world(name)
    found = headline(weights.find(view))
    assert found.key is None
    assert not found.applies
    assert "no key enters the weights" in found.says


TOKENS = {"weights", "known_plaintext", "chosen_plaintext", "pooled", "jigsaw", "feature_reconstruction"}
TOKENS |= {"min_difference", "inverse_network"}


def test_attacks_that_cannot_be_made_measure_nothing(tmp_path):
    """Tokens: a figure of 0 would read as safety, and others have matched all of them to their images."""
    view, plain = world("neuracrypt")
    view = replace(view, candidates=np.concatenate([plain, noise(16, 9)]), pooled=view.encrypted, pooled_images=(4,))
    found = audit(view, Truth(plain, None), list(ATTACKS), tmp_path)
    assert {name for name in ATTACKS if found[f"{name}_strength_percent"] is None} == TOKENS
    assert {name for name in ATTACKS if found[f"{name}_ssim"] is None} == TOKENS
    assert found["verdict"].endswith(
        " Not attacked, which is no evidence of safety: weights, known_plaintext, "
        "chosen_plaintext, pooled, jigsaw, feature_reconstruction, min_difference, inverse_network. Published: "
        "matching, 100 % (Carlini et al., arXiv 2108.07256)."
    )
    assert not {path.stem for path in tmp_path.glob("*.png")} & TOKENS
    told = json.loads((tmp_path / "attacks.json").read_text())["sentences"]
    assert all(("Not attacked" in told[name]) == (name in TOKENS) for name in ATTACKS)
    only = audit(view, Truth(plain, None), ["pooled", "jigsaw"], tmp_path)
    assert only["verdict"].startswith("Not attacked, which is no evidence of safety: pooled, jigsaw.")
    assert only["ssim_of_strongest"] is only["key_percent_of_strongest"] is None


def test_what_training_added_is_compared_only_where_there_is_any():
    view, _ = world("block", adapted=False)
    assert [finding.variant for finding in weights.find(view)] == ["", "finetuned"]
    moved = Embedding(view.public.weight + 0.1 * torch.randn(128, 48).double(), view.public.bias, view.public.positions)
    assert weights.update(view.public, moved).weight.shape == (128, 48)
    # an update towards the adapted weights shows the key although the sum is nearest to the public ones
    towards = encrypt_embedding(view.public, truth("block"))
    after = Embedding(
        view.public.weight + 0.05 * towards.weight, view.public.bias, view.public.positions + 0.05 * towards.positions
    )
    change = weights.update(view.public, after)
    found = weights.recover_key(view.public, change, KeySpace.of(make_cipher("shuffle", Key(bytes(32)), SIZE, BLOCK)),
                                np.random.default_rng(0))  # fmt: skip
    assert np.array_equal(found.value_permutation, truth("block").value_permutation)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("shuffle", math.log2(math.factorial(48))),
        ("scramble", math.log2(math.factorial(64))),
        ("np", math.log2(math.comb(48, 24))),
        ("block", math.log2(math.factorial(64) * math.factorial(48))),
        ("pixel_position", math.log2(math.factorial(64) * math.factorial(16))),
        ("etc", math.log2(math.factorial(64)) + 64 * math.log2(96)),
        ("pe", 32 * 32 * (3 + math.log2(6))),
        ("le", 24 + math.log2(math.factorial(24))),
        ("ffx", math.log2(math.comb(48, 24) * math.factorial(256))),
    ],
)
def test_key_space_is_what_combinatorics_says(name, bits):
    view, _ = world(name)
    found = headline(brute_force.find(view))
    assert found.scores["key_space_bits"] == pytest.approx(bits, abs=0.1)
    assert found.scores["key_bits"] == pytest.approx(min(bits, 256), abs=0.1)
    assert (found.strength > 0) == (bits < 64)
    assert found.says.startswith("Broken by patience" if bits < 64 else "Out of reach")


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
def test_a_rotation_leaks_in_part_from_ciphertext_alone(storage):
    """Calibration of the specification: pictures that correlate by 0.5 or more with the plain ones."""
    cipher = make_cipher("orthogonal", Key(bytes(range(32))), SIZE, BLOCK, storage=storage)
    plain, others, public = photographs(8, SIZE, 1), photographs(100, SIZE, 2), photographs(100, SIZE, 3)
    view = View(KeySpace.of(cipher), BLOCK, cipher.encrypt(plain), 0, SIZE, pooled=cipher.encrypt(others),
                pooled_images=(100,), public_plain=public)  # fmt: skip
    found = headline(pooled.find(view))
    aligned = found.align(found.images, plain)
    correlation = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(aligned, plain, strict=True)]
    assert np.mean(correlation) > 0.5
    assert mean_ssim(aligned, plain) > mean_ssim(view.pictures, plain) + 0.2


def test_a_rotation_does_not_leak_from_images_of_which_every_one_has_its_own():
    ciphers = [make_cipher("orthogonal", Key(bytes([number]) * 32), SIZE, BLOCK) for number in range(1, 41)]
    plain, others, public = photographs(8, SIZE, 1), photographs(32, SIZE, 2), photographs(100, SIZE, 3)
    encrypted, pool = (
        np.concatenate([cipher.encrypt(image[None]) for cipher, image in zip(ciphers[start:], images, strict=False)])
        for start, images in ((0, plain), (8, others))
    )
    view = View(KeySpace.of(ciphers[0]), BLOCK, encrypted, 0, SIZE, pooled=pool, pooled_images=(32,),
                public_plain=public)  # fmt: skip
    found = headline(pooled.find(view))
    assert mean_ssim(found.align(found.images, plain), plain) < 0.25
