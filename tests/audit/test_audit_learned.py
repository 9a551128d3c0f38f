"""Matching and learned inverse: they succeed where something leaks, and where nothing does they only guess."""

from functools import cache

import numpy as np
import pytest
import torch
from conftest import cifar
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from ppvit.audit.attacks.inverse_network import reconstruct, train_inverse, train_inverse_unpaired
from ppvit.audit.attacks.matching import assign, chance_percent, invariants, match, top1_percent
from ppvit.audit.score import mean_ssim
from ppvit.audit.view import to_blocks
from ppvit.ciphers import make_cipher
from ppvit.ciphers.keys import Key


def key(number=1):
    return Key(bytes([number]) * 32)


def noise(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def resized(image, size):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


@cache
def digits(count, size=32):
    """Grey handwriting on black."""
    grey = (load_digits().images[:count] * 15.9375).astype(np.uint8)
    return np.stack([np.repeat(resized(image, size)[:, :, None], 3, axis=2) for image in grey])


@cache
def photos(count, size, seed=0):
    """Random crops of two photographs, at different scales."""
    rng, images, found = np.random.default_rng(seed), load_sample_images().images, []
    for index in range(count):
        image, side = images[index % 2], int(rng.integers(64, 380))
        top, left = (int(rng.integers(0, extent - side)) for extent in image.shape[:2])
        found.append(resized(image[top : top + side, left : left + side], size))
    return np.stack(found)


# --- matching


def matched(name, plain, block_size, count=20, **options):
    """Encrypt ``count`` of the candidates in an order of their own; similarity and truth."""
    truth = np.random.default_rng(1).permutation(len(plain))[:count]
    cipher = make_cipher(name, None if name == "none" else key(), plain.shape[1], block_size, **options)
    return match(cipher.encrypt(plain[truth], np.arange(count)), plain, block_size), truth


CIPHERS_THAT_LEAK = [
    ("none", {}),
    ("block", {}),
    ("block_np", {}),
    ("etc", {}),
    ("orthogonal", {}),
    ("orthogonal", {"storage": "uint8"}),
    ("le", {}),
    ("ele", {}),
    ("pe", {"key_scope": "image"}),
    ("ffx", {}),
    ("disposable", {}),
    ("disposable", {"fixed_blocks": 0, "fixed_values": 0}),
]


@pytest.mark.parametrize(("name", "options"), CIPHERS_THAT_LEAK)
@pytest.mark.parametrize("make", [digits, lambda count: photos(count, 32)], ids=["digits", "photos"])
def test_every_image_is_recognised_whatever_the_key(name, options, make):
    similarity, truth = matched(name, make(100), 4, **options)
    assert top1_percent(similarity, truth) == 100
    assert np.array_equal(assign(similarity), truth)


def test_a_new_key_for_every_image_does_not_help():
    plain = photos(40, 32)
    encrypted = np.concatenate(
        [make_cipher("block_np", key(i + 1), 32, 4).encrypt(plain[i : i + 1]) for i in range(10)]
    )
    assert np.array_equal(match(encrypted, plain, 4).argmax(axis=1), np.arange(10))


def test_one_ciphertext_is_enough():
    plain = photos(40, 32)
    assert match(make_cipher("block", key(), 32, 4).encrypt(plain[7:8]), plain, 4).argmax() == 7


def test_images_at_the_size_of_the_papers():
    similarity, truth = matched("block_np", photos(60, 224), 16)
    assert top1_percent(similarity, truth) == 100


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_unrelated_noise_is_matched_by_chance(dtype):
    plain, hits = photos(20, 32), 0
    for seed in range(20):
        truth = np.random.default_rng(seed).permutation(20)
        similarity = match(noise(20, 32, seed).astype(dtype), plain, 4)
        hits += np.count_nonzero(similarity.argmax(axis=1) == truth)
    # 400 draws at 1/20, but the 20 of a run share hubs: at most 20 runs of 20 alike, mean 20, deviation below 20
    assert hits <= 60


def test_unrelated_images_are_matched_by_chance():
    plain, hits = photos(20, 32), 0
    others = make_cipher("block", key(), 32, 4).encrypt(photos(400, 32, seed=9))
    for seed in range(20):
        truth = np.random.default_rng(seed).permutation(20)
        similarity = match(others[20 * seed : 20 * seed + 20], plain, 4)
        hits += np.count_nonzero(assign(similarity) == truth)
    assert hits <= 40  # a random order of 20 has 1 fixed point on average, variance 1: mean 20, deviation 4.5


def test_tokens_of_a_secret_network_leak_how_alike_blocks_are():
    # neighbour distances nearly survive a random network: far fewer than 100 % are found, but more than 1 %
    similarity, truth = matched("neuracrypt", photos(100, 32), 4, count=50, token_width=256)
    ranks = (similarity > similarity[np.arange(50), truth][:, None]).sum(axis=1)
    # by chance uniform in 0 .. 99: mean 49.5, deviation of the mean of 50 is 4.1
    assert ranks.mean() < 49.5 - 4 * 4.1
    unrelated = match(np.random.default_rng(0).normal(size=(50, 64, 256)).astype(np.float16), photos(100, 32), 4)
    ranks = (unrelated > unrelated[np.arange(50), truth][:, None]).sum(axis=1)
    assert abs(ranks.mean() - 49.5) < 4 * 4.1


def test_invariants_are_invariant():
    plain = photos(3, 32)
    before, after = (invariants(images, 4) for images in (plain, make_cipher("block_np", key(), 32, 4).encrypt(plain)))
    for name in ("folded", "blocks of folded", "nibbles", "blocks of nibbles"):
        assert np.allclose(before[name], after[name], rtol=1e-9)
    assert np.allclose(before["lengths"], after["lengths"], rtol=1e-5)
    assert np.allclose(before["neighbours"], after["neighbours"], atol=1e-5)
    assert not np.allclose(before["values"], after["values"], atol=1e-2)


def test_own_features_replace_the_others():
    plain = photos(10, 32)

    def mean_value(images, block_size):
        return {"mean": to_blocks(images, block_size).mean(axis=(1, 2))[:, None]}

    assert np.array_equal(match(plain[3:6], plain, 4, mean_value).argmax(axis=1), [3, 4, 5])
    assert not match(plain[3:6], plain, 4, lambda images, _: {str(len(images)): np.zeros((len(images), 1))}).any()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_candidates(count):
    plain = noise(count, 8)
    similarity = match(255 - plain, plain, 4)
    assert similarity.shape == (count, count)
    assert np.isfinite(similarity).all()
    assert np.isfinite(match(np.zeros_like(plain), np.zeros_like(plain), 8)).all()


def test_scores_of_matching():
    similarity = np.array([[3.0, 1, 0], [5, 4, 0], [1, 1, 1]])
    assert top1_percent(similarity, np.array([0, 1, 2])) == pytest.approx(100 * (1 + 0 + 1 / 3) / 3)
    assert np.array_equal(assign(similarity), [0, 1, 2])  # 3 + 4 + 1 is more than 1 + 5 + 1
    assert chance_percent(20) == 5


# --- learned inverse


def pairs_of(images, name, block_size, same_key, **options):
    """The attacker's pairs, under the key under attack (a control) or a new key in every call."""

    def sample(rng, count):
        plain = images[rng.integers(0, len(images), count)]
        owner = key() if same_key else Key(rng.bytes(32))
        cipher = make_cipher(name, None if name == "none" else owner, images.shape[1], block_size, **options)
        return plain, cipher.encrypt(plain, np.arange(count))

    return sample


def ssim_from_pairs(images, name, *, same_key, steps=10, per_position=False, block_size=4, **options):
    """Train on all but 20 images, score on those under key 1; and the score of what one knows without ciphertexts."""
    sample = pairs_of(images[20:], name, block_size, same_key, **options)
    network = train_inverse(sample, block_size, images.shape[1], steps=steps, seed=0, per_position=per_position)
    cipher = make_cipher(name, None if name == "none" else key(), images.shape[1], block_size, **options)
    found = reconstruct(network, cipher.encrypt(images[:20], np.arange(20)))
    assert found.dtype == np.uint8
    assert found.shape == images[:20].shape
    mean_image = np.repeat(images[20:].mean(axis=0, keepdims=True).round().astype(np.uint8), 20, axis=0)
    return mean_ssim(found, images[:20]), mean_ssim(mean_image, images[:20])


@pytest.mark.parametrize(("name", "least"), [("shuffle", 0.95), ("block_np", 0.8), ("orthogonal", 0.95)])
def test_pairs_under_the_same_key_give_the_inverse(name, least):
    assert ssim_from_pairs(photos(420, 32), name, same_key=True)[0] > least


def test_nibbles_are_undone_too():
    assert ssim_from_pairs(photos(420, 32), "le", same_key=True)[0] > 0.95


def test_keys_that_differ_by_position_need_maps_that_do():
    score = {own: ssim_from_pairs(digits(800), "pe", same_key=True, per_position=own)[0] for own in (True, False)}
    assert score[True] > 0.8
    assert score[False] < score[True] - 0.05


@pytest.mark.parametrize("name", ["block", "block_np"])
def test_pairs_under_other_keys_give_hardly_more_than_the_mean_image(name):
    score, baseline = ssim_from_pairs(photos(420, 32), name, same_key=False, steps=20)
    assert score < baseline + 0.1


def test_what_all_keys_leave_in_place_is_learned():
    # shuffling keeps the mean of every block where it is: a picture at a quarter of the resolution
    score, baseline = ssim_from_pairs(photos(420, 32), "shuffle", same_key=False, steps=20)
    assert baseline + 0.1 < score < 0.9


def test_nothing_is_learned_from_noise():
    images = photos(220, 32)

    def sample(rng, count):
        return images[rng.integers(20, len(images), count)], rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    network = train_inverse(sample, 4, 32, steps=10, seed=0, per_position=False)
    assert (
        mean_ssim(reconstruct(network, noise(20, 32)), images[:20])
        < mean_ssim(np.repeat(images[20:].mean(axis=0, keepdims=True).astype(np.uint8), 20, axis=0), images[:20]) + 0.05
    )


def test_convolutions_improve_what_linear_maps_cannot():
    # pixels inverted by a key of each image: linear maps see nothing, |v| is there for convolutions
    sample = pairs_of(digits(800)[20:], "pe", 4, same_key=False, key_scope="image")
    cipher = make_cipher("pe", key(), 32, 4, key_scope="image")
    encrypted = cipher.encrypt(digits(800)[:20], np.arange(20))
    scores = [
        mean_ssim(reconstruct(train_inverse(sample, 4, 32, steps=steps, seed=0, per_position=False), encrypted),
                  digits(800)[:20])
        for steps in (0, 40)
    ]  # fmt: skip
    assert scores[1] > scores[0] + 0.03


def test_tokens_and_other_sizes_are_taken():
    score, baseline = ssim_from_pairs(photos(60, 16), "neuracrypt", same_key=True, steps=2, token_width=8)
    assert score < baseline + 0.2


def test_the_same_seed_gives_the_same_network_and_leaves_the_generator_alone():
    images = photos(60, 32)
    encrypted = make_cipher("block", key(), 32, 4).encrypt(images[:3])
    before = torch.random.get_rng_state()

    def paired(seed):
        return train_inverse(pairs_of(images, "block", 4, False), 4, 32, steps=3, seed=seed, per_position=False)

    def unpaired(seed):
        return train_inverse_unpaired(encrypted, images, 4, 32, steps=3, seed=seed)

    for train in (paired, unpaired):
        one, same, other = (reconstruct(train(seed), encrypted) for seed in (0, 0, 1))
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def unpaired(plain, public, name, steps):
    """SSIM of the GAN's images and of the ciphertexts."""
    encrypted = make_cipher(name, key(), 32, 4).encrypt(plain)
    generator = train_inverse_unpaired(encrypted, public, 4, 32, steps=steps, seed=0)
    return mean_ssim(reconstruct(generator, encrypted[:20]), plain[:20]), mean_ssim(encrypted[:20], plain[:20])


def test_unpaired_images_undo_inversion():
    score, ciphertext = unpaired(digits(1600)[:800], digits(1600)[800:], "np", steps=80)
    assert score > ciphertext + 0.2


def test_unpaired_images_do_not_undo_a_block_order():
    score, _ = unpaired(photos(800, 32)[:400], photos(800, 32)[400:], "block", steps=30)
    assert score < 0.25


@pytest.mark.assets
def test_cifar():
    plain = cifar(820)
    for name in ("block", "block_np", "pe", "orthogonal"):
        similarity, truth = matched(name, plain[:100], 4)
        assert top1_percent(similarity, truth) == 100
    assert ssim_from_pairs(plain, "shuffle", same_key=True)[0] > 0.95
    score, baseline = ssim_from_pairs(plain, "block", same_key=False)
    assert score < baseline + 0.1
