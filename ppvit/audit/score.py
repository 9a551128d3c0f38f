"""How much an attack recovered, against the truth that only the owner has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from skimage.metrics import structural_similarity

from ppvit.audit.view import KeySpace
from ppvit.ciphers import AffineMap
from ppvit.core.workers import available_cpus

PSNR_LIMIT_DB = 100.0  # written for an exact match, whose ratio is infinite; one wrong step in 2^20 values gives 108
_LARGE = 2**15  # values of an image from which threads are worth their start


def key_recovered_percent(found: AffineMap, truth: AffineMap, space: KeySpace) -> float | None:
    """Share of the key that was found, corrected for guessing: 0 is a random guess, 100 the whole key.

    The key's entries are those of the permutations and signs that the cipher really keys: N for the block
    permutation, V for the value permutation, V for the sign mask, the latter two for every block position where each
    has its own. With r right entries of n, of which a guess gets c on average (``space.right_by_chance``), this is
    ``100 max(0, r - c) / (n - c)``. For a matrix it is 100 times the cosine between the two.

    Returns:
        0 .. 100, or None for a cipher without a key.
    """
    if not space.keyed:
        return None
    if found.matrix is not None and truth.matrix is not None:
        product = np.vdot(found.matrix, truth.matrix)
        return 100.0 * max(0.0, float(product / np.linalg.norm(found.matrix) / np.linalg.norm(truth.matrix)))
    right = total = guessed = 0.0
    parts = (
        (space.scrambles, found.block_permutation, truth.block_permutation),
        (space.shuffles or space.per_position, found.value_permutation, truth.value_permutation),
        (space.inverts, found.sign, truth.sign),
    )
    for (keyed, one, other), chance in zip(parts, space.right_by_chance, strict=True):
        if keyed:
            right, total, guessed = right + np.count_nonzero(one == other), total + other.size, guessed + chance
    # a single block has one order only, so there is nothing left to find
    return 100.0 * max(0.0, right - guessed) / (total - guessed) if total > guessed else 0.0


def mean_ssim(recovered: np.ndarray, plain: np.ndarray) -> float:
    """Mean structural similarity over images: 1 is identical, about 0 unrelated.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004, eq. 13, on
    uint8 RGB with scikit-image's 7 x 7 window.

    Args:
        recovered, plain: uint8, (n, H, W, 3), H and W at least 7.
    """
    # torchmetrics, cropped and with k2 * sqrt(48 / 49), gives the same, but in float64 only, which takes 8 times as
    # long at 32 px and 80 times at 224 px; in float32 flat bright pictures are wrong in the fourth digit
    pairs = list(zip(recovered, plain, strict=True))
    with ThreadPoolExecutor(available_cpus()) as threads:  # scipy's filters run side by side
        each = threads.map(_ssim, pairs) if plain.size >= _LARGE * len(plain) else map(_ssim, pairs)
        return float(np.mean(list(each)))


def _ssim(pair: tuple[np.ndarray, np.ndarray]) -> float:
    return float(structural_similarity(*pair, channel_axis=-1, data_range=255))


def psnr_db(recovered: np.ndarray, plain: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all pixels of all images, at most ``PSNR_LIMIT_DB``; arrays as above."""
    error = np.mean((recovered.astype(np.float32) - plain) ** 2, dtype=np.float64)
    return PSNR_LIMIT_DB if error == 0 else min(PSNR_LIMIT_DB, float(10 * np.log10(255**2 / error)))
