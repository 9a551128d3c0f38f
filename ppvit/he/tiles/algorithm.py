"""Our algorithm: Nesterov's accelerated gradient on whitened features, packed in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvit.he.algorithms import (
    ALGORITHMS,
    Algorithm,
    Floats,
    Labels,
    Renew,
    Slots,
    Twin,
    Weights,
    features_name,
    labels_name,
)
from ppvit.he.ckks.forks import Forks, process_count
from ppvit.he.ckks.session import Session
from ppvit.he.tiles import twin as twins
from ppvit.he.tiles.gradient import Done, Gradient
from ppvit.he.tiles.packing import feature_slots, label_slots, weights_of
from ppvit.he.tiles.plan import TilesPlan, make_plan, read_plan

if TYPE_CHECKING:
    from ppvit.config import He


@ALGORITHMS.register(place=0)
@dataclass(frozen=True)
class Tiles(Algorithm):
    """ours: accelerated gradient steps on whitened features, packed in tiles; few key switches"""

    name = "tiles"
    reads = ("components", "batch_images", "mode", "patience", "loss", "learning_rate", "l2")
    whitened = True
    gentler = "lower he.learning_rate or he.iterations, or raise he.l2"

    plan: TilesPlan

    @classmethod
    def planned(cls, settings: He, images: int, columns: int, classes: int) -> Tiles:
        plan = make_plan(
            images,
            columns,
            classes,
            settings.iterations,
            settings.mode,
            settings.learning_rate,
            settings.l2,
            settings.batch_images,
            settings.loss,
        )
        return cls(plan)

    @classmethod
    def read(cls, record: Any, where: str) -> Tiles:
        return cls(read_plan(record, where))

    def with_images(self, images: int) -> Tiles:
        return Tiles(self.plan.with_images(images))

    def processes(self) -> int:
        return process_count(len(self.plan.batch_groups(0)))

    def too_large(self, needed_bytes: int, available_bytes: int) -> str:
        return (
            f"training on {self.plan.batch} encrypted images of {self.plan.columns} columns at once takes about "
            f"{needed_bytes / 2**20:.0f} MiB of memory and {available_bytes / 2**20:.0f} MiB are free; lower "
            "he.batch_images, he.train_images or he.components"
        )

    def twin(self, features: Floats, labels: Labels) -> Twin:
        return twins.train(self.plan, features, labels)

    def remedy(self, features: Floats, labels: Labels) -> str:
        rate = twins.working_rate(self.plan, features, labels)
        if rate is None:
            lowest = self.plan.learning_rate / 2**twins.HALVINGS
            return f"no he.learning_rate down to {lowest:.3g} helps; lower he.iterations"
        return f"set he.learning_rate={rate:g}, from `keys` on: with it the same training in the clear does not"

    def upload_names(self) -> Iterator[str]:
        for group, _ in self.plan.groups():
            yield from (features_name(group, block) for block in range(self.plan.blocks))
            yield labels_name(group)

    def upload_slots(self, features: Floats, labels: Labels) -> Iterator[tuple[str, Slots]]:
        for group, images in self.plan.groups():
            part = slice(images.start, images.stop)
            for block in range(self.plan.blocks):
                yield features_name(group, block), feature_slots(self.plan, features[part], block)
            yield labels_name(group), label_slots(self.plan, labels[part])

    def train(self, session: Session, data: Path, bar: Any, renew: Renew | None = None) -> tuple[Weights, int]:
        plan, count = self.plan, self.processes()
        weights: Weights = []
        ahead: Weights = []
        switches = 0
        with Forks(lambda number: Gradient(session, plan, data, number, count), count) as forks:

            def report(done: Done) -> None:
                nonlocal switches
                switches += done[0]
                bar.set_postfix_str(f"iteration {iteration + 1}/{plan.iterations}, depth left {done[1]}")
                bar.update(done[0])

            for iteration in range(plan.iterations):
                if renew and ahead:
                    weights, *others = renew([weights, ahead])
                    if not others:  # the owner has seen enough
                        return [session.drop(each, 0) for each in weights], switches
                    [ahead] = others
                report((0, session.level(ahead[0]) if ahead else session.parameters.top_level))
                sent = [session.to_bytes(each) for each in ahead]
                parts = [part for part in forks.each("partial", (iteration, sent), report) if part]
                blocks = [[part[block] for part in parts] for block in range(plan.blocks)]
                gradient = [session.from_bytes("Ciphertext", each) for each in forks.map("total", blocks, report)]
                weights, ahead = step(session, plan, iteration, gradient, weights, ahead)
        return weights, switches

    def weights_of(self, slots: list[Floats], features: Floats) -> Floats:
        return weights_of(self.plan, slots)


def step(
    session: Session, plan: TilesPlan, iteration: int, gradient: Weights, weights: Weights, ahead: Weights
) -> tuple[Weights, Weights]:
    """W' = (1 - lr l2) V + (lr/n) G and V' = W' + beta (W' - W), at the level of the gradient.

    The factor of G costs nothing: the same integers are read at another scale. Those of V and W use levels that these
    have to spare, being four above the gradient.

    Args:
        session: needs no keys.
        plan: the settings.
        iteration: t, from 0.
        gradient: G, one ciphertext a block.
        weights, ahead: W and V, one ciphertext a block; empty where they are zero, at first.

    Returns:
        W' and V'.
    """
    beta, decay = twins.momentum(iteration), 1 - plan.learning_rate * plan.l2
    scale = gradient[0].scale * len(plan.batch_images(iteration)) / plan.learning_rate
    stepped: Weights = []
    next_ahead: Weights = []
    if not ahead:
        stepped = [session.read_at(each, scale) for each in gradient]
        return stepped, [session.read_at(each, scale / (1 + beta)) for each in gradient]
    level = session.level(gradient[0])
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
