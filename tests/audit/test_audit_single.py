"""Ciphertext-only attacks on single images: what they recover of photographs, and that they fail on noise."""

import itertools

import numpy as np
import pytest
from conftest import cifar
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from ppvit.audit.attacks import feature_reconstruction, jigsaw, min_difference
from ppvit.audit.score import mean_ssim
from ppvit.audit.solvers import etc_solver, variants
from ppvit.audit.solvers.symmetry import best_over_symmetries
from ppvit.core.errors import UsageError

CHINA, FLOWER = 0, 1
COLOUR_ORDERS = list(itertools.permutations(range(3)))


def photo(number, size=224):
    """The left of one of scikit-learn's photographs; flower is smooth, china has a flat sky."""
    picture = Image.fromarray(load_sample_images().images[number][:, :427])  # 427 x 427
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def cut(image, p):
    side = len(image) // p
    return image.reshape(side, p, side, p, 3).swapaxes(1, 2).reshape(-1, p, p, 3)


def paste(blocks):
    side, p = round(len(blocks) ** 0.5), blocks.shape[1]
    return blocks.reshape(side, side, p, p, 3).swapaxes(1, 2).reshape(side * p, side * p, 3)


def scramble(image, p, seed=0):
    """Ciphertext, and the ciphertext block that belongs at each cell."""
    kb = np.random.default_rng(seed).permutation((len(image) // p) ** 2)
    return paste(cut(image, p)[kb]), np.argsort(kb)


def etc(image, p, seed=0):
    """Permute; turn and mirror; invert; reorder the colours. Ciphertext, and the block that belongs at each cell."""
    cipher, truth = scramble(image, p, seed)
    rng, blocks = np.random.default_rng(seed + 1), cut(cipher, p).copy()
    for block in blocks:
        turned = np.rot90(block, rng.integers(4))
        turned = np.fliplr(turned) if rng.integers(2) else turned
        turned = 255 - turned if rng.integers(2) else turned
        block[:] = turned[..., rng.permutation(3)]
    return paste(blocks), truth


def pe(images, seed=0, colour_order=False):
    """Every value v or 255 - v; optionally the colours of every pixel in an order of its own."""
    rng = np.random.default_rng(seed)
    if colour_order:
        images = rng.permuted(images, axis=-1)
    return np.where(rng.integers(0, 2, images.shape) == 1, 255 - images, images)


def likeness(one, other):
    """A score that is fast enough to choose among 96 variants."""
    return -np.abs(one.astype(float) - other).mean()


# --- jigsaw


@pytest.mark.parametrize("number", [CHINA, FLOWER])
@pytest.mark.parametrize("p", [16, 32])
def test_scrambled_blocks_are_put_in_order(number, p):
    plain = photo(number)
    cipher, truth = scramble(plain, p)
    found = jigsaw.solve(cipher, p, transforms=False)
    scores = jigsaw.placement_scores(found.placement, truth, 224 // p)
    assert scores["neighbour_percent"] > 85
    assert scores["largest_component_percent"] > 85
    assert mean_ssim(found.picture[None], plain[None]) > 0.85 > 0.3 > mean_ssim(cipher[None], plain[None])


@pytest.mark.parametrize(
    ("number", "p", "least"), [(CHINA, 32, 90), (FLOWER, 32, 95), (CHINA, 16, 50), (FLOWER, 16, 90)]
)
def test_etc_blocks_are_put_in_order(number, p, least):
    plain = photo(number)
    cipher, truth = etc(plain, p)
    found = jigsaw.solve(cipher, p, transforms=True)
    scores = jigsaw.placement_scores(found.placement, truth, 224 // p, transforms=True)
    assert scores["neighbour_percent"] > least
    if least >= 90:
        aligned, _ = best_over_symmetries(found.picture[None], plain[None], likeness, negative=True)
        assert mean_ssim(aligned, plain[None]) > 0.9 > 0.3 > mean_ssim(cipher[None], plain[None])


@pytest.mark.parametrize("transforms", [False, True])
def test_shuffled_pixels_hide_the_order_of_blocks(transforms):
    cipher, truth = scramble(photo(FLOWER), 16)
    key = np.random.default_rng(1).permutation(768)
    blocks = cut(cipher, 16).reshape(196, 768)[:, key].reshape(196, 16, 16, 3)
    found = jigsaw.solve(paste(blocks), 16, transforms=transforms)
    scores = jigsaw.placement_scores(found.placement, truth, 14, transforms=transforms)
    assert scores["direct_percent"] < 5  # chance is 0.5
    assert scores["neighbour_percent"] < 5
    assert scores["largest_component_percent"] < 5


@pytest.mark.parametrize("transforms", [False, True])
def test_noise_has_no_order(transforms):
    cipher, truth = scramble(noise(128, 128), 16)
    found = jigsaw.solve(cipher, 16, transforms=transforms)
    scores = jigsaw.placement_scores(found.placement, truth, 8, transforms=transforms)
    assert max(scores.values()) < 12  # chance is 1.6, the best of 8 symmetries


def test_a_picture_in_order_stays_as_it_is():
    plain = photo(FLOWER)
    assert np.array_equal(jigsaw.solve(plain, 16, transforms=False).picture, plain)
    found = jigsaw.solve(plain, 32, transforms=True)
    assert np.array_equal(found.placement, np.arange(49))
    assert np.array_equal(found.picture, plain)


@given(seed=st.integers(0, 999), side=st.integers(1, 3), p=st.integers(2, 5), transforms=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_solution_says_what_was_done_to_every_block(seed, side, p, transforms):
    cipher = noise(side * p, side * p, seed=seed)
    found = jigsaw.solve(cipher, p, transforms=transforms)
    assert np.array_equal(np.sort(found.placement), np.arange(side * side))
    blocks = []
    for number in found.placement:
        block, orientation = cut(cipher, p)[number], found.orientation[number]
        block = np.rot90(np.fliplr(block) if orientation >= 4 else block, orientation % 4)
        block = block[..., COLOUR_ORDERS[found.colours[number]]]
        blocks.append(255 - block if found.inverted[number] else block)
    assert np.array_equal(found.picture, paste(np.stack(blocks)))
    again = jigsaw.solve(cipher, p, transforms=transforms)
    assert np.array_equal(again.picture, found.picture)
    if not transforms:
        assert not found.orientation.any()
        assert not found.inverted.any()
        assert not found.colours.any()


def test_flat_pictures_are_solved_somehow():
    flat = np.full((64, 64, 3), 127, np.uint8)
    assert np.array_equal(np.sort(jigsaw.solve(flat, 16, transforms=True).placement), np.arange(16))


@pytest.mark.parametrize(
    ("image", "p"), [(noise(32, 48), 16), (noise(32, 32), 15), (noise(8, 8), 1), (noise(32, 32).astype(float), 16)]
)
def test_images_that_do_not_fit_are_refused(image, p):
    with pytest.raises(UsageError, match="jigsaw"):
        jigsaw.solve(image, p, transforms=True)


def test_a_joint_costs_the_same_however_the_picture_is_turned_and_coloured():
    blocks, rng = cut(photo(FLOWER), 32)[:20], np.random.default_rng(0)
    table = variants.edge_table(blocks[None])
    turns, tones = rng.integers(0, 8, 20), rng.integers(0, 12, 20)
    upright = etc_solver.Layout.separate(20)
    shown = etc_solver.Layout(np.arange(20), upright.cells, turns, tones)
    # the ciphertext of which turns and tones give the picture's blocks back
    choices = list(itertools.product(range(8), range(12)))
    encrypted = np.empty_like(blocks)
    for block, (turn, tone) in enumerate(zip(turns, tones, strict=True)):
        found = [variants.tone(variants.orient(blocks[block], o), t) for o, t in choices]
        undone = [np.array_equal(variants.tone(variants.orient(f, turn), tone), blocks[block]) for f in found]
        encrypted[block] = found[undone.index(True)]
    one, side, other = rng.integers(0, 10, 30), rng.integers(0, 4, 30), rng.integers(10, 20, 30)
    expected = table[one, side, other, 0, 0]
    costs = etc_solver.joint_costs(variants.edge_table(encrypted[None]), shown, one, side, other)
    assert np.allclose(costs[np.arange(30), turns[other], tones[other]], expected, rtol=1e-3)


def test_the_truth_scores_100():
    truth = np.random.default_rng(0).permutation(36)
    assert set(jigsaw.placement_scores(truth, truth, 6).values()) == {100.0}


def test_a_shifted_picture_has_right_neighbours_only():
    truth = np.arange(36)
    placement = np.roll(truth.reshape(6, 6), 1, axis=0).ravel()
    scores = jigsaw.placement_scores(placement, truth, 6)
    assert scores["direct_percent"] == 0
    assert scores["neighbour_percent"] == pytest.approx(100 * (30 + 24) / 60)  # one of five joints down is broken
    assert scores["largest_component_percent"] == pytest.approx(100 * 30 / 36)


def test_the_end_of_a_row_does_not_continue_in_the_next():
    # columns moved by one: cells 5 and 6, 11 and 12, … stand side by side now
    placement = np.roll(np.arange(36).reshape(6, 6), 1, axis=1).ravel()
    assert jigsaw.placement_scores(placement, np.arange(36), 6)["neighbour_percent"] == pytest.approx(100 * 54 / 60)
    placement = np.roll(np.arange(36), 1)
    scores = jigsaw.placement_scores(placement, np.arange(36), 6)
    assert scores["neighbour_percent"] < 100 * 54 / 60


def test_the_global_orientation_is_free_where_blocks_are_turned():
    for turned in (np.rot90(np.arange(36).reshape(6, 6)), np.arange(36).reshape(6, 6).T):
        assert set(jigsaw.placement_scores(turned.ravel(), np.arange(36), 6, transforms=True).values()) == {100.0}
        assert jigsaw.placement_scores(turned.ravel(), np.arange(36), 6)["neighbour_percent"] == 0


def test_random_placements_score_chance():
    rng = np.random.default_rng(0)
    scores = [jigsaw.placement_scores(rng.permutation(36), np.arange(36), 6) for _ in range(200)]
    assert np.mean([score["direct_percent"] for score in scores]) == pytest.approx(100 / 36, abs=0.7)
    assert np.mean([score["neighbour_percent"] for score in scores]) < 4  # 30 pairs of 36 * 35, on each axis: 2.4


@pytest.mark.assets
@pytest.mark.parametrize(("transforms", "least"), [(False, 30), (True, 5)])
def test_cifar_images_in_blocks_of_4(transforms, least):
    """N = 64 blocks of 4 px: much less edge to compare than at 224 px. Chance is 1.6 percent."""
    scores = []
    for number, plain in enumerate(cifar(20)):
        cipher, truth = (etc if transforms else scramble)(plain, 4, number)
        found = jigsaw.solve(cipher, 4, transforms=transforms)
        scores.append(jigsaw.placement_scores(found.placement, truth, 8, transforms=transforms)["neighbour_percent"])
    assert np.mean(scores) > least


# --- feature reconstruction


def test_values_are_folded_at_the_middle():
    values = np.arange(256, dtype=np.uint8)
    folded = np.concatenate([np.arange(128), np.arange(127, -1, -1)])
    assert np.array_equal(feature_reconstruction.reconstruct(values), folded)
    assert np.array_equal(feature_reconstruction.reconstruct(values, leading_bit=1), 255 - folded)
    nibble = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 3, 2, 1, 0])
    halves = 16 * nibble[values // 16] + nibble[values % 16]
    assert np.array_equal(feature_reconstruction.reconstruct(values, bits=4), halves)
    assert np.array_equal(feature_reconstruction.reconstruct(values, leading_bit=1, bits=4), 255 - halves)
    with pytest.raises(ValueError, match="leading_bit"):
        feature_reconstruction.reconstruct(values, bits=5)


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_inversion_hides_nothing_of_the_folded_picture(seed):
    plain = noise(1, 8, 8, seed=seed)
    expected = feature_reconstruction.reconstruct(plain)
    assert np.array_equal(feature_reconstruction.reconstruct(pe(plain, seed)), expected)
    dark = plain // 2
    assert np.array_equal(feature_reconstruction.reconstruct(pe(dark, seed)), dark)


def test_edges_of_photographs_are_seen():
    plain = np.stack([photo(CHINA), photo(FLOWER)])
    for number, image in enumerate(plain[:, None]):
        cipher = pe(image, number)
        assert abs(feature_reconstruction.edge_correlation(cipher, image)) < 0.25
        assert feature_reconstruction.edge_correlation(feature_reconstruction.reconstruct(cipher), image) > 0.6
    assert feature_reconstruction.edge_correlation(plain, plain) == pytest.approx(1)
    assert feature_reconstruction.edge_correlation(255 - plain, plain) == pytest.approx(1)


def test_folding_noise_shows_no_picture():
    plain = photo(FLOWER)[None]
    found = feature_reconstruction.reconstruct(noise(1, 224, 224))
    assert abs(feature_reconstruction.edge_correlation(found, plain)) < 0.05
    assert abs(mean_ssim(found, plain)) < 0.05
    assert feature_reconstruction.edge_correlation(np.zeros_like(plain), plain) == 0


# --- minimum difference


@pytest.mark.parametrize(("colour_order", "china", "flower"), [(False, 0.25, 0.6), (True, 0.2, 0.4)])
def test_encrypted_pixels_of_photographs_are_decoded(colour_order, china, flower):
    plain = np.stack([photo(CHINA), photo(FLOWER)])
    cipher = pe(plain, colour_order=colour_order)
    found = min_difference.reconstruct(cipher, colour_order)
    found = min_difference.best_over_global(found, plain, mean_ssim, colour_order=colour_order)
    for number, least in ((CHINA, china), (FLOWER, flower)):
        assert mean_ssim(found[number][None], plain[number][None]) > least
        assert mean_ssim(cipher[number][None], plain[number][None]) < 0.1


def test_the_colour_order_needs_the_neighbours():
    """Folding alone leaves the colours mixed."""
    plain = photo(FLOWER)[None]
    cipher = pe(plain, colour_order=True)
    folded, decoded = feature_reconstruction.reconstruct(cipher), min_difference.reconstruct(cipher, True)
    folded, decoded = (min_difference.best_over_global(x, plain, mean_ssim) for x in (folded, decoded))
    assert mean_ssim(decoded, plain) > mean_ssim(folded, plain) + 0.2


@given(seed=st.integers(0, 999), colour_order=st.booleans())
@settings(max_examples=20, deadline=None)
def test_colours_that_stay_apart_and_on_their_side_of_the_middle_are_decoded_exactly(seed, colour_order):
    # distances to the middle of 20 .. 24, 60 .. 64 and 100 .. 104: the wrong choice is always farther off
    plain = np.random.default_rng(seed).integers(0, 5, (2, 9, 7, 3)).astype(np.uint8) + np.array(
        [148, 188, 228], np.uint8
    )
    found = min_difference.reconstruct(pe(plain, seed, colour_order), colour_order)
    found = min_difference.best_over_global(found, plain, likeness, colour_order=colour_order)
    assert np.array_equal(found, plain)
    plain_in = min_difference.reconstruct(plain, colour_order)
    assert np.array_equal(plain_in, plain)  # the first pixel stays, so nothing changes


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_without_a_colour_order_nothing_crosses_the_middle(seed):
    cipher = noise(2, 6, 8, seed=seed)
    found = min_difference.reconstruct(cipher, False)
    assert np.array_equal(found >= 128, np.broadcast_to(cipher[:, :1, :1] >= 128, cipher.shape))


@given(seed=st.integers(0, 999), colour_order=st.booleans())
@settings(max_examples=20, deadline=None)
def test_every_pixel_is_the_nearest_of_its_variants(seed, colour_order):
    cipher = noise(2, 5, 6, seed=seed)
    found = min_difference.reconstruct(cipher, colour_order).astype(int)
    assert np.array_equal(found[:, 0, 0], cipher[:, 0, 0])
    orders = COLOUR_ORDERS if colour_order else COLOUR_ORDERS[:1]
    near = [(0, -1), (0, -2), *itertools.product((-1, -2), (-2, -1, 0, 1, 2))]
    for image, y, x in itertools.product(range(2), range(5), range(6)):
        pixel = cipher[image, y, x].astype(int)
        variants = [
            np.where(flip, 255 - pixel[list(order)], pixel[list(order)])
            for order in orders
            for flip in itertools.product((False, True), repeat=3)
        ]
        assert any(np.array_equal(found[image, y, x], variant) for variant in variants)
        places = [(y + down, x + right) for down, right in near if y + down >= 0 and 0 <= x + right < 6]
        costs = [sum(np.abs(v - found[(image, *place)]).sum() for place in places) for v in variants]
        chosen = sum(np.abs(found[image, y, x] - found[(image, *place)]).sum() for place in places)
        assert chosen == min(costs)


def test_noise_is_not_decoded():
    plain = noise(2, 64, 64)
    cipher = pe(plain, colour_order=True)
    found = min_difference.best_over_global(min_difference.reconstruct(cipher, True), plain, mean_ssim)
    assert mean_ssim(found, plain) < 0.06
    flower = photo(FLOWER)[None]
    unrelated = min_difference.reconstruct(noise(1, 224, 224), True)
    assert mean_ssim(min_difference.best_over_global(unrelated, flower, mean_ssim), flower) < 0.1


@pytest.mark.parametrize("colour_order", [True, False])
def test_no_global_variant_is_nearer(colour_order):
    plain = np.stack([photo(FLOWER, 16), photo(CHINA, 16)])
    found = pe(plain, colour_order=True)
    best = min_difference.best_over_global(found, plain, mean_ssim, colour_order=colour_order)
    for image, truth, chosen in zip(found, plain, best, strict=True):
        variants = [
            np.where(flips, 255 - image[..., order], image[..., order])
            for order in (COLOUR_ORDERS if colour_order else COLOUR_ORDERS[:1])
            for flips in itertools.product((False, True), repeat=3)
        ]
        nearest = max(variants, key=lambda each: mean_ssim(each[None], truth[None]))
        assert np.array_equal(chosen, nearest)


def test_the_free_choice_is_made_for_every_image():
    plain = noise(3, 8, 8) // 4
    variants = plain.copy()
    variants[1] = 255 - plain[1]
    variants[2] = plain[2][..., [1, 2, 0]]
    assert np.array_equal(min_difference.best_over_global(variants, plain, likeness), plain)
    kept = min_difference.best_over_global(variants, plain, likeness, colour_order=False)
    assert np.array_equal(kept[:2], plain[:2])
    assert not np.array_equal(kept[2], plain[2])
