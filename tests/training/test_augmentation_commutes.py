"""Augmenting and then encrypting is encrypting and then augmenting, for every cipher and augmentation that says so.

A new cipher gets its row by being registered: what it claims is measured through ``encrypt``, and through the map of
those that have one. ``python tests/training/test_augmentation_commutes.py`` writes the page's table anew.
"""

import copy
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from test_ciphers import PUBLISHED, VARIANTS, cipher_of

from ppvit.adaptation.embedding import encrypt_embedding, fold_normalization, read_embedding, write_embedding
from ppvit.ciphers import CIPHERS
from ppvit.ciphers.keys import Key
from ppvit.config import Augment
from ppvit.models import model_input
from ppvit.training.augmentation import AUGMENTATIONS, lacking

PAGE = Path(__file__).parents[2] / "docs" / "augmentation.md"
SIDE, BLOCK, IMAGES, BLOCKS = 16, 4, 4, 16
IDS = np.arange(IMAGES)
ON_IMAGES = [name for name, kind in AUGMENTATIONS.items() if kind.needs]  # the others act inside of the model
# draws under which whole bytes stay whole bytes, for odd values from 85 to 170
WHOLE = {"mixup": 0.5, "contrast": 3.0, "brightness": 20 / 127.5}


@cache
def cipher(variant):
    return cipher_of(variant, Key(bytes(range(32))), SIDE, BLOCK)


def pairs(holds) -> list[tuple[str, str]]:
    """Variants and augmentations of which ``holds(lacking facts)``."""
    made = [(variant, name) for variant in VARIANTS for name in AUGMENTATIONS]
    return [(variant, name) for variant, name in made if holds(lacking(AUGMENTATIONS[name], cipher(variant).facts))]


COMMUTING, REFUSED = pairs(lambda missing: not missing), pairs(bool)


def augmentation(name):
    return AUGMENTATIONS[name](Augment(names=[name], erase_probability=1.0), BLOCKS)


def bytes_of(seed=0):
    """Odd values from 85 to 169."""
    return (85 + 2 * np.random.default_rng(seed).integers(0, 43, (IMAGES, SIDE, SIDE, 3))).astype(np.uint8)


def u_of(values):
    """(n, H, W, 3), bytes or float, as the model takes them, in float64."""
    return model_input(torch.from_numpy(np.asarray(values, np.float64)).permute(0, 3, 1, 2))


def values_of(u):
    return (u * 127.5 + 127.5).permute(0, 2, 3, 1).numpy()


def encrypted(variant, values):
    """Ciphertext before it is rounded, as far as a cipher rounds any."""
    used = cipher(variant)
    return used.encrypt(values, IDS) if used.image_keys else used.encrypt_exactly(values)


def drawn_for(name, variant, whole=False):
    """What is drawn for plain images, and the same for their ciphertext: sets of blocks move along."""
    made = augmentation(name)
    drawn = made.draw(np.random.default_rng(1), IMAGES)
    if whole and name in WHOLE:
        drawn = np.full(IMAGES, WHOLE[name])
    if made.pairs:
        drawn = drawn[::2].repeat(2, axis=0)
    moved = np.take_along_axis(drawn, sources(variant), axis=1) if made.by_block else drawn
    return torch.from_numpy(drawn), torch.from_numpy(moved)


@cache
def sources(variant):
    """Which plain block every block of the ciphertext shows, (images, N), found by changing one block after another."""
    used, grey = cipher(variant), np.full((IMAGES, SIDE, SIDE, 3), 120, np.uint8)
    before = used.encrypt(grey, IDS)
    found = np.full((IMAGES, BLOCKS), -1)
    for block in range(BLOCKS):
        row, column = BLOCK * (block // 4), BLOCK * (block % 4)
        changed = grey.copy()
        changed[:, row : row + BLOCK, column : column + BLOCK] = bytes_of()[0, :BLOCK, :BLOCK]
        differs = (used.encrypt(changed, IDS) != before).reshape(IMAGES, 4, BLOCK, 4, BLOCK, 3).any(axis=(2, 4, 5))
        assert (differs.sum(axis=(1, 2)) == 1).all() or not used.keeps_blocks
        found[differs.reshape(IMAGES, BLOCKS)] = block
    return found


def both_sides(variant, name):
    """The augmented image encrypted, and the ciphertext augmented, both as u; on whole bytes through ``encrypt``."""
    plain, made = bytes_of(), augmentation(name)
    of_plain, of_ciphertext = drawn_for(name, variant, whole=True)
    targets = torch.eye(IMAGES, dtype=torch.float64)
    changed, expected = made.apply(u_of(plain), targets, of_plain)
    after, found = made.apply(u_of(encrypted(variant, plain)), targets, of_ciphertext)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    values = values_of(changed)
    low, high = np.floor(values + 1e-6), np.ceil(values - 1e-6)  # mid-grey lies between two bytes
    before = (encrypted(variant, low.astype(np.uint8)) / 2.0) + (encrypted(variant, high.astype(np.uint8)) / 2.0)
    return u_of(before), after


def extended(variant):
    """The cipher on any u, by its map in gather form; None for one that has no map over bytes."""
    maps = [cipher(variant).image_map(number) for number in IDS]
    if maps[0] is None or maps[0].nibbles:
        return None

    def encrypt(u):
        grid = u.numpy().reshape(IMAGES, 3, 4, BLOCK, 4, BLOCK).transpose(0, 2, 4, 1, 3, 5)
        blocks = grid.reshape(IMAGES, BLOCKS, -1)
        result = np.empty_like(blocks)
        for image, each in enumerate(maps):
            kp = np.broadcast_to(each.value_permutation, blocks.shape[1:])
            result[image] = each.sign * np.take_along_axis(blocks[image][each.block_permutation], kp, axis=1)
            if each.matrix is not None:
                result[image] = result[image] @ each.matrix.T
        grid = result.reshape(IMAGES, 4, 4, 3, BLOCK, BLOCK).transpose(0, 3, 1, 4, 2, 5)
        return torch.from_numpy(np.ascontiguousarray(grid.reshape(IMAGES, 3, SIDE, SIDE)))

    return encrypt


@pytest.mark.parametrize(("variant", "name"), [pair for pair in COMMUTING if pair[1] in ON_IMAGES])
def test_commutes_through_encrypt(variant, name):
    before, after = both_sides(variant, name)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    assert not torch.equal(after, u_of(encrypted(variant, bytes_of())))  # it did something


@pytest.mark.parametrize(
    ("variant", "name"), [(variant, name) for variant, name in COMMUTING if extended(variant) and name in ON_IMAGES]
)
def test_commutes_on_any_numbers(variant, name):
    """In float64: to the last bit where values change places or sign, to rounding where a matrix sums them."""
    encrypt, made, u = extended(variant), augmentation(name), u_of(bytes_of(2))
    torch.testing.assert_close(encrypt(u), u_of(encrypted(variant, bytes_of(2))), rtol=0, atol=1e-12)
    of_plain, of_ciphertext = drawn_for(name, variant)
    targets = torch.eye(IMAGES, dtype=torch.float64)
    before = encrypt(made.apply(u, targets, of_plain)[0])
    after = made.apply(encrypt(u), targets, of_ciphertext)[0]
    exact = cipher(variant).isometry(cipher(variant).settings) == "values"
    torch.testing.assert_close(before, after, rtol=0, atol=0 if exact else 1e-12)


@pytest.mark.parametrize("variant", [variant for variant, name in COMMUTING if name == "cutmix_blocks"])
def test_exchanged_blocks_are_exchanged_bytes(variant):
    """Stored ciphertext, rounded or not: the very numbers that the exchanged image has."""
    used, plain, made = cipher(variant), bytes_of(), augmentation("cutmix_blocks")
    of_plain, of_ciphertext = drawn_for("cutmix_blocks", variant)
    targets = torch.zeros(IMAGES, 1)

    def exchanged(stored, drawn):
        return made.apply(torch.from_numpy(stored).permute(0, 3, 1, 2), targets, drawn)[0].permute(0, 2, 3, 1).numpy()

    np.testing.assert_array_equal(
        used.encrypt(exchanged(plain, of_plain)), exchanged(used.encrypt(plain), of_ciphertext)
    )


@pytest.mark.parametrize("name", ["mixup", "cutmix_blocks", "erase_blocks"])
def test_rounding_of_stored_ciphertext_does_not_grow(name):
    """Under a cipher that stores bytes, what is augmented is as far from exact as what is stored, and no farther."""
    variant, made = "orthogonal uint8", augmentation(name)
    exact, stored = u_of(encrypted(variant, bytes_of())), u_of(cipher(variant).encrypt(bytes_of()))
    drawn = drawn_for(name, variant)[1]
    targets = torch.zeros(IMAGES, 1, dtype=torch.float64)
    rounding = (stored - exact).abs().max()
    assert 0 < rounding <= 0.5 / 127.5
    assert (
        made.apply(stored, targets, drawn)[0] - made.apply(exact, targets, drawn)[0]
    ).abs().max() <= rounding + 1e-12


MIDDLE_OF_NIBBLES = {("le", "erase_blocks"), ("ele", "erase_blocks"), ("le 1 px", "erase_blocks")}
"""127 and 128 are opposite in every nibble, so that their mean stays mid-grey; no model of bytes can take it."""


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        (variant, name)
        for variant, name in REFUSED
        if VARIANTS[variant][0] in PUBLISHED and not cipher(variant).makes_tokens
        if (variant, name) not in MIDDLE_OF_NIBBLES
    ],
)
def test_what_is_refused_does_not_commute(variant, name):
    """By grey levels, not by rounding; so nothing is refused that could be had."""
    before, after = both_sides(variant, name)
    assert (before - after).abs().max() > 3 / 127.5


# through a model: adapted by the owner, augmented by the trainer

MAPPED = [variant for variant in VARIANTS if cipher(variant).affine_map() is not None]


@cache
def plain_model():
    return tiny_backbone().model.double()  # for mean and standard deviation 0.5, which is u


@cache
def adapted_model(variant):
    model = copy.deepcopy(plain_model())
    plain = fold_normalization(read_embedding(model), (0.5,) * 3, (0.5,) * 3)
    write_embedding(model, encrypt_embedding(plain, cipher(variant).affine_map()))
    return model


def logits_of(model, name, inputs, drawn):
    """With the augmentation attached, as in training."""
    made = augmentation(name)
    if not made.needs:
        made.attach(model)
    model.train()
    inputs, _ = made.apply(inputs, torch.eye(IMAGES, dtype=torch.float64), drawn)
    with torch.no_grad():
        logits = model(inputs)
    model.eval()
    made.detach() if not made.needs else None
    return logits


def difference_of_logits(variant, name):
    images = np.random.default_rng(3).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    of_plain, of_ciphertext = drawn_for(name, variant)
    plain = logits_of(plain_model(), name, u_of(images), of_plain)
    adapted = logits_of(adapted_model(variant), name, u_of(encrypted(variant, images)), of_ciphertext)
    return (plain - adapted).abs().max().item()


@pytest.mark.parametrize(("variant", "name"), [pair for pair in COMMUTING if pair[0] in MAPPED])
def test_adapted_model_sees_the_augmented_image(variant, name):
    assert difference_of_logits(variant, name) < 1e-10


@pytest.mark.parametrize(("variant", "name"), [pair for pair in REFUSED if pair[0] in MAPPED])
def test_adapted_model_would_see_another_image(variant, name):
    assert difference_of_logits(variant, name) > 1e-2


# what ciphers claim, and where it is told

FACTS = {  # of the literature; the values below are those of the spec
    "linear": PUBLISHED - {"le", "ele", "ffx", "neuracrypt"},
    "permutes": {"none", "shuffle", "scramble", "block", "pixel_position", "restricted", "disposable"},
    "keeps_blocks": PUBLISHED - {"neuracrypt"},
    "one_key": PUBLISHED - {"disposable", "neuracrypt"},
}


@pytest.mark.parametrize("fact", FACTS)
def test_facts_of_the_published_ciphers(fact):
    assert {name for name in PUBLISHED if cipher(name).facts[fact]} == FACTS[fact]


def test_a_cipher_that_says_nothing_is_given_nothing_but_what_needs_nothing():
    from ppvit.ciphers import Cipher

    silent = {
        "linear": Cipher.linear,
        "permutes": Cipher.permutes,
        "keeps_blocks": Cipher.keeps_blocks,
        "one_key": True,
    }
    assert [name for name, kind in AUGMENTATIONS.items() if not lacking(kind, silent)] == ["drop_tokens"]


def row(variant):
    """The cells of a cipher in the page."""
    name, options = VARIANTS[variant]
    shown = {} if variant == name else options
    said = ", ".join(f"`{option}={value}`" for option, value in shown.items())
    cells = ["no" if lacking(kind, cipher(variant).facts) else "yes" for kind in AUGMENTATIONS.values()]
    return f"| `{name}`{' with ' + said if said else ''} | {' | '.join(cells)} |"


SHOWN = [*sorted(PUBLISHED, key=list(CIPHERS).index), "pe per image"]


def test_the_page_says_what_is_tested_here():
    text = PAGE.read_text(encoding="utf-8")
    header = f"| cipher | {' | '.join(f'`{name}`' for name in AUGMENTATIONS)} |"
    assert re.findall(r"^\| cipher .*$|^\| `\w+`.* (?:yes|no) \|$", text, re.M) == [header, *map(row, SHOWN)]


if __name__ == "__main__":
    print(*map(row, SHOWN), sep="\n")
