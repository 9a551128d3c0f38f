"""Placing things on a grid of which only their distances to each other are known: values of a block, or its positions.

See :mod:`ppvit.audit.attacks.pooled` for the attack that needs it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.spatial.distance import cdist

REBUILT = (0.03, 0.06, 0.12, 0.2, 0.3)  # shares of the items that are placed anew
LARGE = 400  # items from which on fewer starts are tried, since an assignment takes the third power of their number
ANGLES = 16  # of the grid in the plane, tried over a quarter turn


def neighbour_graph(distances: np.ndarray, neighbours: int) -> np.ndarray:
    """Lengths of the edges to every column's nearest, 0 elsewhere, symmetric."""
    lengths = np.sqrt(distances)
    np.fill_diagonal(lengths, np.inf)
    nearest = np.argpartition(lengths, neighbours - 1, axis=1)[:, :neighbours]
    graph = np.zeros_like(lengths)
    np.put_along_axis(graph, nearest, np.take_along_axis(lengths, nearest, axis=1), axis=1)
    return np.asarray(np.maximum(graph, graph.T))


def planar_layout(distances: np.ndarray, rows: int, columns: int, neighbours: int = 5) -> np.ndarray:
    """Isomap, then the grid that fits the plane best: (m, m) to the cell of every item, intp (m,), m = rows * columns.

    Classical scaling bends a square, and a rigid grid laid over a bent one is off by a cell somewhere. So the grid is
    given the shape of a polynomial in its coordinates, fitted to the assignment and assigned anew, degree by degree.
    """
    count = rows * columns
    if count <= 4:
        return np.arange(count)
    graph = neighbour_graph(distances, min(neighbours, count - 1))
    graph = np.maximum(graph, minimum_spanning_tree(np.sqrt(distances)).toarray())
    geodesic = shortest_path(np.maximum(graph, graph.T), directed=False) ** 2
    geodesic -= geodesic.mean(axis=0)
    weights, vectors = np.linalg.eigh(-0.5 * (geodesic - geodesic.mean(axis=1, keepdims=True)))
    plane = vectors[:, -2:] * np.sqrt(np.maximum(weights[-2:], 1e-12))
    plane /= plane.std()
    grid = np.stack(np.unravel_index(np.arange(count), (rows, columns)), axis=1) + 0.5
    grid = 2 * grid / (rows, columns) - 1
    starts = []
    angles, followed = (ANGLES, 3) if count <= LARGE else (ANGLES // 2, 2)
    for angle in np.arange(angles) * np.pi / 2 / angles:
        turned = plane @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        starts.append(_nearest_cells(turned / turned.std(axis=0), grid / grid.std(axis=0)))
    starts.sort(key=lambda start: start[0])
    return min((_follow_bends(plane, grid, start) for _, start in starts[:followed]), key=lambda fit: fit[0])[1]


def _nearest_cells(plane: np.ndarray, grid: np.ndarray) -> tuple[float, np.ndarray]:
    cost = cdist(plane, grid, "sqeuclidean")
    cell = linear_sum_assignment(cost)[1]
    return float(cost[np.arange(len(cell)), cell].sum()), cell


def _follow_bends(plane: np.ndarray, grid: np.ndarray, cell: np.ndarray) -> tuple[float, np.ndarray]:
    """Fit and assign in turn; the squared distance left and the cells."""
    misfit = np.inf
    for degree in range(1, 6):
        powers = [(a, b) for a, b in product(range(degree + 1), repeat=2) if a + b <= degree]
        terms = np.stack([grid[:, 0] ** a * grid[:, 1] ** b for a, b in powers], axis=1)
        if 2 * terms.shape[1] > len(grid):
            break
        for _ in range(6):
            before = cell
            bent = terms @ np.linalg.lstsq(terms[cell], plane, rcond=None)[0]
            misfit, cell = _nearest_cells(plane, bent)
            if np.array_equal(cell, before):
                break
    return misfit, cell


class GridLayout:
    """Items on the cells of one or three equal grids, judged by how well offsets explain distances.

    Pictures are statistically the same everywhere in a block, so the expected logarithm of the distance depends on the
    two colours and the offset only. It is the mean over the current layout; items move to where they fit it best.

    Args:
        distances: squared, positive off the diagonal, (m, m), m = colours * rows * columns.
        rows, columns: of the grid.
        colours: number of grids; site = colour * rows * columns + cell.
    """

    def __init__(self, distances: np.ndarray, rows: int, columns: int, colours: int = 1) -> None:
        self.distances = distances
        self._logs = np.log(distances + np.eye(len(distances), dtype=distances.dtype))
        # int32, since the tables of a block of 32 px have nine million entries
        sites = np.arange(len(distances), dtype=np.int32)
        colour, row, column = (each.astype(np.int32) for each in np.unravel_index(sites, (colours, rows, columns)))
        down, right = row[:, None] - row, column[:, None] - column
        kind = (down + rows) * (2 * columns) + (right + columns)
        kind += (colour[:, None] * colours + colour) * (4 * rows * columns)
        self._kind = np.minimum(kind, kind.T)  # there and back is the same
        self._count = np.maximum(np.bincount(self._kind.ravel()), 1)
        self._shape = colours, rows, columns
        self._weight = (1 / np.maximum(np.hypot(down, right), 1)).astype(distances.dtype)  # far apart, distances say
        np.fill_diagonal(self._weight, 0)  # little about the place
        self._weight_of_kind = np.zeros(len(self._count))
        self._weight_of_kind[self._kind] = self._weight
        self._constant = float((self._weight_of_kind * self._count).sum())

    def _sums(self, site: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log distances by sites, (m, m), and their sums over pairs of sites of a kind."""
        item = np.argsort(site)
        logs = self._logs[np.ix_(item, item)]
        return logs, np.bincount(self._kind.ravel(), logs.ravel())

    def _expected(self, site: np.ndarray) -> np.ndarray:
        """Log distance by sites, (m, m)."""
        return (self._sums(site)[1] / self._count).astype(self._logs.dtype)[self._kind]

    def misfit(self, site: np.ndarray) -> float:
        """Weighted squared error of the log distances, lower is better: their variance within each kind of pair."""
        logs, sums = self._sums(site)
        squares = np.bincount(self._kind.ravel(), (logs**2).ravel())
        return float(self._weight_of_kind @ (squares - sums**2 / self._count) / self._constant)

    def refine(self, site: np.ndarray, rounds: int = 30) -> np.ndarray:
        """Shift the whole grid, then reassign all items at once, then swap pairs, as long as the misfit falls."""
        lowest = self.misfit(site)
        for propose in (self._shift, self._reassign, self._swap):
            for _ in range(rounds):
                proposal = propose(site)
                misfit = self.misfit(proposal)
                if misfit >= lowest - 1e-12:
                    break
                site, lowest = proposal, misfit
        return site

    def _shift(self, site: np.ndarray) -> np.ndarray:
        """The best shift by a cell, round the edges: a row on the wrong side of the grid is stable otherwise."""
        grids = np.arange(len(site)).reshape(self._shape)
        shifted = [np.roll(grids, step, axis).ravel()[site] for axis in (1, 2) for step in (-1, 1)]
        return min(shifted, key=self.misfit)

    def _costs(self, site: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What item i costs at site g while all others stay, (m, m), and the expectation by sites."""
        expected = self._expected(site)
        weight, there = self._weight[:, site], expected[:, site]
        costs = self._logs**2 @ weight.T - 2 * self._logs @ (weight * there).T + (weight * there**2).sum(axis=1)
        return costs, expected

    def _reassign(self, site: np.ndarray) -> np.ndarray:
        return np.asarray(linear_sum_assignment(self._costs(site)[0])[1])

    def _swap(self, site: np.ndarray) -> np.ndarray:
        """Exchange the disjoint pairs that gain most."""
        costs, expected = self._costs(site)
        at = np.ix_(site, site)
        own, between = costs[np.arange(len(site)), site], self._weight[at] * (self._logs - expected[at]) ** 2
        moved = costs[:, site]
        gain = np.triu(moved + moved.T - own[:, None] - own + 2 * between, 1)
        free, swapped = np.ones(len(site), bool), site.copy()
        most = len(site) // 4
        best = np.argpartition(gain, most, axis=None)[:most]
        for flat in best[np.argsort(gain.ravel()[best], kind="stable")]:
            one, other = divmod(int(flat), len(site))
            if gain[one, other] < -1e-9 and free[one] and free[other]:
                free[[one, other]] = False
                swapped[[one, other]] = swapped[[other, one]]
        return swapped

    def rebuild_worst(self, site: np.ndarray) -> np.ndarray:
        """Place the items that fit worst anew by the others alone, a few and then more, where that lowers the misfit.

        A part of the grid that is in disorder holds itself in place: each of its items fits the wrong ones around it.
        """
        lowest = self.misfit(site)
        for share in REBUILT:
            costs, expected = self._costs(site)
            own = costs[np.arange(len(site)), site]
            worst = np.argsort(-own, kind="stable")[: max(2, int(share * len(site)))]
            kept = np.ones(len(site))
            kept[worst] = 0
            weight, there = self._weight[:, site] * kept, expected[:, site]
            logs = self._logs[worst]
            costs = logs**2 @ weight.T - 2 * logs @ (weight * there).T + (weight * there**2).sum(axis=1)
            proposal = site.copy()
            proposal[worst] = site[worst][linear_sum_assignment(costs[:, site[worst]])[1]]
            proposal = self.refine(proposal)
            misfit = self.misfit(proposal)
            if misfit < lowest - 1e-12:
                site, lowest = proposal, misfit
        return site

    def settle_neighbours(self, site: np.ndarray, rounds: int = 200) -> np.ndarray:
        """Swap items of near cells while neighbours become more alike: what the misfit leaves open, mostly at corners.

        The misfit weighs all distances, and those of a cell at the rim are not quite what its offset makes expected.
        """
        colour, row, column = np.unravel_index(np.arange(len(site)), self._shape)
        down, right = np.abs(row[:, None] - row), np.abs(column[:, None] - column)
        same = colour[:, None] == colour
        neighbours = csr_array((same & (down + right == 1)) | (~same & (down + right == 0)), dtype=np.float64)
        near = same & (np.maximum(down, right) <= 2) & (down + right > 0)
        adjacent = neighbours.toarray()
        for _ in range(rounds):
            item = np.argsort(site)
            between = self.distances[np.ix_(item, item)]
            cost = neighbours @ between  # of the item of site t, put at site s
            own = np.diag(cost)
            change = cost + cost.T - own[:, None] - own + 2 * adjacent * between
            change = np.where(near, change, 0)
            one, other = np.unravel_index(np.argmin(change), change.shape)
            if change[one, other] >= -1e-9:
                break
            site = site.copy()
            site[item[[one, other]]] = [other, one]
        return site
