"""A square jigsaw whose pieces are also turned, mirrored, inverted and recoloured, as encryption-then-compression does.

Every piece has 8 orientations x 2 (inverted or not) x 6 colour orders = 96 variants. What counts is the variant of a
piece relative to its neighbour's, so one piece's variant is free: the picture is found up to one of the 96.

1. The cost of every piece in every variant at every side of every other piece:
   :func:`ppvit.audit.solvers.variants.edge_table`.
2. Joints in the order of how clearly they beat their rivals, as in Kruskal's algorithm, where collisions, the frame
   and the other joints that this makes do not forbid it: :func:`largest_component`.
3. The largest part is completed piece by piece (Prim's algorithm), each with its best variant: :func:`fill`.
4. What of that is most consistent is kept, the rest is filled again, until it does not help any more.

Gallagher, "Jigsaw puzzles with pieces of unknown orientation", CVPR 2012 (steps 1 and 2, without colours); Chuman,
Kurihara and Kiya, "On the security of block scrambling-based EtC systems against extended jigsaw puzzle solver
attacks", IEICE Trans. Inf. & Syst. 2018 (the variants).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ppvit.audit.solvers.variants import (
    AFTER,
    MATRICES,
    ORIENTATIONS,
    STEPS,
    TONE_AFTER,
    TONE_UNDO,
    TONES,
    TURNED,
    UNDO,
)

MAX_REBUILDS = 6  # bound on the cost of solve
_POOR = 2.0  # a relative cost above this is no evidence that two pieces belong together
_BONUS = 0.3  # how much an extra neighbour is worth, in relative cost


# cells of a canvas: number of neighbours, cost of every piece in its best variant (N,), of all variants (N, 8, 12)
Holes = dict[tuple[int, int], tuple[int, np.ndarray, np.ndarray]]


@dataclass
class Layout:
    """Pieces put together, or some of them: arrays over pieces.

    Attributes:
        members: intp, (m,), the pieces of which the other arrays tell anything.
        cells: (N, 2), row and column.
        orientation: (N,), applied to the piece.
        tone: (N,), applied to the piece.
    """

    members: np.ndarray
    cells: np.ndarray
    orientation: np.ndarray
    tone: np.ndarray

    @classmethod
    def separate(cls, number: int) -> Layout:
        """Every piece for itself, as it is."""
        return cls(np.arange(number), np.zeros((number, 2), int), np.zeros(number, int), np.zeros(number, int))


def joint_costs(table: np.ndarray, layout: Layout, one: np.ndarray, side: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Costs of ``other`` at side ``side`` of ``one``, in any variant, seen in the picture.

    Args:
        table: as of :func:`ppvit.audit.solvers.variants.edge_table`.
        layout: gives the orientation and tone of ``one``.
        one, side, other: intp, of one common shape.

    Returns:
        (..., 8, 12), over the orientation and tone of ``other``.
    """
    undo = UNDO[layout.orientation[one]]
    own = table[one, TURNED[undo, side], other]
    own = np.take_along_axis(own, AFTER[undo][..., :, None], axis=-2)
    return np.take_along_axis(own, TONE_AFTER[TONE_UNDO[layout.tone[one]]][..., None, :], axis=-1)


def solve(table: np.ndarray, side: int) -> Layout:
    """Arrange the pieces of a picture of side x side pieces: cells 0 .. side - 1 in both axes. Deterministic.

    Args:
        table: as of :func:`ppvit.audit.solvers.variants.edge_table`, N = side^2.
    """
    best = improve(table, fill(table, largest_component(table, side), side), side)
    for _ in range(MAX_REBUILDS):
        rebuilt = improve(table, fill(table, _consistent_segment(table, best, side), side), side)
        if _total(table, rebuilt, side) >= _total(table, best, side) - 1e-6:
            break
        best = rebuilt
    return best


def largest_component(table: np.ndarray, side: int) -> Layout:
    """Join pieces by their clearest joints while they fit; the largest part."""
    number = len(table)
    layout = Layout.separate(number)
    parts = {piece: np.array([piece]) for piece in range(number)}
    owner = np.arange(number)
    shape = table.min(axis=-1)
    order = np.argsort(shape, axis=None, kind="stable")[: 80 * number]  # every joint twice; fill decides the rest
    joints = np.stack(np.unravel_index(order, shape.shape), axis=1)
    for joint in joints[(shape.ravel()[order] < _POOR) & (joints[:, 0] < joints[:, 2])]:
        one, _, other, _ = joint
        kept, moved = parts[owner[one]], parts[owner[other]]
        if owner[one] != owner[other] and _join(table, layout, kept, moved, joint, side):
            parts[owner[one]] = np.concatenate([kept, moved])
            owner[moved] = owner[one]
    sizes = np.bincount(owner, minlength=number)
    layout.members = parts[int(np.argmax(sizes))]
    return layout


def _join(table: np.ndarray, layout: Layout, kept: np.ndarray, moved: np.ndarray, joint: np.ndarray, side: int) -> bool:
    """Move a part so that a joint holds, in place, unless parts overlap, leave the frame or fit badly elsewhere.

    The joint is piece, side, other piece and its orientation.
    """
    one, at, other, orientation = joint
    turn = AFTER[AFTER[layout.orientation[one], orientation], UNDO[layout.orientation[other]]]
    beside = layout.cells[one] + STEPS[TURNED[layout.orientation[one], at]]
    cells = beside + (layout.cells[moved] - layout.cells[other]) @ MATRICES[turn].T
    both = np.concatenate([layout.cells[kept], cells])
    low = both.min(axis=0)
    if np.any(np.ptp(both, axis=0) >= side):
        return False
    canvas = np.full((side + 2, side + 2), -1)
    canvas[tuple((layout.cells[kept] - low + 1).T)] = kept
    if np.any(canvas[tuple((cells - low + 1).T)] >= 0):
        return False
    before = layout.cells[moved], layout.orientation[moved], layout.tone[moved]
    layout.cells[moved], layout.orientation[moved] = cells, AFTER[turn, layout.orientation[moved]]
    votes, joints = np.zeros(TONES), 0  # all joints between the parts tell the tone
    for direction, step in enumerate(STEPS):
        neighbours = canvas[tuple((cells - low + 1 - step).T)]
        touching = neighbours >= 0
        pieces = moved[touching]
        joints += len(pieces)
        costs = joint_costs(table, layout, neighbours[touching], np.full(len(pieces), direction), pieces)
        costs = costs[np.arange(len(pieces)), layout.orientation[pieces]]
        votes += np.take_along_axis(costs, TONE_AFTER[:, layout.tone[pieces]].T, axis=1).sum(axis=0)
    if votes.min() > _POOR * joints:
        layout.cells[moved], layout.orientation[moved], layout.tone[moved] = before
        return False
    layout.tone[moved] = TONE_AFTER[np.argmin(votes), layout.tone[moved]]
    return True


def fill(table: np.ndarray, part: Layout, side: int) -> Layout:
    """Complete a part that fits the frame, the surest hole first; the frame settles as it fills."""
    number = len(table)
    layout = Layout(part.members, part.cells.copy(), part.orientation.copy(), part.tone.copy())
    cells = layout.cells[part.members]
    layout.cells += side + 1 - (cells.min(axis=0) + cells.max(axis=0)) // 2
    canvas = np.full((2 * side + 3, 2 * side + 3), -1)  # wide enough for the frame to lie on any side of the part
    left = np.ones(number, bool)
    holes: Holes = {}
    queue = list(part.members)
    while True:
        for piece in queue:
            _put(table, layout, canvas, holes, piece)
            left[piece] = False
        if not left.any():
            break
        cell = _surest(holes, left, np.argwhere(canvas >= 0), side)
        _, lowest, costs = holes.pop(cell)
        piece = int(np.argmin(np.where(left, lowest, np.inf)))
        layout.orientation[piece], layout.tone[piece] = np.unravel_index(np.argmin(costs[piece]), costs[piece].shape)
        layout.cells[piece] = cell
        queue = [piece]
    layout.members = np.arange(number)
    layout.cells -= layout.cells.min(axis=0)
    return layout


def _put(table: np.ndarray, layout: Layout, canvas: np.ndarray, holes: Holes, piece: int) -> None:
    """Enter a piece into the canvas, and what it says of the holes around it."""
    everything = np.arange(len(table))
    cell = int(layout.cells[piece, 0]), int(layout.cells[piece, 1])
    canvas[cell] = piece
    holes.pop(cell, None)
    for direction, step in enumerate(STEPS):
        beside = (cell[0] + int(step[0]), cell[1] + int(step[1]))
        if canvas[beside] < 0:
            costs = joint_costs(table, layout, np.full(len(table), piece), np.full(len(table), direction), everything)
            neighbours = 0
            if beside in holes:
                neighbours, _, known = holes[beside]
                costs = costs + known
            holes[beside] = neighbours + 1, costs.min(axis=(1, 2)), costs


def _surest(holes: Holes, left: np.ndarray, taken: np.ndarray, side: int) -> tuple[int, int]:
    """The hole inside the frame with the lowest cost a neighbour; several neighbours are surer than one."""
    low, high = taken.min(axis=0), taken.max(axis=0)

    def rank(cell: tuple[int, int]) -> tuple[float, tuple[int, int]]:
        neighbours, lowest, _ = holes[cell]
        return float(lowest[left].min()) / neighbours - _BONUS * neighbours, cell

    inside = [c for c in holes if np.all(np.maximum(c, high) - np.minimum(c, low) < side)]
    return min(inside, key=rank)


def _joints(layout: Layout, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Piece, side (right or below) and neighbour of every joint of a full layout; three (2 * side * (side - 1),)."""
    grid = np.empty((side, side), int)
    grid[tuple(layout.cells.T)] = np.arange(side * side)
    one = np.concatenate([grid[:, :-1].ravel(), grid[:-1].ravel()])
    other = np.concatenate([grid[:, 1:].ravel(), grid[1:].ravel()])
    return one, np.repeat([0, 1], side * (side - 1)), other


def _fits(table: np.ndarray, layout: Layout, side: int) -> np.ndarray:
    """Cost of every joint of a full layout, in the order of _joints."""
    one, at, other = _joints(layout, side)
    costs = joint_costs(table, layout, one, at, other)
    return np.asarray(costs[np.arange(len(one)), layout.orientation[other], layout.tone[other]])


def _total(table: np.ndarray, layout: Layout, side: int) -> float:
    return float(_fits(table, layout, side).sum(dtype=np.float64))


def _consistent_segment(table: np.ndarray, layout: Layout, side: int) -> Layout:
    """The largest connected part of a full layout whose joints are all mutual first choices."""
    one, _, other = _joints(layout, side)
    kept = _fits(table, layout, side) < 1
    number = len(layout.cells)
    graph = coo_array((np.ones(kept.sum()), (one[kept], other[kept])), shape=(number, number))
    _, label = connected_components(graph, directed=False)
    members = np.flatnonzero(label == np.argmax(np.bincount(label)))
    return Layout(members, layout.cells, layout.orientation, layout.tone)


def improve(table: np.ndarray, layout: Layout, side: int) -> Layout:
    """Reassign the cells of one chequerboard colour at a time, which their fixed neighbours make independent."""
    for _ in range(4):
        before = layout
        for colour in (0, 1):
            layout = _reassign(table, layout, np.flatnonzero(layout.cells.sum(axis=1) % 2 == colour), side)
        if _total(table, layout, side) >= _total(table, before, side) - 1e-6:
            return before
    return layout


def _reassign(table: np.ndarray, layout: Layout, pieces: np.ndarray, side: int) -> Layout:
    """The best places and variants of pieces of which no two touch, all others being fixed."""
    framed = np.full((side + 2, side + 2), -1)
    framed[tuple((layout.cells + 1).T)] = np.arange(side * side)
    cost = np.zeros((len(pieces), len(pieces)))
    choice = np.zeros((len(pieces), len(pieces)), int)
    for row, cell in enumerate(layout.cells[pieces]):
        total = np.zeros((len(pieces), ORIENTATIONS, TONES))
        for direction, step in enumerate(STEPS):
            beside = framed[tuple(cell + 1 - step)]
            if beside >= 0:
                full = np.full(len(pieces), beside)
                total += joint_costs(table, layout, full, np.full(len(pieces), direction), pieces)
        flat = total.reshape(len(pieces), -1)
        choice[row], cost[row] = flat.argmin(axis=1), flat.min(axis=1)
    rows, columns = linear_sum_assignment(cost)
    new = Layout(layout.members, layout.cells.copy(), layout.orientation.copy(), layout.tone.copy())
    new.cells[pieces[columns]] = layout.cells[pieces[rows]]
    new.orientation[pieces[columns]], new.tone[pieces[columns]] = np.divmod(choice[rows, columns], TONES)
    return new


def settle(layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, orientations and tones in the global variant in which most pieces stay as they are."""
    turn = UNDO[np.argmax(np.bincount(layout.orientation))]
    shift = TONE_UNDO[np.argmax(np.bincount(layout.tone))]
    cells = layout.cells @ MATRICES[turn].T
    return cells - cells.min(axis=0), AFTER[turn, layout.orientation], TONE_AFTER[shift, layout.tone]
