"""Known-plaintext attack: the key from k plain images and their ciphertexts.

A pair gives the same table twice, once in plain order and once with its rows (blocks) and columns (value positions)
permuted. Nothing that is the same for both orders can be hidden, so:

1. blocks match when their multisets of values are equal and no other block has that multiset;
2. value positions match when their values over the matched blocks are equal and no other position has them;
3. every match tells more rows and columns apart, so both steps repeat until nothing changes.

This is colour refinement (Weisfeiler and Leman 1968) of a table. All k pairs are one table whose cells hold k values,
so that what is flat in one image is resolved by another. Inverted values are compared both ways round: 2v - 255 is
odd and never zero, so a column differs from its negative as soon as its rows are told apart.

What stays alike in all pairs, such as black corners, cannot be told apart by anybody who has only these pairs. The
attack then takes one of the keys that fit at random, and the score counts what it got wrong. On grey images the three
colour copies of a pixel are always alike: the key is then found only up to their order, which no grey image ever
shows, and SSIM on unseen images is the figure that tells what leaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ppvit.audit.base import attack
from ppvit.audit.solvers import keyed_positions
from ppvit.audit.solvers.value_table import ValueTable
from ppvit.audit.view import Finding, KeySpace, View, decrypt, nearest_rotation, not_attacked, to_blocks, to_values
from ppvit.ciphers import AffineMap

MAX_GUESSES = 64  # bound on the cost: after that many ties broken one by one, the rest is guessed at once
_PLAIN, _CIPHER = 0, 1


@attack("known_plaintext", "known", reads=("known_pairs",), counts="pair", place=2)
def find(view: View) -> Iterator[Finding]:
    """Find the key from a few plain images and their ciphertexts."""
    plain, encrypted = view.known_plain, view.known_encrypted
    if view.encrypted.ndim != 4 or plain is None or encrypted is None:
        yield not_attacked("no attack here solves for a secret network.")
        return
    amounts = list(view.amounts(view.known_pairs))
    for amount in amounts:
        one = amount.images == 1
        needs = f"one plain image{amount.words}" if one else f"{amount.images} plain images{amount.words}"
        needs += " and its ciphertext" if one and amount.views == 1 else " and their ciphertexts"
        key, images = _read(view, view.part(plain, amount), view.part(encrypted, amount))
        yield Finding(needs, images, key, variant=amount.variant, headline=amount == amounts[-1])


def _read(view: View, plain: np.ndarray, cipher: np.ndarray) -> tuple[AffineMap | None, np.ndarray]:
    """What the pairs tell: the key, as far as this cipher has one in that form, and the images under attack."""
    space, block_size = view.space, view.block_size
    rng = np.random.default_rng((view.seed, len(plain)))
    if space.example.replaces_values:
        table = ValueTable.of(to_blocks(plain, block_size), to_blocks(cipher, block_size))
        return None, table.decrypt(view.encrypted, block_size)
    if space.dense:
        key = recover_matrix(to_blocks(plain, block_size), to_blocks(cipher, block_size), space)
    else:
        seen, wanted = (to_values(images, block_size, space) for images in (cipher, plain))
        key = (keyed_positions.recover_key if space.per_position else recover_key)(wanted, seen, space, rng)
    return (key if space.mapped else None), decrypt(view.encrypted, key, block_size)


def recover_matrix(plain: np.ndarray, cipher: np.ndarray, space: KeySpace) -> AffineMap:
    """The orthogonal matrix that takes plain block vectors to encrypted ones, by least squares (Procrustes).

    Args:
        plain, cipher: (k, N, B); with k N < B only the span of the blocks is determined.
    """
    centred = [blocks.reshape(-1, space.values).astype(np.float64) - 127.5 for blocks in (plain, cipher)]
    matrix = space.scale * nearest_rotation(centred[1].T @ centred[0])
    return replace(AffineMap.identity(space.blocks, space.values), matrix=matrix)


def recover_key(plain: np.ndarray, cipher: np.ndarray, space: KeySpace, rng: np.random.Generator) -> AffineMap:
    """A key that turns the plain images into the ciphertexts, as far as one can be found.

    Args:
        plain, cipher: uint8, (k, N, V), values of the blocks of corresponding images.
        space: parts that the cipher does not key are taken as known.
        rng: decides between keys that fit equally well.

    Returns:
        The key. When no key fits, because the images do not belong together, what does not match is a random guess.
    """
    table = _Table(plain, cipher, space, rng)
    table.refine()
    for _ in range(MAX_GUESSES):
        if not table.break_ties():
            break
        table.refine()
    blocks = _pair_up(table.rows, rng) if space.scrambles else np.arange(space.blocks)
    values = _pair_up(table.columns, rng) if space.shuffles else np.arange(space.values)
    sign = np.ones(space.values, np.int8)
    if space.inverts:
        seen, inverted = (codes[_PLAIN][blocks[:, None], values] for codes in (table.codes, table.inverted))
        upright, negative = ((table.codes[_CIPHER] == codes).sum(axis=0) for codes in (seen, inverted))
        tied = upright == negative  # no cell of this column fits
        sign[(upright < negative) | (tied & (rng.random(space.values) < 0.5))] = -1
    return AffineMap(blocks, values, sign, nibbles=space.nibbles)


class _Table:
    """Plain and encrypted images as two tables with colours for rows and columns; equal colours mean: not told apart.

    Args: as of :func:`recover_key`. Arrays have a leading axis of 2: plain, cipher.

    Attributes:
        codes: uint64, (2, N, B): a 64-bit hash of the k values of a cell, so that k costs no memory.
        inverted: the same for 255 - v.
        rows, columns: colours, uint64, (2, N) and (2, B).
    """

    def __init__(self, plain: np.ndarray, cipher: np.ndarray, space: KeySpace, rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng
        self.codes, self.inverted = (np.zeros((2, space.blocks, space.values), np.uint64) for _ in range(2))
        for pair in zip(plain, cipher, strict=True):
            hashes = _random_words(rng, 256)  # Zobrist hashing: a random word for every value of every image
            for side in (_PLAIN, _CIPHER):
                self.codes[side] += hashes[pair[side]]
                self.inverted[side] += hashes[space.top - pair[side]]
        # what is not keyed is told apart from the start: row t is row t
        rows = np.zeros(space.blocks, np.uint64) if space.scrambles else _random_words(rng, space.blocks)
        columns = np.zeros(space.values, np.uint64) if space.shuffles else _random_words(rng, space.values)
        self.rows, self.columns = np.stack([rows, rows]), np.stack([columns, columns])
        # cells as they compare between the sides; until a column's direction is known, either way round
        self._directed = np.full((2, space.values), not space.inverts)
        self._cells = self.codes + self.inverted if space.inverts else self.codes

    def refine(self) -> None:
        """Give rows and columns that differ different colours, until that stops telling more of them apart."""
        classes = 0
        while True:
            self.rows = _mix(self.rows + _mix(self._cells + _mix(self.columns)[:, None, :]).sum(axis=2))
            self._refine_columns()
            found = sum(len(np.unique(colours[_PLAIN])) for colours in (self.rows, self.columns))
            found += int(np.count_nonzero(self._directed[_PLAIN]))
            if found <= classes:
                return
            classes = found

    def _refine_columns(self) -> None:
        rows = _mix(self.rows)[:, :, None]
        upright = _mix(self.codes + rows).sum(axis=1)
        if not self._space.inverts:
            self.columns = _mix(self.columns + upright)
            return
        # of a column and its negative, the one with the smaller hash stands for both, on either side alike
        negative = _mix(self.inverted + rows).sum(axis=1)
        self.columns = _mix(self.columns + _mix(np.minimum(upright, negative)))
        self._directed = upright != negative
        cells = np.where((upright < negative)[:, None, :], self.codes, self.inverted)
        self._cells = np.where(self._directed[:, None, :], cells, self.codes + self.inverted)

    def break_ties(self) -> bool:
        """Tell some of the rows and columns apart that refinement cannot; False when there are none.

        Those that are equal in every cell may be put in any order without contradicting anything, so all of them are
        settled at once. Others get one of their number picked, and refinement draws the consequences.
        """
        rows, columns = _fingerprints(self.codes), _fingerprints(self._cells.swapaxes(1, 2))
        # columns of unknown direction cannot be compared yet, so they pass for different
        columns[~self._directed] = _random_words(self._rng, int(np.count_nonzero(~self._directed)))
        old_rows, old_columns = self.rows, self.columns
        self.rows, self.columns = self._settle_twins(self.rows, rows), self._settle_twins(self.columns, columns)
        if np.any(self.rows != old_rows) or np.any(self.columns != old_columns):
            return True
        return self._pick_one(self.rows) or self._pick_one(self.columns)

    def _settle_twins(self, colours: np.ndarray, fingerprints: np.ndarray) -> np.ndarray:
        """Number the members, in random order, of every class in which all have the same fingerprint."""
        settled = colours.copy()
        for side in (_PLAIN, _CIPHER):
            _, first, members, sizes = np.unique(
                colours[side], return_index=True, return_inverse=True, return_counts=True
            )
            different = fingerprints[side] != fingerprints[side][first][members]
            twins = (sizes > 1) & (np.bincount(members, weights=different) == 0)
            numbered = _mix(colours[side] + _rank_in_class(colours[side], self._rng) + np.uint64(1))
            settled[side] = np.where(twins[members], numbered, colours[side])
        return settled

    def _pick_one(self, colours: np.ndarray) -> bool:
        """Give one member of a class, the same class on both sides, a colour of its own, in place."""
        shared, sizes = np.unique(colours[_PLAIN], return_counts=True)
        shared = shared[sizes > 1]
        shared = shared[np.isin(shared, colours[_CIPHER])]
        if not len(shared):
            return False
        for side in (_PLAIN, _CIPHER):
            picked = self._rng.choice(np.flatnonzero(colours[side] == shared[0]))
            colours[side, picked] = _mix(shared[:1] + np.uint64(1))[0]
        return True


def _pair_up(sides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every cipher entry a plain one of the same colour, the rest at random: (2, n) to a permutation, (n,)."""
    plain, cipher = (_mix(colours + _rank_in_class(colours, rng)) for colours in sides)
    _, plain_places, cipher_places = np.intersect1d(plain, cipher, assume_unique=True, return_indices=True)
    everything = np.arange(len(plain))
    pairing = np.empty(len(plain), np.intp)
    pairing[cipher_places] = plain_places
    pairing[np.setdiff1d(everything, cipher_places)] = rng.permutation(np.setdiff1d(everything, plain_places))
    return pairing


def _fingerprints(table: np.ndarray) -> np.ndarray:
    """A hash of every row of either side, cells compared place by place: (2, rows, cells) to (2, rows)."""
    places = np.arange(1, table.shape[2] + 1, dtype=np.uint64) * _GOLDEN
    return np.asarray(_mix(table + places).sum(axis=2))


def _rank_in_class(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0, 1, … for the members of every class, in random order, uint64."""
    order = rng.permutation(len(colours))
    order = order[np.argsort(colours[order], kind="stable")]
    _, sizes = np.unique(colours, return_counts=True)
    rank = np.empty(len(colours), np.uint64)
    rank[order] = np.arange(len(colours)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank


def _random_words(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**64, count, dtype=np.uint64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words so that sums of them identify multisets (splitmix64's finaliser, Steele et al. 2014)."""
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
