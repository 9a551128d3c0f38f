"""Our algorithm for the parties: Nesterov's accelerated gradient on whitened features, packed in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.he.ckks.session import Session
from ppvit.he.parties.folders import features_name, labels_name
from ppvit.he.parties.forks import Forks, process_count
from ppvit.he.tiles import twin as twins
from ppvit.he.tiles.gradient import Worker
from ppvit.he.tiles.packing import feature_slots, label_slots, weights_of
from ppvit.he.tiles.plan import Plan, read_plan, require_memory
from ppvit.he.tiles.twin import Twin, momentum

__all__ = ["Plan", "Twin", "processes", "read_plan", "require_memory", "train", "twin", "upload_slots", "weights_of"]

reads = (
    "components",
    "batch_images",
    "mode",
    "loss",
    "learning_rate",
    "l2",
)  # of the section he, and not every algorithm
Weights = list[Any]  # one ciphertext a block


def twin(plan: Plan, features: np.ndarray, labels: np.ndarray) -> Twin:
    """See :func:`ppvit.he.tiles.twin.train`."""
    return twins.train(plan, features, labels)


def upload_slots(plan: Plan, features: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """File name and slots, float64 (N/2,), of everything that the owner encrypts.

    Args:
        plan: the layout.
        features: float64 (n, d), the constant included.
        labels: class numbers, int64 (n,).
    """
    for group, images in plan.groups():
        part = slice(images.start, images.stop)
        for block in range(plan.blocks):
            yield features_name(group, block), feature_slots(plan, features[part], block)
        yield labels_name(group), label_slots(plan, labels[part])


def processes(plan: Plan) -> int:
    """Processes among which the trainer shares its work."""
    return process_count(len(plan.batch_groups(0)))


def train(
    session: Session, plan: Plan, data: Path, bar: Any, renew: Callable[[list[Weights]], list[Weights]] | None = None
) -> tuple[Weights, int]:
    """Run all iterations.

    Args:
        session: with evaluation keys.
        plan: the layout and the settings.
        data: folder of encrypted features and labels.
        bar: progress in key switches.
        renew: gives weights at the lowest level back at the top; None where the chain holds all iterations.

    Returns:
        Encrypted weights, one ciphertext a block, and the number of key switches.
    """
    count = processes(plan)
    weights: Weights | None = None
    ahead: Weights | None = None
    switches = 0
    with Forks(lambda number: Worker(session, plan, data, number, count), count) as forks:

        def report(done: tuple[int, int]) -> None:
            nonlocal switches
            switches += done[0]
            bar.set_postfix_str(f"iteration {iteration + 1}/{plan.iterations}, depth left {done[1]}")
            bar.update(done[0])

        for iteration in range(plan.iterations):
            if renew and weights and ahead:
                weights, ahead = renew([weights, ahead])
            report((0, session.level(ahead[0]) if ahead else session.parameters.top_level))
            sent = ahead and [session.to_bytes(each) for each in ahead]
            parts = [part for part in forks.ask([("gradient", (iteration, sent))] * count, report) if part]
            blocks = [[part[block] for part in parts] for block in range(plan.blocks)]
            shares = forks.ask([("finish", blocks[number::count]) for number in range(count)], report)
            gradient = [b""] * plan.blocks
            for number, share in enumerate(shares):
                gradient[number::count] = share
            loaded = [session.from_bytes("Ciphertext", each) for each in gradient]
            weights, ahead = step(session, plan, iteration, loaded, weights, ahead)
    return weights, switches


def step(
    session: Session, plan: Plan, iteration: int, gradient: Weights, weights: Weights | None, ahead: Weights | None
) -> tuple[Weights, Weights]:
    """W' = (1 - lr l2) V + (lr/n) G and V' = W' + beta (W' - W), at the level of the gradient.

    The factor of G costs nothing: the same integers are read at another scale. Those of V and W use levels that these
    have to spare, being four above the gradient.

    Returns:
        W' and V'.
    """
    beta, decay = momentum(iteration), 1 - plan.learning_rate * plan.l2
    scale = gradient[0].scale * len(plan.batch_images(iteration)) / plan.learning_rate
    if weights is None or ahead is None:
        stepped = [session.read_at(each, scale) for each in gradient]
        return stepped, [session.read_at(each, scale / (1 + beta)) for each in gradient]
    level = session.level(gradient[0])
    stepped, next_ahead = [], []
    for g, w, v in zip(gradient, weights, ahead, strict=True):
        stepped.append(session.add(session.read_at(g, scale), scaled(session, v, decay, level, scale)))
        scale_ahead = scale / (1 + beta)
        both = session.add(
            scaled(session, v, (1 + beta) * decay, level, scale_ahead),
            scaled(session, w, -beta, level, scale_ahead),
        )
        next_ahead.append(session.add(session.read_at(g, scale_ahead), both))
    return stepped, next_ahead


def scaled(session: Session, ciphertext: Any, factor: float, level: int, scale: float) -> Any:
    """A ciphertext times a known factor, brought exactly to a lower level and another scale."""
    prime = session.primes[session.level(ciphertext)]
    product = session.rescale(session.multiply_plain(ciphertext, factor, scale * prime / ciphertext.scale))
    return session.as_scale(session.drop(product, level), scale)
