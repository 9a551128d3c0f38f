"""Feature reconstruction attack: the outlines of a picture whose values were inverted one by one.

Inverting turns v into 255 - v, so what is the same for both, the distance to the middle of the scale, is in the
ciphertext. Setting the leading bit of every value to the same gives a picture folded at the middle: dark plain values
as they are, light ones inverted, and every outline that does not join values equally far from the middle.

Chang and Li, "Attacks on image encryption schemes for privacy-preserving deep neural networks", 2020
(arXiv 2004.13263), the basic attack on the scheme of Sirichotedumrong, Kinoshita and Kiya; called FR-Attack by
Sirichotedumrong and Kiya, "Visual security evaluation of learnable image encryption methods against ciphertext-only
attacks", 2020 (arXiv 2010.06198).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import sobel

from ppvit.audit.base import attack
from ppvit.audit.score import mean_ssim
from ppvit.audit.view import Finding, View, not_attacked


@attack("feature_reconstruction", "feature", ciphertext_only=True, place=6)
def find(view: View) -> Iterator[Finding]:
    """Undo the inversion of values in a single ciphertext as far as outlines show, where pixels keep their place."""
    if view.encrypted.dtype != np.uint8:
        yield not_attacked("this ciphertext has no bytes that could be inverted.")
        return
    found = [reconstruct(view.encrypted, leading_bit=bit, bits=4 if view.space.nibbles else 8) for bit in (0, 1)]

    def align(images: np.ndarray, plain: np.ndarray) -> np.ndarray:
        return max(found, key=lambda each: mean_ssim(each, plain))

    free = "which half of the scale is folded"
    yield Finding("one ciphertext", found[0], headline=True, free=free, align=align, outlines=True)


def reconstruct(images: np.ndarray, *, leading_bit: int = 0, bits: int = 8) -> np.ndarray:
    """Give every value the same leading bit: v where it has that bit, else inverted.

    Args:
        images: uint8, any shape.
        leading_bit: 0 gives v if v <= 127 else 255 - v; 1 gives its negative.
        bits: 8, or 4 for ciphers that invert half bytes one by one: both halves are folded.

    Returns:
        uint8, the shape of ``images``.
    """
    if (leading_bit, bits) not in {(0, 8), (1, 8), (0, 4), (1, 4)}:
        raise ValueError(f"expected leading_bit 0 or 1 and bits 8 or 4, got {leading_bit} and {bits}")
    parts = (0,) if bits == 8 else (0, 4)
    top = 1 << (bits - 1)
    found = np.zeros_like(images)
    for shift in parts:
        value = (images >> shift) & (2 * top - 1)
        found |= np.where((value >= top) == bool(leading_bit), value, 2 * top - 1 - value) << shift
    return found


def edge_correlation(recovered: np.ndarray, plain: np.ndarray) -> float:
    """How well edges are seen: Pearson correlation of Sobel magnitudes, the mean over images.

    Grey is the plain mean of the three colours, so that their order does not matter.

    Args:
        recovered, plain: uint8, (n, H, W, 3).

    Returns:
        -1 .. 1; about 0 for unrelated images, 0 where one of them has no edges or the same everywhere.
    """
    return float(np.mean([_correlation(_edges(a), _edges(b)) for a, b in zip(recovered, plain, strict=True)]))


def _edges(image: np.ndarray) -> np.ndarray:
    grey = image.mean(axis=-1)
    magnitudes: np.ndarray = np.hypot(sobel(grey, axis=0), sobel(grey, axis=1))
    return magnitudes.ravel()


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / size) if size > 0 else 0.0
