"""Tiles: how features, labels and weights lie in the slots of ciphertexts.

Slot i (lanes F) + f lanes + c belongs to image i of its group, feature f of its block and class c. Features are
repeated over classes, labels over features, weights over images, so that products by slots line up and sums over
features or images are rotations.
"""

from __future__ import annotations

import numpy as np

from ppvit.he.algorithms import truths
from ppvit.he.tiles.plan import TilesPlan


def feature_slots(plan: TilesPlan, features: np.ndarray, block: int) -> np.ndarray:
    """One block of features of a group of images.

    Args:
        plan: the layout.
        features: float64 (m, d), m at most ``plan.rows``.
        block: which ``plan.tile`` columns.

    Returns:
        float64, (N/2,); zero where there is no image or column.
    """
    columns = features[:, block * plan.tile : (block + 1) * plan.tile]
    tiles = np.zeros((plan.rows, plan.tile, plan.lanes))
    tiles[: len(features), : columns.shape[1]] = columns[..., None]
    return tiles.ravel()


def label_slots(plan: TilesPlan, labels: np.ndarray) -> np.ndarray:
    """Y - 1/2 of a group of images: float64, (N/2,), zero where there is no image or class.

    Args:
        plan: the layout.
        labels: int64, (m,) or (m, C), m at most ``plan.rows``.
    """
    tiles = np.zeros((plan.rows, plan.tile, plan.lanes))
    tiles[: len(labels), :, : plan.classes] = (truths(labels, plan.classes) - 0.5)[:, None]
    return tiles.ravel()


def weights_of(plan: TilesPlan, slots: list[np.ndarray]) -> np.ndarray:
    """Weights from the slots of all blocks, averaged over their copies.

    Args:
        plan: the layout.
        slots: ``plan.blocks`` arrays, float64 (N/2,).

    Returns:
        float64, (C, d).
    """
    tiles = [each.reshape(plan.rows, plan.tile, plan.lanes).mean(0) for each in slots]
    return np.concatenate(tiles)[: plan.columns, : plan.classes].T
