"""How a run on diagonals is laid out: its ring and modulus chain, memory and cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, ValidationError

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import Record, first_reason
from ppvit.he.ckks.counting import KeySwitchCounter
from ppvit.he.ckks.memory import every_level_bytes, session_bytes
from ppvit.he.ckks.scheme import CAPS, Parameters
from ppvit.he.diagonals.layout import Layout, make_layout
from ppvit.he.diagonals.steps import train

MAX_SIZE = 65_536  # images, columns and classes, long before which memory ends
MAX_ITERATIONS = 6
FIRST_LEVELS, LATER_LEVELS = 2, 4  # labels' mask, E X; then X V, the cubic (2), E X
_SCALES = (40, 36, 32)  # bits; below, primes are too far from powers of two
_HEADROOM = 20  # bits of the first and the special prime beyond the scale
_RINGS = (8192, 16384, 32768)
_KEY_SWITCHING = 4  # ciphertexts of each level that are there at once
# whole ciphertexts a lane: turned images, products of three polynomials, V and W; pools keep those of every iteration
_EVERY_LANE, _EVERY_ITERATION = 4, 3


@dataclass(frozen=True)
class DiagonalsPlan:
    """What both parties know of a run.

    Attributes:
        images: training images n.
        columns: features and the constant, d.
        classes: C.
        iterations: T, 1 to 6.
    """

    images: int
    columns: int
    classes: int
    iterations: int

    mode: ClassVar[str] = "levelled"
    loss: ClassVar[str] = "sigmoid"

    @cached_property
    def parameters(self) -> Parameters:
        """The CKKS parameter set, checked."""
        return choose_chain(self.iterations)

    @cached_property
    def layout(self) -> Layout:
        """The layout, checked."""
        return make_layout(self.images, self.columns, self.classes, self.parameters.slots)

    @property
    def blocks(self) -> int:
        """Ciphertexts that hold the weights: the diagonals."""
        return self.layout.lanes

    def with_images(self, images: int) -> DiagonalsPlan:
        """The same settings on fewer images."""
        return DiagonalsPlan(images, self.columns, self.classes, self.iterations)

    def rotations(self) -> list[int]:
        """Steps by which training rotates; one of them stands for the conjugation."""
        return self.layout.rotations()

    def key_switches(self) -> int:
        """Relinearisations, rotations and conjugations of the whole training, counted by a run on nothing."""
        counter = KeySwitchCounter()
        train(counter, self.layout, [0] * self.layout.ciphertexts, self.iterations)
        return counter.key_switches

    def upload_bytes(self) -> int:
        """Size of images with their labels as uploaded, before compression."""
        return self.layout.ciphertexts * self.parameters.ciphertext_bytes() // 2

    def memory_bytes(self, processes: int = 1) -> int:
        """Estimate of the trainer's memory: keys above all, then ciphertexts."""
        a_lane = _EVERY_LANE + _EVERY_ITERATION * self.iterations
        ciphertexts = 3 * self.layout.groups + a_lane * self.layout.lanes
        working = _KEY_SWITCHING * every_level_bytes(self.parameters)
        keys = session_bytes(self.parameters, len(self.rotations()), processes)
        return keys + ciphertexts * self.parameters.ciphertext_bytes() + working

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def choose_chain(iterations: int) -> Parameters:
    """The smallest ring that holds the chain at 128 bits, and the largest scale in it.

    Raises:
        UsageError: more iterations than any ring holds.
    """
    levels = FIRST_LEVELS + LATER_LEVELS * (iterations - 1)
    for ring in _RINGS:
        for scale in _SCALES:
            outer = min(60, scale + _HEADROOM)
            if levels * scale + 2 * outer <= CAPS[ring]:
                return Parameters(ring, (outer, *[scale] * levels, outer), scale)
    raise UsageError(
        f"he.algorithm diagonals: {iterations} iterations take {levels} levels, more than 128 bits of security allow; "
        f"set he.iterations={MAX_ITERATIONS} or lower, or he.algorithm=tiles"
    )


class _Recorded(Record):
    """A plan in JSON."""

    images: int = Field(ge=1)
    columns: int = Field(ge=1)
    classes: int = Field(ge=1)
    iterations: int = Field(ge=1, le=MAX_ITERATIONS)


def read_plan(record: Any, where: str) -> DiagonalsPlan:
    """The inverse of :meth:`DiagonalsPlan.as_record`, checked.

    Raises:
        PpvitError: fields are missing, unknown or out of range.
    """
    try:
        checked = _Recorded.model_validate(record)
        return make_plan(checked.images, checked.columns, checked.classes, checked.iterations)
    except (PpvitError, ValidationError) as error:
        reason = first_reason(error) if isinstance(error, ValidationError) else error
        raise PpvitError(f"{where} is no plan of this ppvit ({reason}); make it again: ppvit he keys") from None


def make_plan(images: int, columns: int, classes: int, iterations: int) -> DiagonalsPlan:
    """See :class:`DiagonalsPlan`.

    Raises:
        UsageError: too many images, classes, columns or iterations.
    """
    for name, value in (("images", images), ("columns", columns), ("classes", classes)):
        if value > MAX_SIZE:
            raise UsageError(
                f"{value} {name}: he.algorithm diagonals takes {MAX_SIZE:,} at most; take fewer or set "
                "he.algorithm=tiles"
            )
    plan = DiagonalsPlan(images, columns, classes, iterations)
    plan.layout  # noqa: B018  the check
    return plan
