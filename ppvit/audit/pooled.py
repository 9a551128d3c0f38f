"""Pooled ciphertext-only attack: the key from the statistics of many ciphertexts, without any plain image.

A key that is the same for all blocks keeps every pixel of the block in its own column of the table of all blocks, and
pixels that are neighbours in the picture vary alike. So, over all blocks of all images:

1. signs: a column that was inverted correlates negatively with its neighbours;
2. colours: the three components of the nearest-neighbour graph of the columns;
3. layout: within a colour, distances along that graph, classical scaling to the plane (Isomap: Tenenbaum, de Silva
   and Langford, Science 2000), and an assignment to the p x p grid that follows the plane's smooth distortion;
4. the three grids are turned alike by cross-colour distances, and columns are reassigned and swapped as long as every
   distance gets closer to what its offset in the grid predicts;
5. the blocks, now pictures, are a jigsaw puzzle whose edges all images share (:mod:`ppvit.audit.placement`).

Nothing in a picture says which of its eight flips and rotations, which order of the colours and, under inversion,
which of it and its negative is the true one: :func:`equivalent_keys` and :func:`best_over_symmetries` are for scores
that are the best over these. What the cipher does not key is known, and fixes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from ppvit.audit.grid_layout import GridLayout, neighbour_graph, planar_layout
from ppvit.audit.placement import edge_costs, place
from ppvit.audit.rotation import recover_rotation
from ppvit.audit.score import mean_ssim
from ppvit.audit.symmetry import best_over_symmetries, equivalent_keys, turns
from ppvit.audit.view import Finding, View, decrypt, to_blocks
from ppvit.ciphers import AffineMap

_ALIGNED = 4  # images that decide on the symmetry
MAX_ROWS = 40_000  # blocks that the column statistics use; more do not change them
MAX_EDGES = 15 * 10**7  # pairs of pieces compared for the block order, over all images
MAX_COLUMNS = 192  # values of a block that stand for all of it when looking for neighbours position by position


def attack(view: View) -> Iterator[Finding]:
    """Find the key from 1, 20, 100 … ciphertexts, as ``view.pooled_images`` says; the largest is the headline."""
    space = view.space
    if view.pooled is None or view.encrypted.ndim != 4 or space.nibbles:
        says = "Does not apply: the values of this ciphertext are no pixels that could be put in order."
        yield Finding("ciphertexts", view.pictures, headline=True, says=says)
        return
    if space.dense:
        yield from _attack_rotation(view)
        return
    keyed = {name: getattr(space, name) for name in ("scrambles", "shuffles", "inverts")}

    def align(images: np.ndarray, plain: np.ndarray) -> np.ndarray:
        return best_over_symmetries(images, plain, _few_ssim, negative=space.inverts)[0]

    for count in view.pooled_images:
        rng = np.random.default_rng((view.seed, count))
        key = recover_key(view.pooled[:count], view.block_size, per_position=space.per_position, rng=rng, **keyed)
        yield Finding(
            "one ciphertext" if count == 1 else f"{count} ciphertexts",
            decrypt(view.encrypted, key, view.block_size),
            key if space.mapped else None,
            variant=str(count),
            headline=count == view.pooled_images[-1],
            free="flips, colour order and negative of all pictures alike",
            align=align,
            # where every position has its own key, only the order of the blocks is looked for
            equivalents=None
            if space.per_position
            else lambda key: equivalent_keys(key, view.block_size, view.image_size, **keyed),
        )


def _attack_rotation(view: View) -> Iterator[Finding]:
    plain = to_blocks(view.public_plain, view.block_size).reshape(-1, view.space.values) - 127.5
    for count in view.pooled_images:
        blocks = to_blocks(view.pooled[:count], view.block_size).reshape(-1, view.space.values)
        matrix = view.space.scale * recover_rotation(blocks.astype(np.float64) - 127.5, plain)
        key = replace(AffineMap.identity(view.space.blocks, view.space.values), matrix=matrix)
        needs = f"{count} ciphertext{'s' if count > 1 else ''} and other plain images"
        yield Finding(
            needs,
            decrypt(view.encrypted, key, view.block_size),
            key,
            variant=str(count),
            headline=count == view.pooled_images[-1],
            free="the negative of all pictures alike",
            align=lambda images, plain: max(images, 255 - images, key=lambda each: _few_ssim(each, plain)),
        )


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
            key = _replace(key, values=_value_layout(_upright(rows, key.sign), block_size, rng))
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


def _replace(key: AffineMap, blocks=None, values=None, sign=None) -> AffineMap:
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
    tree = minimum_spanning_tree(np.maximum(1.0 - np.abs(correlation), 0) + 1e-9).toarray() > 0
    sign, reached, border = np.ones(len(tree), np.int8), {0}, [0]
    tree |= tree.T
    while border:
        here = border.pop()
        for there in np.flatnonzero(tree[here]):
            if there not in reached:
                reached.add(there)
                border.append(there)
                sign[there] = sign[here] * (1 if correlation[here, there] >= 0 else -1)
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
    return (key.sign * direction[colour]).astype(np.int8)


# --- layout of the values in a block


def _value_layout(rows: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """The plain place of every column up to the free symmetries: float (R, B) to intp (B,)."""
    if side == 1:  # only the order of the colours is left, which is free
        return np.arange(3)
    means = rows.mean(axis=0)
    rows = rows - means
    # busy blocks would drown the others; 30 keeps quantisation noise of flat ones from counting
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.sqrt((rows**2).mean(axis=1, keepdims=True) + 30)
    distances = _squared_distances(rows)
    joint = GridLayout(distances, side, side, colours=3)
    starts = []
    for colours in _colour_splits(rows, means, distances, rng):
        turned, derived = (
            min(sites, key=joint.misfit) for sites in zip(*_aligned_grids(distances, colours, side), strict=True)
        )
        # colours laid out by themselves are exact more often, unless one of them is no colour at all
        starts.append(turned if joint.misfit(turned) < 2 * joint.misfit(derived) else derived)
    return joint.refine(min(starts, key=joint.misfit))


def _squared_distances(rows: np.ndarray) -> np.ndarray:
    """Between columns, float64, (B, B), typically of the order of 1."""
    gram = (rows.T @ rows).astype(np.float64) / len(rows)
    norms = np.diag(gram)
    distances = np.maximum(norms[:, None] + norms[None] - 2 * gram, 0)
    np.fill_diagonal(distances, 0)
    return distances / max(float(np.median(distances)), 1e-9) + 1e-6


def _colour_splits(rows: np.ndarray, means: np.ndarray, distances: np.ndarray, rng: np.random.Generator) -> Iterator:
    """Ways to split the columns into three equal classes, intp (B,); one way where the graph leaves no doubt."""
    third = len(distances) // 3
    twins = connected_components(distances < 1e-5, directed=False)[1]  # grey pictures: three equal columns a pixel
    if np.all(np.bincount(twins) % 3 == 0):
        labels = np.empty(len(twins), np.intp)
        labels[np.argsort(twins, kind="stable")] = np.arange(len(twins)) % 3
        yield labels
        return
    number, components = connected_components(neighbour_graph(distances, 3), directed=False)
    if number == 3 and np.all(np.bincount(components) == third):
        yield components
        return
    _, _, axes = np.linalg.svd(rows[:: max(1, len(rows) // 2000)], full_matrices=False)
    starts = [means[:, None], *(axes[i][:, None] for i in range(min(3, len(axes)))), axes[:2].T]
    seen = set()
    for start in starts:
        start = start / max(float(start.std()), 1e-9)
        centres, _ = kmeans2(start.astype(np.float64), 3, seed=rng, minit="++")
        labels = _balanced(((start[:, None] - centres[None]) ** 2).sum(axis=2))
        for _ in range(10):  # average linkage
            before = labels
            labels = _balanced(np.stack([distances[:, labels == c].mean(axis=1) for c in range(3)], axis=1))
            if np.array_equal(labels, before):
                break
        if labels.tobytes() not in seen:
            seen.add(labels.tobytes())
            yield labels


def _balanced(cost: np.ndarray) -> np.ndarray:
    """The cheapest assignment to three classes of equal size: (B, 3) to (B,)."""
    return linear_sum_assignment(np.repeat(cost, len(cost) // 3, axis=1))[1] // (len(cost) // 3)


def _aligned_grids(distances: np.ndarray, colours: np.ndarray, side: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sites from the two best colours: the other colours turned to agree with one, and derived from it alone."""
    area = side * side
    members = [np.flatnonzero(colours == c) for c in range(3)]
    grids = [GridLayout(distances[np.ix_(m, m)], side, side) for m in members]
    cells = [grid.refine(planar_layout(grid.distances, side, side)) for grid in grids]
    misfits = [grid.misfit(cell) for grid, cell in zip(grids, cells, strict=True)]
    for lead in np.argsort(misfits, kind="stable")[:2]:
        others = [c for c in range(3) if c != lead]
        site = np.empty(len(distances), np.intp)
        site[members[lead]] = cells[lead]
        cross = np.empty((len(distances), area))  # of a column to the lead's at a cell
        cross[:, cells[lead]] = np.log(distances[:, members[lead]] + 1e-9)
        for c in others:
            costs = cross[members[c]]
            fits = [costs[np.arange(area), turn[cells[c]]].sum() for turn in turns(side)]
            site[members[c]] = others.index(c) * area + area + turns(side)[int(np.argmin(fits))][cells[c]]
        yield site, _two_colours_on(site, cross, distances, area)


def _two_colours_on(site: np.ndarray, cross: np.ndarray, distances: np.ndarray, area: int) -> np.ndarray:
    """Sites when only the first colour is trusted: each cell gets the two nearest other columns.

    Which of the two has which colour is a choice per cell, right where same colours are close and different ones are
    not; the leading eigenvector of these preferences takes all choices at once.
    """
    rest = np.flatnonzero(site >= area)
    cell = linear_sum_assignment(np.tile(cross[rest], 2))[1] % area
    one, other = rest[np.argsort(cell, kind="stable")].reshape(area, 2).T
    logs = np.log(distances + np.eye(len(distances)))
    prefers = logs[np.ix_(one, other)] + logs[np.ix_(other, one)] - logs[np.ix_(one, one)] - logs[np.ix_(other, other)]
    np.fill_diagonal(prefers, 0)
    swapped = np.linalg.eigh(prefers)[1][:, -1] < 0
    found = site.copy()
    found[np.where(swapped, other, one)] = area + np.arange(area)
    found[np.where(swapped, one, other)] = 2 * area + np.arange(area)
    return found


def _turn_upright(key: AffineMap, pictures: np.ndarray, side: int, shape: tuple[int, int]) -> AffineMap:
    """Blocks whose order is known fit each other in one of the eight ways only."""
    grid = np.arange(len(key.block_permutation)).reshape(shape)

    def misfit(turn: np.ndarray) -> float:
        source = np.argsort(turn)
        flat = pictures.reshape(*pictures.shape[:2], side * side, 3)[:, :, source]
        costs = edge_costs(flat.reshape(pictures.shape))
        return costs[0][grid[:, :-1], grid[:, 1:]].sum() + costs[1][grid[:-1], grid[1:]].sum()

    turn = min(turns(side), key=misfit)
    colour, cell = np.divmod(key.value_permutation, side * side)
    return _replace(key, values=colour * side * side + turn[cell])
