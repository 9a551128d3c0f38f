"""Ciphers that permute blocks, permute the values or pixels inside blocks, and invert some of them.

Sources: `shuffle` AprilPyone and Kiya (SHF) and Lin et al., arXiv 2507.11943; `scramble` and `block` Nagamori, Shiota
and Kiya, arXiv 2401.05126, Sec. III; `np` negative-positive transformation; `block_np` Qi et al. 2023;
`pixel_position` Qi et al. 2022.
"""

from __future__ import annotations

import numpy as np

from ppvit.ciphers.base import CIPHERS, AffineMap
from ppvit.ciphers.gather import GatherCipher, log2_factorial


class PermutationCipher(GatherCipher):
    """Up to three keyed steps, each over the whole data set and in every block the same:

    1. scramble: ``y[t] = x[kb[t]]``, blocks change places;
    2. shuffle: ``y[t, j] = y[t, kp[j]]``, values of all three colours change places within every block;
    3. invert: ``y[t, j] = 255 - y[t, j]`` for a keyed half of the positions j.
    """

    uniform = True

    def _make_map(self, *image: str | int) -> AffineMap:
        blocks, values = self.blocks, self.values
        return AffineMap(
            block_permutation=self._stream("scramble").permutation(blocks) if self.scrambles else np.arange(blocks),
            value_permutation=self._stream("shuffle").permutation(values) if self.shuffles else np.arange(values),
            sign=np.where(self._stream("invert").half_mask(values), -1, 1).astype(np.int8)
            if self.inverts
            else np.ones(values, np.int8),
        )

    @property
    def key_space_bits(self) -> float:
        half = self.values // 2
        inversion = log2_factorial(self.values) - log2_factorial(half) - log2_factorial(self.values - half)
        return (
            self.scrambles * log2_factorial(self.blocks)
            + self.shuffles * log2_factorial(self.values)
            + self.inverts * inversion
        )


@CIPHERS.register(place=1)
class Plain(PermutationCipher):
    """No encryption, for baselines: plain shards through the same code."""

    name = "none"
    keyed = False


@CIPHERS.register(place=1)
class Shuffle(PermutationCipher):
    """The values of a block change places, in all blocks alike (pixel shuffling, SHF).

    Key space B! for the B values of a block.
    """

    name = "shuffle"
    shuffles = True


@CIPHERS.register(place=1)
class Scramble(PermutationCipher):
    """The blocks change places (block scrambling).

    Key space N! for N blocks.
    """

    name = "scramble"
    scrambles = True


@CIPHERS.register(place=1)
class Block(PermutationCipher):
    """The blocks change places, and the values inside all blocks alike (Nagamori et al. 2024).

    Key space N! B!.
    """

    name = "block"
    scrambles = True
    shuffles = True


@CIPHERS.register(place=1)
class NegativePositive(PermutationCipher):
    """Half of the values of a block are inverted, v to 255 - v, the same ones in all blocks (negative-positive).

    Key space C(B, B/2).
    """

    name = "np"
    inverts = True


@CIPHERS.register(place=1)
class BlockNegativePositive(PermutationCipher):
    """Blocks change places, values inside all blocks alike, and half of these are inverted (Qi et al. 2023).

    Key space N! B! C(B, B/2).
    """

    name = "block_np"
    scrambles = True
    shuffles = True
    inverts = True


@CIPHERS.register(place=1)
class PixelPosition(GatherCipher):
    """Blocks change places, and whole pixels, colours together, inside all blocks alike (Qi et al. 2022).

    Key space N! (p^2)! for blocks of p x p pixels.
    """

    name = "pixel_position"
    scrambles = True
    shuffles = True

    def _make_map(self, *image: str | int) -> AffineMap:
        pixels = self.block_size**2
        order = self._stream("pixels").permutation(pixels)
        return AffineMap(
            block_permutation=self._stream("scramble").permutation(self.blocks),
            value_permutation=np.concatenate([channel * pixels + order for channel in range(3)]),
            sign=np.ones(self.values, np.int8),
        )

    @property
    def key_space_bits(self) -> float:
        return log2_factorial(self.blocks) + log2_factorial(self.block_size**2)
