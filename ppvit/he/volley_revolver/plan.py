"""How a run of the published algorithm is laid out: its ring and modulus chain, its grid, memory and cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, ValidationError

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import Record, first_reason
from ppvit.he.ckks.counting import KeySwitchCounter
from ppvit.he.ckks.memory import every_level_bytes, session_bytes
from ppvit.he.ckks.scheme import Parameters
from ppvit.he.volley_revolver.layout import Layout, Upload, choose_chain, make_layout, train

MAX_SIZE = 65_536  # images, columns and classes, long before which memory ends
_KEY_SWITCHING = 4  # ciphertexts of each level that are there at once, besides one a group
_WAITING = 16  # ciphertexts besides features and labels: products that wait to be added up


@dataclass(frozen=True)
class VolleyRevolverPlan:
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

    mode: ClassVar[str] = "levelled"
    loss: ClassVar[str] = "sigmoid"
    blocks: ClassVar[int] = 1  # ciphertexts that hold the weights

    @cached_property
    def parameters(self) -> Parameters:
        """The CKKS parameter set, checked."""
        return choose_chain(self.iterations)

    @cached_property
    def layout(self) -> Layout:
        """The grid, checked."""
        return make_layout(self.images, self.columns, self.classes, self.parameters.slots)

    def with_images(self, images: int) -> VolleyRevolverPlan:
        """The same settings on fewer images."""
        return VolleyRevolverPlan(images, self.columns, self.classes, self.iterations)

    def rotations(self) -> list[int]:
        """Steps by which training rotates."""
        return self.layout.rotations()

    def key_switches(self) -> int:
        """Relinearisations and rotations of the whole training, counted by a run on nothing."""
        counter = KeySwitchCounter()
        empty = [0] * self.layout.groups
        train(counter, self.layout, Upload(empty, empty, 0, 0), self.iterations)
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


class _Recorded(Record):
    """A plan in JSON."""

    images: int = Field(ge=1)
    columns: int = Field(ge=1)
    classes: int = Field(ge=1)
    iterations: int = Field(ge=1, le=3)


def read_plan(record: Any, where: str) -> VolleyRevolverPlan:
    """The inverse of :meth:`VolleyRevolverPlan.as_record`, checked.

    Raises:
        PpvitError: fields are missing or unknown.
    """
    try:
        checked = _Recorded.model_validate(record)
        return make_plan(checked.images, checked.columns, checked.classes, checked.iterations)
    except (PpvitError, ValidationError) as error:
        reason = first_reason(error) if isinstance(error, ValidationError) else error
        raise PpvitError(f"{where} is no plan of this ppvit ({reason}); make it again: ppvit he keys") from None


def make_plan(images: int, columns: int, classes: int, iterations: int) -> VolleyRevolverPlan:
    """See :class:`VolleyRevolverPlan`.

    Raises:
        UsageError: too many classes, columns or iterations.
    """
    for name, value in (("images", images), ("columns", columns), ("classes", classes)):
        if value > MAX_SIZE:
            raise UsageError(f"{value} {name}: volley_revolver takes {MAX_SIZE:,} at most; take fewer, or the tiles")
    plan = VolleyRevolverPlan(images, columns, classes, iterations)
    plan.layout  # noqa: B018  the check
    return plan
