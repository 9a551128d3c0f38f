"""Pooled ciphertext-only attack: the key from the statistics of many ciphertexts, without any plain image.

A key that is the same for all blocks keeps every pixel of the block in its own column of the table of all blocks, and
pixels that are neighbours in the picture vary alike. So, over all blocks of all images:

1. signs: a column that was inverted correlates negatively with its neighbours;
2. colours: the three components of the nearest-neighbour graph of the columns;
3. layout: within a colour, distances along that graph, classical scaling to the plane (Isomap: Tenenbaum, de Silva
   and Langford, Science 2000), and an assignment to the p x p grid that follows the plane's smooth distortion;
4. the three grids are turned alike by cross-colour distances, and columns are reassigned and swapped as long as every
   distance gets closer to what its offset in the grid predicts;
5. the blocks, now pictures, are a jigsaw puzzle whose edges all images share (:mod:`ppvit.audit.solvers.placement`).

Nothing in a picture says which of its eight flips and rotations, which order of the colours and, under inversion,
which of it and its negative is the true one: :func:`equivalent_keys` and :func:`best_over_symmetries` are for scores
that are the best over these. What the cipher does not key is known, and fixes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ppvit.audit.amount import Amount
from ppvit.audit.base import attack
from ppvit.audit.score import mean_ssim
from ppvit.audit.solvers.grid_layout import GridLayout, planar_layout
from ppvit.audit.solvers.placement import edge_costs, place
from ppvit.audit.solvers.rotation import recover_rotation
from ppvit.audit.solvers.symmetry import best_over_symmetries, equivalent_keys, turns
from ppvit.audit.solvers.value_layout import value_layout
from ppvit.audit.view import Finding, View, decrypt, not_attacked, to_blocks
from ppvit.ciphers import AffineMap

_ALIGNED = 4  # images that decide on the symmetry
MAX_ROWS = 40_000  # blocks that the column statistics use; more do not change them
MAX_EDGES = 15 * 10**7  # pairs of pieces compared for the block order, over all images
MAX_COLUMNS = 192  # values of a block that stand for all of it when looking for neighbours position by position


@attack("pooled", "pooled", ciphertext_only=True, reads=("pooled_images", "known_pairs"), counts="ciphertext", place=4)
def find(view: View) -> Iterator[Finding]:
    """Find the key from the statistics of many ciphertexts, without any plain image."""
    space, pooled, public = view.space, view.pooled, view.public_plain
    if pooled is None or view.encrypted.ndim != 4 or space.nibbles or (space.dense and public is None):
        yield not_attacked("the values of this ciphertext are no pixels that could be put in order.")
        return
    if space.dense and public is not None:
        yield from _attack_rotation(view, pooled, public)
        return
    keyed = {name: getattr(space, name) for name in ("scrambles", "shuffles", "inverts")}

    def align(images: np.ndarray, plain: np.ndarray) -> np.ndarray:
        return best_over_symmetries(images, plain, _few_ssim, negative=space.inverts)[0]

    amounts = list(view.amounts(view.pooled_images))
    for amount in amounts:
        rng = np.random.default_rng((view.seed, amount.images))
        used = view.part(pooled, amount)
        key = recover_key(used, view.block_size, per_position=space.per_position, rng=rng, **keyed)
        yield Finding(
            _ciphertexts(amount),
            decrypt(view.encrypted, key, view.block_size),
            key if space.mapped else None,
            variant=amount.variant,
            headline=amount == amounts[-1],
            free="flips, colour order and negative of all pictures alike",
            align=align,
            # where every position has its own key, only the order of the blocks is looked for
            equivalents=None
            if space.per_position
            else lambda key: equivalent_keys(key, view.block_size, view.image_size, **keyed),
        )


def _attack_rotation(view: View, pooled: np.ndarray, public: np.ndarray) -> Iterator[Finding]:
    plain = to_blocks(public, view.block_size).reshape(-1, view.space.values) - 127.5
    amounts = list(view.amounts(view.pooled_images))
    for amount in amounts:
        blocks = to_blocks(view.part(pooled, amount), view.block_size).reshape(-1, view.space.values)
        matrix = view.space.scale * recover_rotation(blocks.astype(np.float64) - 127.5, plain)
        key = replace(AffineMap.identity(view.space.blocks, view.space.values), matrix=matrix)
        yield Finding(
            f"{_ciphertexts(amount)} and other plain images",
            decrypt(view.encrypted, key, view.block_size),
            key,
            variant=amount.variant,
            headline=amount == amounts[-1],
            free="the negative of all pictures alike",
            align=lambda images, plain: max(images, 255 - images, key=lambda each: _few_ssim(each, plain)),
        )


def _ciphertexts(amount: Amount) -> str:
    if amount.views > 1:
        return f"{'one image' if amount.images == 1 else f'{amount.images} images'}{amount.words}, encrypted"
    return "one ciphertext" if amount.images == 1 else f"{amount.images} ciphertexts"


def _few_ssim(images: np.ndarray, plain: np.ndarray) -> float:
    # one symmetry serves all images, so a few of them tell which
    return mean_ssim(images[:_ALIGNED], plain[:_ALIGNED])


def recover_key(
    encrypted: np.ndarray,
    block_size: int,
    *,
    scrambles: bool,
    shuffles: bool,
    inverts: bool,
    per_position: bool = False,
    rng: np.random.Generator,
) -> AffineMap:
    """A key under which the ciphertexts look like pictures.

    Args:
        encrypted: uint8, (n, H, W, 3), all under one key.
        block_size: side p of a block in pixels.
        scrambles, shuffles, inverts: what the key chooses: block permutation, value permutation, sign mask.
        per_position: every block position has a value permutation and sign mask of its own. Then the images show which
            positions are neighbours, and only the block permutation is looked for; the others are the identity, (N, B).
        rng: chooses rows where there are too many, and starting points.

    Returns:
        The key, correct at best up to the symmetries of :func:`equivalent_keys`; parts not keyed are the identity.
    """
    blocks = to_blocks(encrypted, block_size)
    _, number, values = blocks.shape
    shape = encrypted.shape[1] // block_size, encrypted.shape[2] // block_size
    key = AffineMap(np.arange(number), np.arange(values), np.ones(values, np.int8))
    if per_position:
        order = _order_of_positions(blocks, shape, rng) if scrambles else key.block_permutation
        return AffineMap(order, np.tile(key.value_permutation, (number, 1)), np.tile(key.sign, (number, 1)))
    if shuffles or inverts:
        rows = blocks.reshape(-1, values)
        if len(rows) > MAX_ROWS:
            rows = rows[np.sort(rng.choice(len(rows), MAX_ROWS, replace=False))]
        rows = rows.astype(np.float32)
        if inverts:
            key = _replace(key, sign=_signs(rows))
        if shuffles:
            key = _replace(key, values=value_layout(_upright(rows, key.sign), block_size, rng))
        if inverts:
            key = _replace(key, sign=_agree_in_detail(rows, key))
    few = max(1, MAX_EDGES // number**2)
    pictures = _pictures(blocks[:few], key, block_size)
    if scrambles:
        placed = place(edge_costs(pictures), *shape)
        order = np.empty(number, np.intp)
        order[placed] = np.arange(number)
        return _replace(key, blocks=order)
    return _turn_upright(key, pictures, block_size, shape) if shuffles else key


def _replace(
    key: AffineMap,
    blocks: np.ndarray | None = None,
    values: np.ndarray | None = None,
    sign: np.ndarray | None = None,
) -> AffineMap:
    return AffineMap(
        key.block_permutation if blocks is None else blocks,
        key.value_permutation if values is None else values,
        key.sign if sign is None else sign,
    )


def _upright(rows: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return np.where(sign < 0, 255 - rows, rows)


def _pictures(blocks: np.ndarray, key: AffineMap, block_size: int) -> np.ndarray:
    """Blocks in ciphertext order with their values put in place: (n, N, B) to (n, N, p, p, 3), uint8."""
    plain = np.empty_like(blocks)
    plain[..., key.value_permutation] = _upright(blocks, key.sign)
    return plain.reshape(*blocks.shape[:2], 3, block_size, block_size).transpose(0, 1, 3, 4, 2)


def _order_of_positions(blocks: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Block permutation when values are permuted differently at every position: neighbours share correlated pixels.

    (n, N, B) to intp (N,). Over the images, a border pixel varies like some pixel of the neighbour, no matter which.
    """
    images, number, values = blocks.shape
    columns = np.sort(rng.choice(values, min(values, MAX_COLUMNS), replace=False))
    rows = blocks[:, :, columns].transpose(1, 2, 0).astype(np.float32)  # (N, S, n)
    rows -= rows.mean(axis=2, keepdims=True)
    rows /= np.sqrt((rows**2).sum(axis=2, keepdims=True)) + 1e-3
    border = max(1, round(len(columns) / (values / 3) ** 0.5))  # that many of the columns lie at one edge
    distances = np.zeros((number, number))
    for one in range(number - 1):
        correlation = np.abs(rows[one] @ rows[one + 1 :].reshape(-1, images).T)
        strongest = correlation.reshape(len(columns), -1, len(columns)).max(axis=2)  # (S, others)
        distances[one, one + 1 :] = 1 - np.sort(strongest, axis=0)[-border:].mean(axis=0)
    distances = np.maximum(distances + distances.T, 0) + 1e-6
    layout = GridLayout(distances, *shape)
    # who is a neighbour is sure, but how near depends on what is there, so that all steps count about the same
    found = [layout.refine(planar_layout(distances**0.25, *shape, neighbours)) for neighbours in (4, 5, 8)]
    return min(found, key=layout.misfit)


# --- signs


def _signs(rows: np.ndarray) -> np.ndarray:
    """Directions of the columns relative to each other, int8, (B,), along the strongest absolute correlations."""
    centred = rows - rows.mean(axis=0)
    centred /= np.maximum(np.sqrt((centred**2).mean(axis=0)), 1e-6)
    correlation = centred.T @ centred / len(rows)
    strength = np.abs(correlation)
    sign, reached = np.ones(len(strength), np.int8), np.zeros(len(strength), bool)
    strongest, towards = strength[0].copy(), np.zeros(len(strength), np.intp)
    reached[0] = True
    for _ in range(len(strength) - 1):  # Prim's tree, in time of the square of their number
        there = int(np.argmax(np.where(reached, -1, strongest)))
        sign[there] = sign[towards[there]] * (1 if correlation[towards[there], there] >= 0 else -1)
        reached[there] = True
        closer = strength[there] > strongest
        strongest[closer], towards[closer] = strength[there][closer], there
    return sign


def _agree_in_detail(rows: np.ndarray, key: AffineMap) -> np.ndarray:
    """Turn whole colours over whose detail runs against the first's: areas may differ in hue, but edges agree."""
    plain = np.empty_like(rows)
    plain[:, key.value_permutation] = _upright(rows, key.sign)
    detail = plain.reshape(len(rows), 3, -1)
    detail = detail - detail.mean(axis=2, keepdims=True)
    detail /= np.sqrt((detail**2).mean(axis=(1, 2), keepdims=True) + 1)
    agreement = np.einsum("rci,rdi->cd", detail, detail)
    direction = np.ones(3)
    strongest = max(((0, 1), (0, 2), (1, 2)), key=lambda pair: abs(agreement[pair]))
    direction[strongest[1]] = np.sign(agreement[strongest]) or 1
    third = 3 - sum(strongest)
    direction[third] = np.sign(sum(direction[c] * agreement[c, third] for c in strongest)) or 1
    colour = key.value_permutation // (rows.shape[1] // 3)
    return np.asarray(key.sign * direction[colour], np.int8)


def _turn_upright(key: AffineMap, pictures: np.ndarray, side: int, shape: tuple[int, int]) -> AffineMap:
    """Blocks whose order is known fit each other in one of the eight ways only."""
    grid = np.arange(len(key.block_permutation)).reshape(shape)

    def misfit(turn: np.ndarray) -> float:
        source = np.argsort(turn)
        flat = pictures.reshape(*pictures.shape[:2], side * side, 3)[:, :, source]
        costs = edge_costs(flat.reshape(pictures.shape))
        return float(costs[0][grid[:, :-1], grid[:, 1:]].sum() + costs[1][grid[:-1], grid[1:]].sum())

    turn = min(turns(side), key=misfit)
    colour, cell = np.divmod(key.value_permutation, side * side)
    return _replace(key, values=colour * side * side + turn[cell])
