"""Matching attack: which of many plain candidates is each ciphertext? No key is looked for, so none has to be shared.

The attacker holds m ciphertexts and c candidates, among them the plain images of all m, and compares what ciphers leave
as it was: how often every value occurs (up to inversion), which values share a block, how long a block is as a vector.
A key does not enter into any of this, so a new key for every image does not help.

Nobody says which invariant survives a cipher, and the attacker need not know. For every one of them, the distances of
the ciphertexts to the candidates are compared with those of the candidates among themselves, which are unrelated for
sure. An invariant counts by how far a ciphertext's nearest candidate stands out before its second nearest, more than
among the unrelated: the ratio test of Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004,
7.1. One that does not survive hardly counts. Candidates that are near to everything ("hubs") lose that advantage, as
in Conneau et al., "Word translation without parallel data", ICLR 2018, 2.3.

Carlini et al., "NeuraCrypt is not private", arXiv 2108.07256, win the same game against a secret network with features
that they learn. Nothing is learned here: that takes seconds, and what it finds about such a network is no bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ppvit.audit.base import attack
from ppvit.audit.view import Finding, View, not_attacked, to_blocks

Features = Callable[[np.ndarray, int], dict[str, np.ndarray]]

_LEVELS = 9  # quantiles kept of the values of a block
_RANKS = (1, 4, 11)  # which of its neighbours, by distance, a block is described by, beside the farthest
_PIXELS = 4096  # places looked at for what stays in place
_EXACT = 1e-6  # a distance below this share of the usual one is as good as none
_DOUBT = 0.05  # weight of what does not stand out: enough only where nothing else does
_ENOUGH = 8  # ciphertexts that tell mean and deviation of a feature


@attack("matching", "match", reads=("candidates",), figure="top1_percent", place=9)
def find(view: View) -> Iterator[Finding]:
    """Tell which of some plain images a ciphertext shows."""
    candidates = view.candidates
    if candidates is None:
        yield not_attacked("there are no plain images to choose from.")
        return
    similarity = match(view.encrypted, candidates, view.block_size)
    needs = f"{len(candidates)} plain images to choose from"
    yield Finding(needs, candidates[assign(similarity)], headline=True, identifies=True)


def match(
    encrypted: np.ndarray, candidates: np.ndarray, block_size: int, features: Features | None = None
) -> np.ndarray:
    """How much each ciphertext resembles each candidate.

    Args:
        encrypted: ciphertexts, uint8 or float, (m, H, W, 3), or tokens (m, N, width).
        candidates: plain images, uint8, (c, H, W, 3).
        block_size: side of a block in pixels.
        features: turns images into named vectors, float, (n, d) each, which a cipher may leave unchanged; names that
            the ciphertexts or the candidates lack are left out. By default :func:`invariants`.

    Returns:
        float64, (m, c), larger is more alike; all zero when there is nothing to compare.
    """
    extract = features or invariants
    of_cipher, of_plain = extract(encrypted, block_size), extract(candidates, block_size)
    total, weights = np.zeros((len(encrypted), len(candidates))), 0.0
    for name in sorted(of_cipher.keys() & of_plain.keys()) if len(candidates) > 1 else ():
        if of_cipher[name].shape[1:] == of_plain[name].shape[1:]:
            for near, unrelated in _comparisons(of_cipher[name], of_plain[name]):
                evidence, weight = _evidence(near, unrelated)
                total, weights = total + weight * evidence, weights + weight
    return total / weights if weights else total


def top1_percent(similarity: np.ndarray, truth: np.ndarray) -> float:
    """How often the most similar candidate is the right one; ties count as what a random choice among them would get.

    Args:
        similarity: (m, c).
        truth: intp, (m,), the candidate that each ciphertext is.
    """
    best = similarity == similarity.max(axis=1, keepdims=True)
    return float(100 * np.mean(best[np.arange(len(truth)), truth] / best.sum(axis=1)))


def chance_percent(candidates: int) -> float:
    """What a guess gets: one of ``candidates``."""
    return 100.0 / candidates


def assign(similarity: np.ndarray) -> np.ndarray:
    """The candidate of each ciphertext, none used twice, with the largest total similarity: (m, c) to intp, (m,)."""
    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1])


def _evidence(near: np.ndarray, unrelated: np.ndarray) -> tuple[np.ndarray, float]:
    """Similarity by one comparison, in deviations of unrelated images, and how much it is to be trusted.

    Args:
        near: distances of the ciphertexts to the candidates, (m, c).
        unrelated: those of the candidates to each other, (c, c).

    Returns:
        (m, c), and a weight that is close to 0 when nearest candidates stand out no more than among unrelated images.
    """
    floor = _EXACT * np.median(unrelated[np.triu_indices(len(unrelated), 1)])
    if not floor:  # most candidates are alike: nothing to tell them apart by
        return np.zeros_like(near), 0.0
    evidence, usual = _without_hubs(-np.log(near + floor)), -np.log(unrelated + floor)
    np.fill_diagonal(usual, np.nan)
    usual = _without_hubs(usual)
    spread = max(float(np.nanstd(usual)), 0.1)  # two candidates alone have no spread
    usual_lead = float(np.mean(_lead(np.nan_to_num(usual, nan=-np.inf))))
    lead = float(np.mean(_lead(evidence)))
    return evidence / spread, max(_DOUBT, (lead - usual_lead) / (usual_lead + 0.1))


def _comparisons(cipher: np.ndarray, plain: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Distances (m, c) and (c, c) by one feature, (m, d) and (c, d): as it is, and by how it deviates from the mean.

    The second is for features that a cipher changes, but in all images alike: each side is standardised by itself.
    """
    yield cdist(cipher, plain, "cityblock"), cdist(plain, plain, "cityblock")
    if len(cipher) >= _ENOUGH:
        cipher, plain = ((side - side.mean(0)) / np.maximum(side.std(0), 1e-9) for side in (cipher, plain))
        near, unrelated = (np.nan_to_num(cdist(side, plain, "correlation"), nan=1.0) for side in (cipher, plain))
        yield np.maximum(near, 0), np.maximum(unrelated, 0)


def _without_hubs(evidence: np.ndarray) -> np.ndarray:
    """Take from every column its median; what is right for one row only does not move that. (m, c) to (m, c)."""
    return evidence - np.nanmedian(evidence, axis=0) if len(evidence) > 2 else evidence


def _lead(evidence: np.ndarray) -> np.ndarray:
    """By how much the best of each row is ahead of the second best: (m, c) to (m,)."""
    if evidence.shape[1] < 3:  # of two candidates, one of which may be left out, there is no usual lead
        return np.zeros(len(evidence))
    second, best = np.partition(evidence, -2, axis=1)[:, -2:].T
    return np.asarray(best - second)


def invariants(images: np.ndarray, block_size: int) -> dict[str, np.ndarray]:
    """What some or all ciphers leave unchanged in an image.

    Args:
        images: uint8 or float, (n, H, W, 3), or float tokens (n, N, width).
        block_size: side of a block in pixels.

    Returns:
        Named vectors, float, (n, d): of bytes only where ``images`` are bytes, of pixels only where they are images.
    """
    tokens = images if images.ndim == 3 else to_blocks(images, block_size)
    found = {"lengths": _lengths(tokens), "neighbours": _neighbours(tokens)}
    if images.ndim == 4:
        flat = images.reshape(len(images), -1)
        places = np.linspace(0, flat.shape[1] - 1, min(_PIXELS, flat.shape[1])).astype(np.intp)
        found["pixels"] = flat[:, places].astype(np.float32)  # ciphers that leave some values where they are
    if images.dtype == np.uint8:
        found |= _of_bytes(tokens)
    return found


def _of_bytes(blocks: np.ndarray) -> dict[str, np.ndarray]:
    """Invariants of permutations and inversions of bytes, or of nibbles: uint8 (n, N, B) to (n, d) each.

    "values" survives permutations, "folded" inversions as well (v and 255 - v are one), "nibbles" also those of half
    bytes. Their block versions keep which of them are in one block: what a block has is sorted, then the blocks are.
    """
    folded = np.where(blocks < 128, 255 - blocks, blocks) - np.uint8(128)  # 0 .. 127
    nibbles = np.concatenate([blocks >> 4, blocks & 15], axis=2)
    nibbles = np.where(nibbles < 8, 7 - nibbles, nibbles - 8)  # 0 .. 7
    per_block = np.stack([(nibbles == value).mean(axis=2) for value in range(8)], axis=2)
    return {
        "values": _histogram(blocks, 256),
        "folded": _histogram(folded, 128),
        "nibbles": per_block.mean(axis=1),
        "blocks of values": _sorted_quantiles(blocks),
        "blocks of folded": _sorted_quantiles(folded),
        "blocks of nibbles": np.sort(per_block, axis=1).reshape(len(blocks), -1),
    }


def _histogram(values: np.ndarray, bins: int) -> np.ndarray:
    """Square roots of how often each value occurs, so that rare ones count as well: uint8 (n, N, B) to (n, bins)."""
    return np.sqrt([np.bincount(image.ravel(), minlength=bins) / image.size for image in values])


def _sorted_quantiles(blocks: np.ndarray) -> np.ndarray:
    """Quantiles of each block's values, each of them sorted over the blocks: (n, N, B) to (n, N * levels)."""
    places = np.linspace(0, blocks.shape[2] - 1, _LEVELS).round().astype(np.intp)
    quantiles = np.sort(blocks, axis=2)[:, :, places]
    return np.sort(quantiles, axis=1).reshape(len(blocks), -1).astype(np.float32)


def _lengths(blocks: np.ndarray) -> np.ndarray:
    """Sorted lengths of the centred blocks in units of their mean: orthogonal maps leave them. (n, N, B) to (n, N)."""
    lengths = np.stack([np.linalg.norm(image.astype(np.float32) - 127.5, axis=1) for image in blocks])
    lengths /= lengths.mean(axis=1, keepdims=True)
    return np.sort(lengths, axis=1)


def _neighbours(blocks: np.ndarray) -> np.ndarray:
    """Sorted over the blocks, in units of the mean distance: how far other blocks are on average, the 1st, 4th, ...

    Orthogonal maps of all blocks alike leave this as it is, and a random network nearly. (n, N, B) to (n, d); a single
    block has no neighbours, and gives zeros.
    """
    count = blocks.shape[1]
    ranks = [rank for rank in _RANKS if rank < count] + [count - 1]
    found = np.zeros((len(blocks), len(ranks) + 1, count))
    for image, rows in zip(blocks, found, strict=True):
        values = image.astype(np.float64)
        squares = (values**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * values @ values.T, 0))
        np.fill_diagonal(distances, 0)
        distances = np.sort(distances / max(distances.mean(), 1e-9), axis=1)
        rows[:] = np.sort(np.vstack([distances[:, ranks].T, distances.mean(axis=1)]), axis=1)
    return found.reshape(len(blocks), -1)
