"""Where the values of a block lie and which colour they have, from how alike they are over many blocks.

A step of :mod:`ppvit.audit.attacks.pooled`: colours apart, each laid out on the grid of pixels, the three grids turned
to agree, and all refined together.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from ppvit.audit.solvers.grid_layout import GridLayout, neighbour_graph, planar_layout
from ppvit.audit.solvers.symmetry import turns

MAX_JOINT = 1200  # values of a block that are refined all at once: blocks of up to 20 pixels
_PASSES = 4  # of the last refinement; it usually ends after one or two


def value_layout(rows: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """The plain place of every column up to the free symmetries: float (R, B) to intp (B,)."""
    if side == 1:  # only the order of the colours is left, which is free
        return np.arange(3)
    means = rows.mean(axis=0)
    rows = rows - means
    # busy blocks would drown the others; 30 keeps quantisation noise of flat ones from counting
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.sqrt((rows**2).mean(axis=1, keepdims=True) + 30)
    distances = _squared_distances(rows)
    joint = GridLayout(distances, side, side, colours=3) if len(distances) <= MAX_JOINT else None
    misfit = joint.misfit if joint else partial(_roughness, distances, side)
    starts = []
    for colours in _colour_splits(rows, means, distances, rng):
        turned, derived = (
            min(sites, key=misfit) for sites in zip(*_aligned_grids(distances, colours, side), strict=True)
        )
        # colours laid out by themselves are exact more often, unless one of them is no colour at all
        starts.append(turned if misfit(turned) < 2 * misfit(derived) else derived)
    site = min(starts, key=misfit)
    if joint is None:
        return _refined_apart(distances, site, side)
    site = joint.refine(site)
    for _ in range(_PASSES):
        proposal = joint.settle_neighbours(joint.refine(_move_pixels(distances, site, side)))
        if joint.misfit(proposal) >= joint.misfit(site) - 1e-12:
            break
        site = proposal
    return site


def _roughness(distances: np.ndarray, side: int, site: np.ndarray) -> float:
    """Mean distance of neighbours and of the colours of a pixel: what takes no table of all pairs, see GridLayout."""
    item = np.argsort(site).reshape(3, side, side)
    pairs = (item[:, :, 1:], item[:, :, :-1]), (item[:, 1:], item[:, :-1]), (item[[1, 2, 0]], item)
    return float(np.mean([distances[one, other].mean() for one, other in pairs]))


def _refined_apart(distances: np.ndarray, site: np.ndarray, side: int) -> np.ndarray:
    """Refine a large block by its pixels, three colours kept together, and by each colour against the two others.

    The cost of refining all values at once grows with the third power of their number, and nine times as fewer pairs
    do.
    """
    area = side * side
    for _ in range(_PASSES):
        before = site
        site = _move_pixels(distances, site, side)
        for colour in range(3):
            members = np.flatnonzero(site // area == colour)
            cost = np.zeros((area, area))
            for other in range(3):
                if other != colour:
                    item = np.argsort(site)[other * area : (other + 1) * area]  # of that colour, cell by cell
                    cost += np.log(distances[np.ix_(members, item)] + 1e-9)
            site = site.copy()
            site[members] = colour * area + linear_sum_assignment(cost)[1]
        if np.array_equal(site, before):
            break
    return site


def _move_pixels(distances: np.ndarray, site: np.ndarray, side: int) -> np.ndarray:
    """Refine with the three colours of a pixel kept together: what holds one of them in a wrong place holds no more."""
    area = side * side
    item = np.argsort(site).reshape(3, area)
    pixels = GridLayout(np.mean([distances[np.ix_(members, members)] for members in item], axis=0), side, side)
    cell = pixels.settle_neighbours(pixels.rebuild_worst(pixels.refine(np.arange(area))))
    moved = np.empty_like(site)
    moved[item] = cell + area * np.arange(3)[:, None]
    return moved


def _squared_distances(rows: np.ndarray) -> np.ndarray:
    """Between columns, (B, B), typically of the order of 1."""
    # of a large block in single precision, which halves its memory
    gram = (rows.T @ rows).astype(np.float64 if rows.shape[1] <= MAX_JOINT else np.float32) / len(rows)
    norms = np.diag(gram)
    distances = np.maximum(norms[:, None] + norms[None] - 2 * gram, 0)
    np.fill_diagonal(distances, 0)
    distances /= max(float(np.median(distances)), 1e-9)
    distances += 1e-6
    return np.asarray(distances)


def _colour_splits(
    rows: np.ndarray, means: np.ndarray, distances: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
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
    third = len(cost) // 3
    return np.asarray(linear_sum_assignment(np.repeat(cost, third, axis=1))[1] // third)


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
