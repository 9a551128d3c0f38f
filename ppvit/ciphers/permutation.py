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
    """No encryption: plain shards through the same code, for baselines."""

    name = "none"
    keyed = False


@CIPHERS.register(place=1)
class Shuffle(PermutationCipher):
    """Pixel shuffling (SHF): one permutation of the B values of a block, the same for all blocks; B! keys."""

    name = "shuffle"
    shuffles = True


@CIPHERS.register(place=1)
class Scramble(PermutationCipher):
    """Block scrambling: one permutation of the N blocks; N! keys."""

    name = "scramble"
    scrambles = True


@CIPHERS.register(place=1)
class Block(PermutationCipher):
    """Block scrambling and pixel shuffling (Nagamori et al.); N! B! keys."""

    name = "block"
    scrambles = True
    shuffles = True


@CIPHERS.register(place=1)
class NegativePositive(PermutationCipher):
    """A keyed half of the B positions inverted, the same for all blocks; C(B, B/2) keys."""

    name = "np"
    inverts = True


@CIPHERS.register(place=1)
class BlockNegativePositive(PermutationCipher):
    """Block scrambling, pixel shuffling and negative-positive transformation (Qi et al.); N! B! C(B, B/2) keys."""

    name = "block_np"
    scrambles = True
    shuffles = True
    inverts = True


@CIPHERS.register(place=1)
class PixelPosition(GatherCipher):
    """Blocks change places, and whole RGB pixels change places within every block (Qi et al. 2022); N! (p^2)! keys."""

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
