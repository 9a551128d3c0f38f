"""The algorithm for the parties: quadratic gradients from weights of zero, on raw features, weights as diagonals.

The arithmetic is Chiang's (arXiv 2304.03807), see `ppvit.he.volley_revolver.quadratic_gradient`; the layout is ours.
One process does the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvit.he.algorithms import ALGORITHMS, Algorithm, Floats, Labels, Renew, Slots, Twin, Weights, features_name
from ppvit.he.ckks.session import Session
from ppvit.he.diagonals.plan import DiagonalsPlan, make_plan, read_plan
from ppvit.he.diagonals.steps import train
from ppvit.he.volley_revolver import quadratic_gradient
from ppvit.he.volley_revolver.algorithm import SAFE_SCORE, Reporting

if TYPE_CHECKING:
    from ppvit.config import He


@ALGORITHMS.register()
@dataclass(frozen=True)
class Diagonals(Algorithm):
    """Chiang 2023 from weights of 0 in a layout of ours: few ciphertexts, 1 to 6 iterations"""

    name = "diagonals"
    reads = ()
    whitened = False
    gentler = "set he.algorithm=tiles"

    plan: DiagonalsPlan

    @classmethod
    def planned(cls, settings: He, images: int, columns: int, classes: int) -> Diagonals:
        return cls(make_plan(images, columns, classes, settings.iterations))

    @classmethod
    def read(cls, record: Any, where: str) -> Diagonals:
        return cls(read_plan(record, where))

    def with_images(self, images: int) -> Diagonals:
        return Diagonals(self.plan.with_images(images))

    def too_large(self, needed_bytes: int, available_bytes: int) -> str:
        return (
            f"he.algorithm diagonals takes about {needed_bytes / 2**20:.0f} MiB of memory, most of it for keys, and "
            f"{available_bytes / 2**20:.0f} MiB are free; lower he.iterations or he.train_images"
        )

    def twin(self, features: Floats, labels: Labels) -> Twin:
        plan = self.plan
        trained = quadratic_gradient.train(features, labels, plan.classes, plan.iterations, initial_weight=0.0)
        return Twin(trained.weights, [trained.largest_logit], SAFE_SCORE)

    def remedy(self, features: Floats, labels: Labels) -> str:
        return "set he.algorithm=tiles, which whitens the features"

    def upload_names(self) -> Iterator[str]:
        return (features_name(number, 0) for number in range(self.plan.layout.ciphertexts))

    def upload_slots(self, features: Floats, labels: Labels) -> Iterator[tuple[str, Slots]]:
        yield from zip(self.upload_names(), self.plan.layout.prepare(features, labels), strict=True)

    def train(self, session: Session, data: Path, bar: Any, renew: Renew | None = None) -> tuple[Weights, int]:
        uploaded = [session.load("Ciphertext", data / name) for name in self.upload_names()]
        before = session.key_switches
        diagonals = train(Reporting(session, bar), self.plan.layout, uploaded, self.plan.iterations)
        return diagonals, session.key_switches - before

    def weights_of(self, slots: list[Floats], features: Floats) -> Floats:
        return self.plan.layout.unpack(slots, features)
