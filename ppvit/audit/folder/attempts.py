"""Attacks on pictures of which nothing is known: those that their structure gives hope of, the cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ppvit.audit.attacks import feature_reconstruction, jigsaw, min_difference, pooled
from ppvit.audit.folder.colours import colour_order, reordered
from ppvit.audit.folder.structure import Structure, inside_order
from ppvit.audit.view import decrypt
from ppvit.ciphers import AffineMap

_WHOLE = 0.7  # order inside blocks above which their pixels are where they were
_TURNED_BLOCKS = 400  # of a picture, at most, whose turns and colours are looked for: memory grows with their square
_TURNED_PICTURES = 8  # that are looked at for it
_MOVED_BLOCKS = 4096  # the same, of blocks that were only moved
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
    """What is not tried with pictures of so many pixels a side in such blocks, or in none (0); empty where all is."""
    if not block_size:
        return ""
    number = (side // block_size) ** 2
    if number > _MOVED_BLOCKS:
        return f"Blocks that were moved were not put in order: {number:,} a picture are more than {_MOVED_BLOCKS:,}."
    if number > _TURNED_BLOCKS:
        return (
            f"Blocks that were turned or recoloured as well were not put in order: {number:,} a picture are more than "
            f"{_TURNED_BLOCKS}."
        )
    return ""


def attempts(pictures: np.ndarray, structure: Structure, seed: int = 0) -> Iterator[Attempt]:
    """Attack pictures in one way after the other; whoever is content with a result takes no more.

    Args:
        pictures: uint8, (n, S, S, 3).
        structure: of the pictures, see :func:`ppvit.audit.folder.structure.examine`.
        seed: of random choices.
    """
    for block_size in (structure.block_size, *structure.others) if structure.kind == "blocks" else ():
        if inside_order(pictures, block_size) >= _WHOLE:
            yield from _of_whole_blocks(pictures, block_size)
        if (pictures.shape[1] // block_size) ** 2 <= _MOVED_BLOCKS:
            rng = np.random.default_rng(seed)
            key = pooled.recover_key(pictures, block_size, scrambles=True, shuffles=True, inverts=True, rng=rng)
            yield with_key("pooled", key, block_size, colours_free=True)
    side = structure.block_size
    yield Attempt("feature_reconstruction", side, feature_reconstruction.reconstruct)
    yield Attempt("min_difference", side, lambda images: min_difference.reconstruct(images, True), colours_free=True)


def _of_whole_blocks(pictures: np.ndarray, block_size: int) -> Iterator[Attempt]:
    """Blocks that were moved, and perhaps turned, inverted and recoloured: under one key first, then each picture's."""
    number = (pictures.shape[1] // block_size) ** 2
    if number <= _MOVED_BLOCKS:
        rng = np.random.default_rng(0)
        key = pooled.recover_key(pictures, block_size, scrambles=True, shuffles=False, inverts=False, rng=rng)
        yield with_key("jigsaw", key, block_size, words=_MOVED)
    if number <= _TURNED_BLOCKS:
        yield with_key("jigsaw", jigsaw.key_of(pictures[:_TURNED_PICTURES], block_size), block_size, True, _TURNED)
    for transforms in (False, True) if len(pictures) > 1 else ():
        if number <= (_TURNED_BLOCKS if transforms else _MOVED_BLOCKS):
            words = f"{_TURNED if transforms else _MOVED}, each picture by itself"
            yield Attempt("jigsaw", block_size, _each_by_itself(block_size, transforms), words=words)


def _each_by_itself(block_size: int, transforms: bool) -> Callable[[np.ndarray], np.ndarray]:
    def solved(pictures: np.ndarray) -> np.ndarray:
        found = [jigsaw.solve(picture, block_size, transforms=transforms).picture for picture in pictures]
        if transforms:
            found = [picture[..., list(colour_order(picture[None], negative=True).order)] for picture in found]
        return np.stack(found)

    return solved
