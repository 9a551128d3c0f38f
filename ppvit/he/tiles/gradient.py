"""Logistic regression's gradient on ciphertexts in tiles, and the share of it that one process computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.he.algorithms import features_name, labels_name
from ppvit.he.ckks.session import Session
from ppvit.he.tiles.plan import TilesPlan
from ppvit.he.tiles.softmax import coefficients, masked_parabola
from ppvit.he.tiles.twin import C1, C3

Done = tuple[int, int]  # key switches since the last report, remaining depth


def residuals(session: Session, plan: TilesPlan, features: list[Any], labels: Any, ahead: list[Any]) -> Any:
    """Y - p(Z) with Z = X V^T of one group of images, repeated over features like the labels.

    Two levels below the scores, which are one below the weights; no level where there are no weights yet.

    Args:
        session: with evaluation keys.
        plan: the layout.
        features: one ciphertext a block.
        labels: Y - 1/2, one ciphertext, at the fresh scale.
        ahead: V, one ciphertext a block; none where V is zero.

    Returns:
        A ciphertext at the fresh scale.
    """
    if not ahead:  # p(0) is 1/2 for the sigmoid
        return labels if plan.loss == "sigmoid" else session.add_plain(labels, 0.5 - coefficients(plan.classes)[0])
    level = session.level(ahead[0])
    products = (session.multiply(session.drop(x, level), v) for x, v in zip(features, ahead, strict=True))
    scores = session.rescale(session.relinearise(session.sum(products)))
    for step in _over_features(plan):
        scores = session.add(scores, session.rotate(scores, step))
    # only lane 0 now holds whole sums; the mask in the polynomial's coefficients drops the rest
    probability = (masked_cubic if plan.loss == "sigmoid" else masked_parabola)(session, plan, scores)
    for step in _over_features(plan):
        probability = session.add(probability, session.rotate(probability, -step))
    return session.subtract(session.drop(labels, session.level(probability)), probability)


def masked_cubic(session: Session, plan: TilesPlan, scores: Any) -> Any:
    """c1 Z + c3 Z^3 = (c3 Z) (Z^2 + c1/c3) in lane 0 and zero elsewhere, at the fresh scale, two levels lower."""
    level, scale = session.level(scores), scores.scale
    first, second = session.primes[level], session.primes[level - 1]
    square = session.rescale(session.relinearise(session.multiply(scores, scores)))
    mask = np.zeros((plan.rows, plan.tile, plan.lanes))
    mask[:, 0] = C3
    # the scale of the coefficient that brings the result to the fresh scale, whatever primes the chain got
    wanted = session.parameters.scale * first * first * second / scale**3
    linear = session.rescale(session.multiply_plain(scores, mask.ravel(), wanted))
    product = session.multiply(linear, session.add_plain(square, C1 / C3))
    return session.as_scale(session.rescale(session.relinearise(product)), session.parameters.scale)


def _over_features(plan: TilesPlan) -> list[int]:
    return [plan.lanes << power for power in range(plan.tile.bit_length() - 1)]


def _over_images(plan: TilesPlan) -> list[int]:
    return [plan.lanes * plan.tile << power for power in range(plan.rows.bit_length() - 1)]


class Gradient:
    """A share of the work on X^T E: in one process, for its share of every batch's groups of images.

    Reads each ciphertext once where all batches are one, and keeps it.

    Args:
        session: with evaluation keys.
        plan: the layout.
        data: folder of encrypted features and labels.
        number, processes: this process takes every processes-th group from ``number`` on.
    """

    def __init__(self, session: Session, plan: TilesPlan, data: Path, number: int, processes: int) -> None:
        self._session, self._plan, self._data = session, plan, data
        self._number, self._processes = number, processes
        self._kept: dict[int, tuple[list[Any], Any]] = {}

    def partial(self, task: tuple[int, list[bytes]], report: Callable[[Done], None]) -> list[bytes]:
        """This share's part of X^T E by blocks, not yet relinearised; nothing where the share is empty.

        Args:
            task: iteration, and V as ciphertexts by blocks; none where V is zero.
            report: told of every group.
        """
        session, plan = self._session, self._plan
        iteration, sent = task
        weights = [session.from_bytes("Ciphertext", each) for each in sent]
        totals: list[Any] = []
        for group in plan.batch_groups(iteration)[self._number :: self._processes]:
            before = session.key_switches
            features, labels = self._read(group)
            error = residuals(session, plan, features, labels, weights)
            level = session.level(error)
            products = [session.multiply(session.drop(x, level), error) for x in features]
            totals = [session.add(*pair) for pair in zip(totals, products, strict=True)] if totals else products
            report((session.key_switches - before, level))
        return [session.to_bytes(each) for each in totals]

    def total(self, parts: list[bytes], report: Callable[[Done], None]) -> bytes:
        """One block of the gradient, repeated over images, from the parts of all processes."""
        session = self._session
        before = session.key_switches
        total = session.sum(session.from_bytes("Ciphertext", part) for part in parts)
        block = session.rescale(session.relinearise(total))
        for step in _over_images(self._plan):
            block = session.add(block, session.rotate(block, step))
        report((session.key_switches - before, session.level(block)))
        return session.to_bytes(block)

    def _read(self, group: int) -> tuple[list[Any], Any]:
        if group not in self._kept:
            if self._plan.batches > 1:
                self._kept.clear()  # one group at a time: memory does not grow with the data
            names = [features_name(group, block) for block in range(self._plan.blocks)]
            features = [self._session.load("Ciphertext", self._data / name) for name in names]
            self._kept[group] = features, self._session.load("Ciphertext", self._data / labels_name(group))
        return self._kept[group]
