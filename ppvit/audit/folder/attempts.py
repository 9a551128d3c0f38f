"""Attacks on pictures of which nothing is known: those that their structure gives hope of, the cheapest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ppvit.audit.attacks import feature_reconstruction, jigsaw, min_difference, pooled
from ppvit.audit.folder.colours import colour_order, reordered
from ppvit.audit.folder.structure import Structure, inside_order
from ppvit.audit.view import decrypt
from ppvit.ciphers import AffineMap

WHOLE = 0.7  # order inside blocks above which their pixels are where they were
_TURNED_BLOCKS = 400  # of a picture, at most, whose turns and colours are looked for: memory grows with their square
_TURNED_PICTURES = 8  # that are looked at for it
_MOVED_BLOCKS = 4096  # the same, of blocks that were only moved
_MOVED_VALUES = 3 * 32**2  # of a block, at most, that are put in order: time and memory grow with their square
_MOVED, _TURNED = "blocks moved", "blocks moved, turned and recoloured"


@dataclass(frozen=True)
class Attempt:
    """What an attack makes of pictures.

    Attributes:
        attack: as of ``ppvit list attacks``.
        block_size: side of a block in pixels; 0 where there are no blocks.
        decrypt: from pictures to pictures, uint8, (n, S, S, 3) both.
        key: one key for all of them; None where each picture is attacked by itself.
        colours_free: the attack leaves the order of the colours open.
        words: what is taken to have been done to the pictures, where the attack can be made in several ways.
    """

    attack: str
    block_size: int
    decrypt: Callable[[np.ndarray], np.ndarray]
    key: AffineMap | None = None
    colours_free: bool = False
    words: str = ""

    @property
    def negative_free(self) -> bool:
        """Whether all pictures may be negatives: some values were inverted, and which ones is known up to all."""
        return self.colours_free and (self.key is None or bool((self.key.sign < 0).any()))

    def with_colours(self, order: tuple[int, int, int]) -> Attempt:
        """The same with the colours of the result in that order, in the key as well."""
        if self.key is not None:
            return with_key(self.attack, reordered(self.key, order), self.block_size, self.colours_free, self.words)
        return replace(self, decrypt=lambda pictures: self.decrypt(pictures)[..., list(order)])


def with_key(attack: str, key: AffineMap, block_size: int, colours_free: bool = False, words: str = "") -> Attempt:
    """What one key makes of pictures."""
    return Attempt(attack, block_size, lambda pictures: decrypt(pictures, key, block_size), key, colours_free, words)


def left_out(side: int, block_size: int) -> str:
    """What is not tried with pictures of so many pixels a side in such blocks, in sentences; empty where all is."""
    number, values = (side // block_size) ** 2, 3 * block_size**2
    told = []
    if values > _MOVED_VALUES:
        told.append(
            f"Pixels that were moved inside blocks were not put in order: {values:,} values a block are more than "
            f"{_MOVED_VALUES:,}."
        )
    if number > _MOVED_BLOCKS:
        told.append(
            f"Blocks that were moved were not put in order: {number:,} a picture are more than {_MOVED_BLOCKS:,}."
        )
    elif number > _TURNED_BLOCKS:
        told.append(
            f"Blocks that were turned or recoloured as well were not put in order: {number:,} a picture are more than "
            f"{_TURNED_BLOCKS}."
        )
    return " ".join(told)


Attempts = list[tuple[str, Callable[[], Attempt]]]  # name of the attack, and the attack, which may take long


def attempts(pictures: np.ndarray, structure: Structure, seed: int = 0) -> Attempts:
    """The ways to attack pictures, one after the other; whoever is content with a result makes no more.

    Args:
        pictures: uint8, (n, S, S, 3).
        structure: of the pictures, see :func:`ppvit.audit.folder.structure.examine`.
        seed: of random choices.
    """
    found: Attempts = []
    sides = (structure.block_size, *structure.others) if structure.kind == "blocks" else ()
    for side in sides:
        if inside_order(pictures, side) >= WHOLE:
            found += [("jigsaw", make) for make in _of_whole_blocks(pictures, side)]
        elif (pictures.shape[1] // side) ** 2 <= _MOVED_BLOCKS and 3 * side**2 <= _MOVED_VALUES:
            words = f"blocks of {side} px" if len(sides) > 1 else ""
            found.append(("pooled", partial(_of_mixed_blocks, pictures, side, seed, words)))
    size = structure.block_size
    by_features = Attempt("feature_reconstruction", size, feature_reconstruction.reconstruct)
    by_difference = Attempt("min_difference", size, lambda all_: min_difference.reconstruct(all_, True), None, True)
    return [*found, (by_features.attack, lambda: by_features), (by_difference.attack, lambda: by_difference)]


def _of_mixed_blocks(pictures: np.ndarray, side: int, seed: int, words: str) -> Attempt:
    """Blocks that were moved, with their pixels moved and inverted."""
    rng = np.random.default_rng(seed)
    key = pooled.recover_key(pictures, side, scrambles=True, shuffles=True, inverts=True, rng=rng)
    return with_key("pooled", key, side, True, words)


def _of_whole_blocks(pictures: np.ndarray, side: int) -> list[Callable[[], Attempt]]:
    """Blocks that were moved, and perhaps turned, inverted and recoloured: under one key first, then each picture's."""

    def moved() -> Attempt:
        rng = np.random.default_rng(0)
        key = pooled.recover_key(pictures, side, scrambles=True, shuffles=False, inverts=False, rng=rng)
        return with_key("jigsaw", key, side, words=_MOVED)

    def turned() -> Attempt:
        return with_key("jigsaw", jigsaw.key_of(pictures[:_TURNED_PICTURES], side), side, True, _TURNED)

    def alone(transforms: bool) -> Attempt:
        words = f"{_TURNED if transforms else _MOVED}, each picture by itself"
        return Attempt("jigsaw", side, _each_by_itself(side, transforms), words=words)

    ways: list[tuple[Callable[[], Attempt], bool]] = [(moved, False), (turned, True)]
    if len(pictures) > 1:
        ways += [(partial(alone, transforms), transforms) for transforms in (False, True)]
    number = (pictures.shape[1] // side) ** 2
    return [make for make, transforms in ways if number <= (_TURNED_BLOCKS if transforms else _MOVED_BLOCKS)]


def _each_by_itself(block_size: int, transforms: bool) -> Callable[[np.ndarray], np.ndarray]:
    def solved(pictures: np.ndarray) -> np.ndarray:
        found = [jigsaw.solve(picture, block_size, transforms=transforms).picture for picture in pictures]
        if transforms:
            found = [picture[..., list(colour_order(picture[None], negative=True).order)] for picture in found]
        return np.stack(found)

    return solved
