"""Known plaintext against ciphers with a key for every block position (EtC, ELE, PE): each position is solved alone.

Whatever a key does inside a block, the multiset of the block's values, taken the same for v and its negative, stays. So
blocks are matched by these first. Inside a matched block a value position of the ciphertext is a plain one with equal
values in all k pairs; the fewer pairs, the more of them look alike, unless the cipher moves whole pixels or pieces and
so leaves few possibilities (``_structured``).
"""

from __future__ import annotations

import numpy as np

from ppvit.audit.view import KeySpace
from ppvit.ciphers import AffineMap
from ppvit.ciphers.etc import COLOUR_ORDERS, orientations


def recover_key(plain: np.ndarray, cipher: np.ndarray, space: KeySpace, rng: np.random.Generator) -> AffineMap:
    """A key that turns the plain images into the ciphertexts, as far as one can be found.

    Args:
        plain, cipher: uint8, (k, N, V), values of the blocks of corresponding images.
        space: of a cipher with ``per_position``.
        rng: decides between what fits equally well.
    """
    blocks = _match_blocks(plain, cipher, space, rng) if space.scrambles else np.arange(space.blocks)
    moved = plain[:, blocks]
    if space.example.turns_blocks:
        permutation, sign = _structured(moved, cipher, *_etc_choices(space), space)
    elif space.example.keeps_pixels:
        permutation, sign = _by_pixel(moved, cipher, space)
    else:
        permutation, sign = _by_value(moved, cipher, space, rng)
    return AffineMap(blocks, permutation, sign, nibbles=space.nibbles)


def _match_blocks(plain: np.ndarray, cipher: np.ndarray, space: KeySpace, rng: np.random.Generator) -> np.ndarray:
    """kb, intp, (N,): blocks with equal multisets of values, v and its negative being the same, are put together."""
    codes = [
        [_folded(blocks[:, t], space.top).tobytes() for t in range(space.blocks)]  # sorted values of all k images
        for blocks in (plain, cipher)
    ]
    places = [_sorted_at_random(np.array(each, dtype=object), rng) for each in codes]
    kb = np.empty(space.blocks, np.intp)
    kb[places[1]] = places[0]
    return kb


def _folded(values: np.ndarray, top: int) -> np.ndarray:
    """Sorted min(v, top - v) along the last axis."""
    return np.sort(np.minimum(values, top - values), axis=-1)


def _sorted_at_random(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order that sorts ``codes``, with equal ones in random order."""
    order = rng.permutation(len(codes))
    return order[np.argsort(codes[order], kind="stable")]


def _by_value(
    plain: np.ndarray, cipher: np.ndarray, space: KeySpace, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Value permutation and signs, (N, V) each: positions with equal values in all pairs are put together."""
    words = rng.integers(0, 2**63, (len(plain), space.top + 1), dtype=np.int64)
    codes = [_codes(values, words) for values in (plain, cipher)]
    negatives = [_codes(space.top - values, words) for values in (plain, cipher)]
    permutation = np.empty((space.blocks, space.values), np.intp)
    for t in range(space.blocks):
        folded = [np.minimum(code[t], negative[t]) for code, negative in zip(codes, negatives, strict=True)]
        order = [_sorted_at_random(each, rng) for each in folded]
        permutation[t, order[1]] = order[0]
    upright = np.take_along_axis(codes[0], permutation, axis=1) == codes[1]
    return permutation, np.where(upright, 1, -1).astype(np.int8)


def _codes(values: np.ndarray, words: np.ndarray) -> np.ndarray:
    """A hash of the k values of every cell: (k, N, V) to int64 (N, V)."""
    return np.asarray(sum(word[image] for word, image in zip(words, values, strict=True)))


def _etc_choices(space: KeySpace) -> tuple[np.ndarray, np.ndarray]:
    """All 96 things that EtC may do to a block: value permutations, intp, (96, B), and signs, (96,)."""
    pixels = orientations(space.example.block_size)
    permutations = (COLOUR_ORDERS[:, None, :, None] * pixels.shape[1] + pixels[None, :, None, :]).reshape(
        -1, space.values
    )
    return np.concatenate([permutations, permutations]), np.repeat([1, -1], len(permutations))


def _structured(
    plain: np.ndarray, cipher: np.ndarray, permutations: np.ndarray, signs: np.ndarray, space: KeySpace
) -> tuple[np.ndarray, np.ndarray]:
    """For every block the choice that explains it best: value permutation and signs, (N, V) each."""
    error = np.stack(
        [
            np.abs((p if s > 0 else space.top - p).astype(np.int16) - cipher).sum(axis=(0, 2), dtype=np.int64)
            for p, s in (
                (plain[:, :, permutation], sign) for permutation, sign in zip(permutations, signs, strict=True)
            )
        ]
    )  # (choices, N)
    best = error.argmin(axis=0)
    return permutations[best], np.repeat(signs[best, None], space.values, axis=1).astype(np.int8)


def _by_pixel(plain: np.ndarray, cipher: np.ndarray, space: KeySpace) -> tuple[np.ndarray, np.ndarray]:
    """The colour order and signs that explain every pixel best: value permutation and signs, (N, V) each."""
    shape = (len(plain), space.blocks, 3, space.values // 3)
    x, y = plain.reshape(shape).astype(np.int16), cipher.reshape(shape).astype(np.int16)
    # every pixel in an order of its own, unless the cipher has an option that is off
    orders = COLOUR_ORDERS if getattr(space.example, "colour_order", True) else COLOUR_ORDERS[:1]
    upright = np.abs(x[:, :, None] - y[:, :, :, None]).sum(axis=0)  # (N, cipher colour, plain colour, pixels)
    inverted = np.abs(space.top - x[:, :, None] - y[:, :, :, None]).sum(axis=0)
    either = np.minimum(upright, inverted)
    colours = np.arange(3)
    cost = np.stack([either[:, colours, order].sum(axis=1) for order in orders])  # (orders, N, pixels)
    order = orders[cost.argmin(axis=0)].transpose(0, 2, 1)  # (N, 3, pixels)
    chosen = [np.take_along_axis(each, order[:, :, None], axis=2)[:, :, 0] for each in (upright, inverted)]
    sign = np.where(chosen[0] <= chosen[1], 1, -1).astype(np.int8)
    permutation = order * shape[3] + np.arange(shape[3])
    return permutation.reshape(space.blocks, -1), sign.reshape(space.blocks, -1)
