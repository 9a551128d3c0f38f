"""The published algorithm for the parties: quadratic gradients on raw features in Volley Revolver's layout.

Chiang (arXiv 2304.03807), see `quadratic_gradient` for the arithmetic and `layout` for the layout. One modulus chain
holds all iterations, so there are three at most, and one process does the work, as every step needs the one before.
"""

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
from ppvit.he.ckks.arithmetic import CiphertextArithmetic, Vector
from ppvit.he.ckks.session import Session
from ppvit.he.volley_revolver import layout, quadratic_gradient
from ppvit.he.volley_revolver.plan import VolleyRevolverPlan, make_plan, read_plan

if TYPE_CHECKING:
    from ppvit.config import He

_WEIGHTS, _STEPS = "initial-weights.ct", "steps.ct"
SAFE_SCORE = 16.7  # beyond, the paper's cubic has the wrong sign


@ALGORITHMS.register()
@dataclass(frozen=True)
class VolleyRevolver(Algorithm):
    """Chiang 2023: quadratic gradients on raw features, 1 to 3 iterations, slow; for comparison"""

    name = "volley_revolver"
    reads = ()
    whitened = False
    gentler = "set he.algorithm=tiles"

    plan: VolleyRevolverPlan

    @classmethod
    def planned(cls, settings: He, images: int, columns: int, classes: int) -> VolleyRevolver:
        return cls(make_plan(images, columns, classes, settings.iterations))

    @classmethod
    def read(cls, record: Any, where: str) -> VolleyRevolver:
        return cls(read_plan(record, where))

    def with_images(self, images: int) -> VolleyRevolver:
        return VolleyRevolver(self.plan.with_images(images))

    def too_large(self, needed_bytes: int, available_bytes: int) -> str:
        return (
            f"volley_revolver takes about {needed_bytes / 2**30:.1f} GiB of memory, most of it for keys, and "
            f"{available_bytes / 2**30:.1f} GiB are free; lower he.iterations or set he.algorithm=tiles"
        )

    def twin(self, features: Floats, labels: Labels) -> Twin:
        trained = quadratic_gradient.train(features, labels, self.plan.classes, self.plan.iterations)
        return Twin(trained.weights, [trained.largest_logit], SAFE_SCORE)

    def remedy(self, features: Floats, labels: Labels) -> str:
        return "set he.algorithm=tiles, which whitens the features"

    def upload_names(self) -> Iterator[str]:
        for group in range(self.plan.layout.groups):
            yield features_name(group, 0)
            yield labels_name(group)
        yield _WEIGHTS
        yield _STEPS

    def upload_slots(self, features: Floats, labels: Labels) -> Iterator[tuple[str, Slots]]:
        upload = layout.prepare(self.plan.layout, features, labels)
        for group, (x, y) in enumerate(zip(upload.samples, upload.labels, strict=True)):
            yield features_name(group, 0), x
            yield labels_name(group), y
        yield _WEIGHTS, upload.weights
        yield _STEPS, upload.steps

    def train(self, session: Session, data: Path, bar: Any, renew: Renew | None = None) -> tuple[Weights, int]:
        def read(name: str) -> Any:
            return session.load("Ciphertext", data / name)

        groups = range(self.plan.layout.groups)
        upload = layout.Upload(
            [read(features_name(group, 0)) for group in groups],
            [read(labels_name(group)) for group in groups],
            read(_WEIGHTS),
            read(_STEPS),
        )
        before = session.key_switches
        trained = layout.train(Reporting(session, bar), self.plan.layout, upload, self.plan.iterations)
        return [trained], session.key_switches - before

    def weights_of(self, slots: list[Floats], features: Floats) -> Floats:
        return self.plan.layout.unpack(slots[0])


class Reporting(CiphertextArithmetic):
    """Tells a progress bar of every key switch."""

    def __init__(self, session: Session, bar: Any) -> None:
        super().__init__(session)
        self._bar, self._depth = bar, session.parameters.top_level

    def close(self, products: Any) -> Any:
        result = super().close(products)
        self._tell_depth(result)
        self._bar.update(1)
        return result

    def multiply_plain(self, a: Any, vector: Vector) -> Any:
        result = super().multiply_plain(a, vector)
        self._tell_depth(result)
        return result

    def rotate(self, a: Any, steps: int) -> Any:
        result = super().rotate(a, steps)
        self._bar.update(1)
        return result

    def parts(self, a: Any) -> tuple[Any, Any]:
        self._bar.update(1)
        return super().parts(a)

    def _tell_depth(self, result: Any) -> None:
        self._depth = min(self._depth, self._session.level(result))  # operands that wait are higher
        self._bar.set_postfix_str(f"depth left {self._depth}", refresh=False)
