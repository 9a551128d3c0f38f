"""Put pieces of a picture in their places on a grid, by their edges.

:func:`place` solves a square jigsaw without rotations. The edge distance compares a border pixel with the linear
extrapolation of the neighbour's two border pixels (Pomeranz, Shemesh and Ben-Shahar, "A fully automated greedy square
jigsaw puzzle solver", CVPR 2011, prediction-based compatibility). Edges are then taken in the order of how clearly they
beat their rivals, as in Kruskal's algorithm, where collisions do not forbid it (Gallagher, "Jigsaw puzzles with pieces
of unknown orientation", CVPR 2012); the largest part found is completed piece by piece, and rebuilt from its most
consistent segment until that does not help any more.

Where several images were cut and permuted alike, their distances add up, and what one image leaves open, as in its
sky, others decide.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

MAX_REBUILDS = 8  # bound on the cost of place; the segment usually stops growing after two or three
MAX_CELLS = 64  # holes considered at a time when filling
ANGLES = 16  # of the grid in the plane, tried over a quarter turn
_STEPS = ((0, 1), (1, 0))  # right of, below, as (row, column)

Cells = dict[int, tuple[int, int]]  # of pieces: row and column


def edge_costs(blocks: np.ndarray) -> np.ndarray:
    """How badly every piece fits beside every other, over all images.

    Args:
        blocks: uint8 or float on the scale 0 .. 255, (n, N, p, p, 3): the N pieces of n images cut alike.

    Returns:
        float64, (2, N, N): ``[0, a, b]`` the cost of b directly right of a, ``[1, a, b]`` of b directly below a. A
        fair random neighbour costs about 1. The diagonal is infinite.
    """
    pieces = blocks.shape[1]
    costs = np.zeros((2, pieces, pieces))
    for image in blocks.astype(np.float32):
        for direction, picture in enumerate((image, image.swapaxes(1, 2))):  # below is right of, transposed
            costs[direction] += _right_of(picture)
    costs /= len(blocks)
    costs[:, np.arange(pieces), np.arange(pieces)] = np.inf
    return costs


def _right_of(pieces: np.ndarray) -> np.ndarray:
    """Costs of b right of a in one image, (N, p, p, 3) to (N, N), comparable between images."""
    side = pieces.shape[2]  # of a single pixel, first and second are the same: no extrapolation then
    first, second = (pieces[:, :, column].reshape(len(pieces), -1) for column in (0, min(1, side - 1)))
    last, before = (pieces[:, :, column].reshape(len(pieces), -1) for column in (-1, max(-2, -side)))
    # no pixel is outside 0 .. 255, so neither is a sensible prediction: matters at blown-out skies
    onwards, backwards = np.clip(2 * last - before, 0, 255), np.clip(2 * first - second, 0, 255)
    distance: np.ndarray = np.sqrt(
        (cdist(onwards, first, "cityblock") + cdist(last, backwards, "cityblock")) / first.shape[1]
    )
    # a busy image has large distances everywhere, right or wrong, and must not outvote the others
    distance /= max(float(distance.mean()), 1e-6)
    return distance


def place(costs: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Arrange the pieces of a rows x columns picture.

    Args:
        costs: as of :func:`edge_costs`, (2, N, N), N = rows * columns; any scale.

    Returns:
        intp, (N,): entry c is the piece at cell c, cells in row-major order. Deterministic.
    """
    relative = _relative(costs)
    if rows * columns == 1:
        return np.zeros(1, np.intp)
    best = _improve(_fill(_largest_component(relative, rows, columns), relative, rows, columns), relative)
    for _ in range(MAX_REBUILDS):
        rebuilt = _improve(_fill(_consistent_segment(best, relative), relative, rows, columns), relative)
        if _total(rebuilt, relative) >= _total(best, relative) - 1e-9:
            break
        best = rebuilt
    return best.ravel()


def _relative(costs: np.ndarray) -> np.ndarray:
    """Costs over those of the best rival, either piece's; below 1 only for two that choose each other. Finite."""
    pieces = costs.shape[1]
    if pieces < 3:
        return np.asarray(np.nan_to_num(costs, posinf=1e6))
    bounded = np.where(np.isfinite(costs), costs, 1e12)
    scale = max(float(np.median(bounded)), 1e-12)
    rivals = []
    for axis in (1, 2):
        lowest = np.partition(bounded, 1, axis=axis)
        best, second = np.take(lowest, [0], axis=axis), np.take(lowest, [1], axis=axis)
        rivals.append(np.where(bounded <= best, second, best))
    relative = (bounded + 1e-3 * scale) / (np.minimum(*rivals) + 1e-3 * scale)  # flat pieces fit equally well: 1
    return np.minimum(relative, 1e6)


def _largest_component(relative: np.ndarray, rows: int, columns: int) -> Cells:
    """Join pieces by their clearest edges while they fit: the largest part as piece -> (row, column)."""
    pieces = relative.shape[1]
    members = {piece: {piece: (0, 0)} for piece in range(pieces)}
    owner = list(range(pieces))
    order = np.argsort(relative, axis=None, kind="stable")
    order = order[relative.ravel()[order] < 2][: 40 * pieces]  # the rest is no evidence, and filling decides better
    for direction, one, other in zip(*np.unravel_index(order, relative.shape), strict=True):
        kept, moved = members[owner[one]], members[owner[other]]
        if kept is moved:
            continue
        row, column = (kept[one][axis] + _STEPS[direction][axis] - moved[other][axis] for axis in (0, 1))
        shifted = {piece: (r + row, c + column) for piece, (r, c) in moved.items()}
        if _fits(kept, shifted, rows, columns):
            kept.update(shifted)
            for piece in shifted:
                owner[piece] = owner[one]
    return max(members.values(), key=len)


def _fits(one: Cells, other: Cells, rows: int, columns: int) -> bool:
    """Whether two parts neither overlap nor reach over the frame."""
    small, large = sorted((one, other), key=len)
    if not set(small.values()).isdisjoint(large.values()):
        return False
    both = np.array([*one.values(), *other.values()])
    return bool(np.all(np.ptp(both, axis=0) < (rows, columns)))


def _consistent_segment(placed: np.ndarray, relative: np.ndarray) -> Cells:
    """The largest connected part of a (rows, columns) arrangement whose joints are all mutual first choices."""
    joined: list[set[int]] = [set() for _ in range(placed.size)]
    for direction, (one, other) in enumerate(_joints(placed)):
        for a, b in zip(one.ravel(), other.ravel(), strict=True):
            if relative[direction, a, b] < 1:
                joined[a].add(b)
                joined[b].add(a)
    cells = {piece: divmod(cell, placed.shape[1]) for cell, piece in enumerate(placed.ravel())}
    best, seen = {int(placed[0, 0])}, set()
    for piece in cells:
        if piece in seen:
            continue
        part, border = {piece}, [piece]
        while border:
            new = joined[border.pop()] - part
            part |= new
            border.extend(new)
        seen |= part
        best = max(best, part, key=len)
    return {piece: cells[piece] for piece in sorted(best)}


def _fill(part: dict[int, tuple[int, int]], relative: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Complete a part that fits the frame, the surest hole first; the frame settles as it fills. (rows, columns)."""
    size = np.array((rows, columns))
    canvas = np.full(2 * size + 1, -1)  # wide enough for the frame to lie on any side of the part
    cells = np.array(list(part.values()))
    cells += size - (cells.min(axis=0) + cells.max(axis=0)) // 2
    canvas[tuple(cells.T)] = list(part)
    left = np.setdiff1d(np.arange(rows * columns), list(part))
    while len(left):
        holes, cost = _holes(canvas, left, relative, size)
        hole, choice = np.unravel_index(np.argmin(cost), cost.shape)
        canvas[tuple(holes[hole])] = left[choice]
        left = np.delete(left, choice)
    low = np.argwhere(canvas >= 0).min(axis=0)
    return canvas[low[0] : low[0] + rows, low[1] : low[1] + columns].astype(np.intp)


def _holes(
    canvas: np.ndarray, left: np.ndarray, relative: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Holes with most neighbours that the frame can still hold, and what each of the pieces left costs there."""
    filled = np.pad(canvas >= 0, 1)
    neighbours = np.sum([np.roll(filled, step, axis) for axis in (0, 1) for step in (-1, 1)], axis=0)[1:-1, 1:-1]
    taken = np.argwhere(canvas >= 0)
    low, high = taken.min(axis=0), taken.max(axis=0)
    allowed = (canvas < 0) & (neighbours > 0)
    for axis in (0, 1):
        place_on_axis = np.arange(canvas.shape[axis])
        extent = np.maximum(place_on_axis, high[axis]) - np.minimum(place_on_axis, low[axis])
        allowed &= np.expand_dims(extent < size[axis], 1 - axis)
    neighbours = np.where(allowed, neighbours, 0)
    holes = np.argwhere(neighbours == neighbours.max())[:MAX_CELLS]
    cost = np.zeros((len(holes), len(left)))
    for direction, step in enumerate(_STEPS):
        for sign in (-1, 1):
            beside = canvas[tuple((holes + sign * np.array(step)).T)]
            known = beside >= 0
            table = relative[direction] if sign < 0 else relative[direction].T
            cost[known] += np.minimum(table[np.ix_(beside[known], left)], 10)
    return holes, cost


def _improve(placed: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Reassign the cells of one chequerboard colour at a time, which their fixed neighbours make independent."""
    chequer = np.indices(placed.shape).sum(axis=0) % 2
    for _ in range(4):
        before = placed
        for colour in (0, 1):
            cells = np.argwhere(chequer == colour)
            framed = np.pad(placed, 1, constant_values=-1)
            pieces = placed[tuple(cells.T)]
            cost = np.zeros((len(cells), len(pieces)))
            for direction, step in enumerate(_STEPS):
                for sign in (-1, 1):
                    beside = framed[tuple((cells + 1 + sign * np.array(step)).T)]
                    known = beside >= 0
                    table = relative[direction] if sign < 0 else relative[direction].T
                    cost[known] += np.minimum(table[np.ix_(beside[known], pieces)], 10)
            placed = placed.copy()
            placed[tuple(cells.T)] = pieces[linear_sum_assignment(cost)[1]]
        if np.array_equal(placed, before):
            break
    return placed


def _joints(placed: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The pieces either side of every joint, for right of and below."""
    return (placed[:, :-1], placed[:, 1:]), (placed[:-1], placed[1:])


def _total(placed: np.ndarray, relative: np.ndarray) -> float:
    """Sum of the costs of all joints, each bounded, so that one wrong joint costs about as much as another."""
    return sum(float(np.minimum(relative[d][j], 10).sum()) for d, j in enumerate(_joints(placed)))
