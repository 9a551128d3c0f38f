"""Chosen-plaintext attack: a few helper images, sent through an encryption oracle, spell out where every value goes.

A permutation of L values is read off ceil(log_b L) images: image d holds the d-th digit, to the base b, of every
value's own place. Inversion takes digit v to 255 - v, so digits stay below 128 where the cipher inverts, and whatever
comes back above has been inverted (for nibbles 15 - v, digits below 8). A matrix on block vectors takes as many blocks
as it has columns, and one more for the constant; a permutation of the 256 values takes every value once a position.

Where every image has a key of its own, what the helper images reveal is of no use for any other image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import numpy as np

from ppvit.audit.base import attack
from ppvit.audit.solvers.value_table import ValueTable
from ppvit.audit.view import (
    Finding,
    KeySpace,
    View,
    decrypt,
    from_blocks,
    nearest_rotation,
    not_attacked,
    to_blocks,
    to_values,
)
from ppvit.ciphers import AffineMap
from ppvit.ciphers.gather import join_nibbles


@attack("chosen_plaintext", "chosen", place=3)
def find(view: View) -> Iterator[Finding]:
    """Have a few images of the attacker's choice encrypted, which tell the whole key."""
    space = view.space
    if view.oracle is None or view.encrypted.ndim != 4:
        yield not_attacked("no attack here reads a key out of chosen images for this cipher.")
        return
    key = None
    if space.example.replaces_values:
        helpers = value_helpers(view.block_size, space)
        answers = view.oracle(helpers)
        images = ValueTable.of(to_blocks(helpers, view.block_size), to_blocks(answers, view.block_size)).decrypt(
            view.encrypted, view.block_size
        )
    elif space.dense:
        helpers = basis_helpers(view.block_size, space)
        key = matrix_from_answers(view.oracle(helpers), view.block_size, space)
        images = decrypt(view.encrypted, key, view.block_size)
    else:
        helpers = digit_helpers(view.block_size, space)
        key = permutation_from_answers(view.oracle(helpers), view.block_size, space)
        images = decrypt(view.encrypted, key, view.block_size)
    needs = f"an encryption oracle and {len(helpers)} helper images"
    scores: dict[str, float] = {"images_needed": len(helpers)}
    yield Finding(needs, images, key if space.mapped else None, headline=True, scores=scores)


def digit_base(space: KeySpace) -> int:
    """How many digits a value can tell apart: half of its range where it may come back inverted."""
    inverts = space.inverts or not space.mapped
    return (space.top + 1) // 2 if inverts else space.top + 1


def digit_helpers(block_size: int, space: KeySpace) -> np.ndarray:
    """Images whose values spell their own places: uint8, (ceil(log_b L), H, W, 3), L = N V."""
    places, base = np.arange(space.blocks * space.values), digit_base(space)
    digits: list[np.ndarray] = []
    while base ** len(digits) < len(places):
        digits.append(places // base ** len(digits) % base)
    blocks = np.array(digits, np.uint8).reshape(-1, space.blocks, space.values)
    return _to_images(blocks, block_size, space)


def _to_images(blocks: np.ndarray, block_size: int, space: KeySpace) -> np.ndarray:
    if not space.nibbles:
        return from_blocks(blocks, block_size)
    high, low = np.split(blocks, 2, axis=2)  # nibbles lie high before low, as in split_nibbles
    pair = np.stack([from_blocks(high, block_size), from_blocks(low, block_size)])
    return join_nibbles(np.concatenate(list(pair), axis=-1))


def permutation_from_answers(answers: np.ndarray, block_size: int, space: KeySpace) -> AffineMap:
    """The key from the encrypted :func:`digit_helpers`; what comes back as no permutation is the identity."""
    values, base = to_values(answers, block_size, space).astype(np.int64), digit_base(space)
    inverted = values[0] >= base
    digits = np.where(inverted, space.top - values, values)
    source = np.einsum("dtv,d->tv", digits, base ** np.arange(len(values)))  # (N, V): flat place of the plain value
    source = np.minimum(source, space.blocks * space.values - 1)
    blocks, permutation = np.divmod(source, space.values)
    sign = np.where(inverted, -1, 1).astype(np.int8)
    if not space.per_position:
        permutation, sign = permutation[0], sign[0]
    return AffineMap(_permutation(blocks[:, 0]), _permutation(permutation), sign, nibbles=space.nibbles)


def _permutation(found: np.ndarray) -> np.ndarray:
    """``found``, or the identity where it is no permutation (along the last axis)."""
    identity = np.broadcast_to(np.arange(found.shape[-1]), found.shape)
    proper = (np.sort(found, axis=-1) == identity).all(axis=-1, keepdims=True)
    return np.where(proper, found, identity).astype(np.intp)


def basis_helpers(block_size: int, space: KeySpace) -> np.ndarray:
    """Images of black blocks in which one value is white, a different one in each, and one that is all black."""
    count = ceil((space.values + 1) / space.blocks)
    blocks = np.zeros((count * space.blocks, space.values), np.uint8)
    blocks[np.arange(space.values), np.arange(space.values)] = 255
    return from_blocks(blocks.reshape(count, space.blocks, -1), block_size)


def matrix_from_answers(answers: np.ndarray, block_size: int, space: KeySpace) -> AffineMap:
    """The matrix from the encrypted :func:`basis_helpers`: white minus black is a column of it times 255.

    Where the ciphertext is rounded, the nearest multiple of a rotation is nearer to the truth.
    """
    seen = to_blocks(answers, block_size).astype(np.float64).reshape(-1, space.values)
    columns = (seen[: space.values] - seen[space.values]).T / 255
    return replace(AffineMap.identity(space.blocks, space.values), matrix=space.scale * nearest_rotation(columns))


def value_helpers(block_size: int, space: KeySpace) -> np.ndarray:
    """Images in which every value position takes all 256 values over the blocks: uint8, (ceil(256 / N), H, W, 3)."""
    count = ceil(256 / space.blocks)
    values = np.arange(count * space.blocks)[:, None] + np.arange(space.values)
    return from_blocks((values % 256).astype(np.uint8).reshape(count, space.blocks, -1), block_size)
