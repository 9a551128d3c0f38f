"""The published algorithm for the parties: quadratic gradients on raw features in Volley Revolver's layout.

Chiang (arXiv 2304.03807), see `quadratic_gradient` for the arithmetic and `volley_revolver` for the layout. One modulus
chain holds all iterations, so there are three at most, and one process does the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.he.ckks.arithmetic import CiphertextArithmetic
from ppvit.he.ckks.memory import every_level_bytes, session_bytes
from ppvit.he.ckks.scheme import Parameters, require_whole
from ppvit.he.ckks.session import Session
from ppvit.he.parties.folders import features_name, labels_name
from ppvit.he.tiles.twin import Twin
from ppvit.he.volley_revolver import layout as volley_revolver
from ppvit.he.volley_revolver import quadratic_gradient

reads = ()  # of the section he, beside what every algorithm does
_WEIGHTS, _STEPS = "initial-weights.ct", "steps.ct"
_KEY_SWITCHING = 4  # ciphertexts of each level that are there at once, besides one a group
_WAITING = 16  # ciphertexts besides features and labels: products that wait to be added up
SAFE_SCORE = 16.7  # beyond, the paper's cubic has the wrong sign


@dataclass(frozen=True)
class Plan:
    """What both parties know of a run.

    Attributes:
        images: training images n.
        columns: features and the constant, d.
        classes: C.
        iterations: T, 1 to 3.
    """

    images: int
    columns: int
    classes: int
    iterations: int

    algorithm: ClassVar[str] = "volley_revolver"
    mode: ClassVar[str] = "levelled"
    loss: ClassVar[str] = "sigmoid"
    blocks: ClassVar[int] = 1  # ciphertexts that hold the weights

    @cached_property
    def parameters(self) -> Parameters:
        """The CKKS parameter set, checked."""
        return volley_revolver.parameters(self.iterations)

    @cached_property
    def layout(self) -> volley_revolver.Layout:
        """The grid, checked."""
        return volley_revolver.plan(self.images, self.columns, self.classes, self.parameters.slots)

    @property
    def batch(self) -> int:
        """Images of one iteration: all."""
        return self.images

    def with_images(self, images: int) -> Plan:
        """The same settings on fewer images."""
        return Plan(images, self.columns, self.classes, self.iterations)

    def rotations(self) -> list[int]:
        """Steps by which training rotates."""
        return self.layout.rotations()

    def key_switches(self) -> int:
        """Relinearisations and rotations of the whole training, counted by a run on nothing."""
        counter = Counter()
        empty = [0] * self.layout.groups
        volley_revolver.train(counter, self.layout, volley_revolver.Upload(empty, empty, 0, 0), self.iterations)
        return counter.key_switches

    def upload_bytes(self) -> int:
        """Size of features, labels, initial weights and steps as uploaded, before compression."""
        return (2 * self.layout.groups + 2) * self.parameters.ciphertext_bytes() // 2

    def memory_bytes(self, processes: int = 1) -> int:
        """Estimate of the trainer's memory: keys above all, then ciphertexts."""
        ciphertexts = (2 * self.layout.groups + _WAITING) * self.parameters.ciphertext_bytes()
        working = (_KEY_SWITCHING + self.layout.groups) * every_level_bytes(self.parameters)
        return session_bytes(self.parameters, len(self.rotations()), processes) + ciphertexts + working

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_plan(record: dict[str, Any], where: str) -> Plan:
    """The inverse of :meth:`Plan.as_record`, checked.

    Raises:
        PpvitError: fields are missing or unknown.
    """
    try:
        plan = Plan(**record)
        require_whole(**plan.as_record())
        return make_plan(plan.images, plan.columns, plan.classes, plan.iterations)
    except (PpvitError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise PpvitError(f"{where} is no plan of this ppvit ({error}); make it again: ppvit he keys") from None


def make_plan(images: int, columns: int, classes: int, iterations: int) -> Plan:
    """See :class:`Plan`.

    Raises:
        UsageError: too many classes, columns or iterations.
    """
    plan = Plan(images, columns, classes, iterations)
    plan.layout  # noqa: B018  the check
    return plan


def require_memory(plan: Plan, available_bytes: int, processes: int = 1) -> None:
    """Refuse, before any work, what would not fit.

    Raises:
        PpvitError: fewer bytes are available than :meth:`Plan.memory_bytes`.
    """
    if plan.memory_bytes() > available_bytes:
        raise PpvitError(
            f"volley_revolver takes about {plan.memory_bytes() / 2**30:.1f} GiB of memory, most of it for keys, and "
            f"{available_bytes / 2**30:.1f} GiB are free; lower he.iterations or set he.algorithm=tiles"
        )


def processes(plan: Plan) -> int:
    """One: every step needs the one before."""
    return 1


def twin(plan: Plan, features: np.ndarray, labels: np.ndarray) -> Twin:
    """Train in the clear, see :func:`ppvit.he.volley_revolver.quadratic_gradient.train`."""
    trained = quadratic_gradient.train(features, labels, plan.classes, plan.iterations)
    return Twin(trained.weights, [trained.largest_logit], SAFE_SCORE)


def upload_slots(plan: Plan, features: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """File name and slots, float64 (N/2,), of everything that the owner encrypts.

    Args:
        plan: the layout.
        features: float64 (n, d), the constant included.
        labels: class numbers, int64 (n,).
    """
    upload = volley_revolver.prepare(plan.layout, features, labels)
    for group, (x, y) in enumerate(zip(upload.samples, upload.labels, strict=True)):
        yield features_name(group, 0), x
        yield labels_name(group), y
    yield _WEIGHTS, upload.weights
    yield _STEPS, upload.steps


def train(session: Session, plan: Plan, data: Path, bar: Any, renew: None = None) -> tuple[list[Any], int]:
    """Run all iterations.

    Args:
        session: with evaluation keys.
        plan: the layout.
        data: folder of what :func:`upload_slots` named, encrypted.
        bar: progress in key switches.
        renew: there is no refresh.

    Returns:
        The encrypted weights, one ciphertext, and the number of key switches.
    """

    def read(name: str) -> Any:
        return session.load("Ciphertext", data / name)

    groups = range(plan.layout.groups)
    upload = volley_revolver.Upload(
        [read(features_name(group, 0)) for group in groups],
        [read(labels_name(group)) for group in groups],
        read(_WEIGHTS),
        read(_STEPS),
    )
    before = session.key_switches
    trained = volley_revolver.train(_Reporting(session, bar), plan.layout, upload, plan.iterations)
    return [trained], session.key_switches - before


def weights_of(plan: Plan, slots: list[np.ndarray]) -> np.ndarray:
    """Weights, float64 (C, d), from the decrypted slots of the one ciphertext."""
    return plan.layout.unpack(slots[0])


class _Reporting(CiphertextArithmetic):
    """Tells a progress bar of every key switch."""

    def __init__(self, session: Session, bar: Any) -> None:
        super().__init__(session)
        self._bar, self._depth = bar, session.parameters.top_level

    def multiply(self, a: Any, b: Any) -> Any:
        result = super().multiply(a, b)
        self._tell_depth(result)
        self._bar.update(1)
        return result

    def multiply_plain(self, a: Any, vector: np.ndarray) -> Any:
        result = super().multiply_plain(a, vector)
        self._tell_depth(result)
        return result

    def rotate(self, a: Any, steps: int) -> Any:
        result = super().rotate(a, steps)
        self._bar.update(1)
        return result

    def _tell_depth(self, result: Any) -> None:
        self._depth = min(self._depth, self._session.level(result))  # operands that wait are higher
        self._bar.set_postfix_str(f"depth left {self._depth}", refresh=False)


class Counter:
    """Arithmetic that only counts key switches; all values are 0."""

    def __init__(self) -> None:
        self.key_switches = 0

    def multiply(self, a: int, b: int) -> int:
        self.key_switches += 1
        return 0

    rotate = multiply

    def add(self, a: int, b: Any) -> int:
        return 0

    add_plain = multiply_plain = add
