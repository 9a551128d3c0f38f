"""Jigsaw attack: the block order of one picture from its ciphertext alone, because edges of neighbours continue.

Where blocks are only permuted, :mod:`ppvit.audit.solvers.placement` puts them in order. Where each was also turned or
mirrored, inverted and recoloured (encryption-then-compression, EtC), :mod:`ppvit.audit.solvers.etc_solver` finds all
of that relative to the neighbours, hence the picture up to one of 8 x 2 x 6 = 96 global variants, which nothing in it
tells.

Kurihara, Kiya et al., "An encryption-then-compression system for JPEG/Motion JPEG standard", IEICE Trans. 2015
(the cipher); Chuman, Kurihara and Kiya, "Security evaluation for block scrambling-based EtC systems against extended
jigsaw puzzle solver attacks", ICME 2017 (the attack); solvers: see the two modules.

Numbering, of what is applied to a ciphertext block to get the plain one, in this order:
orientation o: mirrored left-right if o >= 4, then turned counter-clockwise by o % 4 quarters; colour order c: channel k
is taken from channel ``tuple(itertools.permutations(range(3)))[c][k]``; inverted: 255 - v. 0, 0 and False change
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ppvit.audit.base import attack
from ppvit.audit.score import mean_ssim
from ppvit.audit.solvers import etc_solver
from ppvit.audit.solvers.placement import edge_costs, place
from ppvit.audit.solvers.symmetry import COLOUR_ORDERS, best_over_symmetries
from ppvit.audit.solvers.variants import ORIENTATIONS, TONES, edge_table, orient, tone
from ppvit.audit.view import Finding, View, from_blocks, not_attacked, to_blocks
from ppvit.ciphers import AffineMap
from ppvit.core.errors import UsageError

IMAGES = 4  # attacked one by one


@dataclass(frozen=True)
class Solution:
    """One picture put together again. N blocks, in row-major order; the variants are those of the module's text.

    Attributes:
        placement: intp, (N,), ``placement[c]`` is the ciphertext block put at cell c.
        orientation: intp, (N,), 0 .. 7, of each ciphertext block.
        inverted: bool, (N,), of each ciphertext block.
        colours: intp, (N,), 0 .. 5, of each ciphertext block.
        picture: uint8, (H, W, 3).
    """

    placement: np.ndarray
    orientation: np.ndarray
    inverted: np.ndarray
    colours: np.ndarray
    picture: np.ndarray


@attack("jigsaw", "jigsaw", ciphertext_only=True, place=5)
def find(view: View) -> Iterator[Finding]:
    """Put the blocks of a single ciphertext in order, as a jigsaw puzzle."""
    if view.encrypted.ndim != 4 or view.encrypted.dtype != np.uint8 or view.block_size < 2:
        yield not_attacked("this ciphertext is no 8-bit picture with blocks of 2 pixels or more.")
        return
    transforms = view.space.example.turns_blocks
    solutions = [solve(image, view.block_size, transforms=transforms) for image in view.encrypted[:IMAGES]]

    def align(images: np.ndarray, plain: np.ndarray) -> np.ndarray:
        pairs = zip(images[:, None], plain[:, None], strict=True)
        return np.concatenate([best_over_symmetries(*pair, mean_ssim, negative=True)[0] for pair in pairs])

    yield Finding(
        "one ciphertext",
        np.stack([solution.picture for solution in solutions]),
        headline=True,
        free="flips, colour order and negative of a whole picture" if transforms else "",
        align=align if transforms else None,
        placement=np.stack([solution.placement for solution in solutions]),
    )


def solve(image: np.ndarray, block_size: int, *, transforms: bool) -> Solution:
    """Put the blocks of one ciphertext in order. Deterministic.

    Args:
        image: uint8, (S, S, 3).
        block_size: side p of a block in pixels, at least 2; divides S.
        transforms: the cipher also turned, mirrored, inverted and recoloured the blocks. The global variant, which is
            free, is then chosen such that most blocks stay as they are.

    Raises:
        UsageError: an image or block size that does not fit.
    """
    side = image.shape[0] // block_size
    if image.shape != (side * block_size, side * block_size, 3) or image.dtype != np.uint8 or block_size < 2:
        raise UsageError(
            f"the jigsaw attack expects a square uint8 image of whole blocks of at least 2 pixels a side, "
            f"got {image.dtype} {image.shape} and block size {block_size}"
        )
    blocks = _pieces(image[None], block_size)
    number = side * side
    if not transforms or number == 1:
        placement = place(edge_costs(blocks), side, side)
        orientation = tones = np.zeros(number, np.intp)
    else:
        placement, orientation, tones = _turned(blocks, side)
    blocks = blocks[0]
    upright = np.stack([tone(orient(blocks[b], orientation[b]), tones[b]) for b in placement])
    picture = from_blocks(upright.transpose(0, 3, 1, 2).reshape(1, number, -1), block_size)[0]
    return Solution(placement, orientation, tones >= TONES // 2, tones % (TONES // 2), picture)


def key_of(images: np.ndarray, block_size: int) -> AffineMap:
    """The key under which blocks of several pictures were moved, turned, inverted and recoloured, the same in all.

    Args:
        images: uint8, (n, S, S, 3).
        block_size: side p of a block in pixels, at least 2; divides S.

    Returns:
        A key up to the 96 global variants, every block position with value permutation and signs of its own.
    """
    side = images.shape[1] // block_size
    placement, orientation, tones = _turned(_pieces(images, block_size), side)
    order = np.empty(side * side, np.intp)
    order[placement] = np.arange(side * side)  # block b of the ciphertext is plain block order[b]
    places = np.arange(3 * block_size**2).reshape(3, block_size, block_size).transpose(1, 2, 0)
    values = np.empty((side * side, places.size), np.intp)
    for block, (turn, recoloured) in enumerate(zip(orientation, tones, strict=True)):
        source = orient(places, turn)[..., COLOUR_ORDERS[recoloured % len(COLOUR_ORDERS)]]
        values[block, source.transpose(2, 0, 1).ravel()] = np.arange(places.size)
    sign = np.where(tones >= TONES // 2, -1, 1).astype(np.int8)
    return AffineMap(order, values, np.repeat(sign[:, None], places.size, axis=1))


def _pieces(images: np.ndarray, block_size: int) -> np.ndarray:
    """Cut images: uint8, (n, S, S, 3) to (n, N, p, p, 3)."""
    flat = to_blocks(images, block_size)
    shape = (*flat.shape[:2], 3, block_size, block_size)
    return np.ascontiguousarray(flat.reshape(shape).transpose(0, 1, 3, 4, 2))


def _turned(pieces: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Placement, orientations and tones of pieces that were also turned and recoloured, intp (N,) each."""
    cells, orientation, tones = etc_solver.settle(etc_solver.solve(edge_table(pieces), side))
    placement = np.empty(side * side, np.intp)
    placement[cells[:, 0] * side + cells[:, 1]] = np.arange(side * side)
    return placement, orientation, tones


def placement_scores(
    placement: np.ndarray, truth: np.ndarray, side: int, *, transforms: bool = False
) -> dict[str, float]:
    """How well blocks are placed; what Gallagher ("Jigsaw puzzles with pieces of unknown orientation", 2012) reports.

    Only places count: a block in the right cell counts even if it is turned or recoloured wrongly, which the
    similarity of the pictures shows.

    Args:
        placement: intp, (N,), the ciphertext block put at each cell.
        truth: intp, (N,), the ciphertext block that belongs at each cell: ``np.argsort(kb)`` for ``y[t] = x[kb[t]]``.
        side: blocks in a row and in a column, N = side^2.
        transforms: the attacker cannot know the global orientation, so each score is the best of the 8 symmetries of
            the placement.

    Returns:
        ``direct_percent``: cells with the right block; a picture that is right but shifted scores about 0.
        ``neighbour_percent``: of the 2 side (side - 1) pairs of neighbours, those that are neighbours in the true
        picture, on the same side. ``largest_component_percent``: blocks in the largest part held together by such
        pairs. For a random placement all are about 100 / N.
    """
    grid = np.argsort(truth)[placement].reshape(side, side, 1)  # the true cell of the block at each cell
    symmetries = range(ORIENTATIONS) if transforms else (0,)
    scores = [_scores(orient(grid, symmetry)[..., 0]) for symmetry in symmetries]
    return {name: max(score[name] for score in scores) for name in scores[0]}


def _scores(grid: np.ndarray) -> dict[str, float]:
    """Scores of true cells, intp, (side, side): row-major order is right."""
    side = len(grid)
    cells = np.arange(grid.size).reshape(grid.shape)
    # a step of one to the right must not be the step from the end of a row to the start of the next
    right = (grid[:, 1:] == grid[:, :-1] + 1) & (grid[:, 1:] % side > 0)
    below = grid[1:] == grid[:-1] + side
    one = np.concatenate([cells[:, :-1][right], cells[:-1][below]])
    other = np.concatenate([cells[:, 1:][right], cells[1:][below]])
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(grid.size, grid.size))
    _, part = connected_components(graph, directed=False)
    return {
        "direct_percent": 100 * float(np.mean(grid == cells)),
        "neighbour_percent": 100 * len(one) / max(2 * side * (side - 1), 1),
        "largest_component_percent": 100 * float(np.bincount(part).max()) / grid.size,
    }
