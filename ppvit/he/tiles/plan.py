"""How a training run is laid out: ring, modulus chain, tile and memory, chosen from the sizes that the trainer learns.

Bounds: classes <= 1024, columns <= 4096, images a pass <= 65,536; in practice memory ends first and is checked before
any work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, ValidationError

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import Record, first_reason
from ppvit.he.ckks.memory import every_level_bytes, session_bytes
from ppvit.he.ckks.scheme import CAPS, Parameters

MAX_CLASSES, MAX_COLUMNS, MAX_IMAGES = 1024, 4096, 65_536
MAX_ITERATIONS = 1000  # as he.iterations in ppvit.config
MAX_FILES = 100_000  # ciphertexts of a run
_SCALES = range(36, 25, -1)  # bits; below 26 rounding shows in the accuracy, above 36 nothing is gained
_HEADROOM = 3  # bits between the largest weight's scale and the last prime: weights up to 4 in size
_SPECIAL = 4  # bits by which the special prime should exceed the others: less noise from every key switch
_KEY_SWITCHING, _SUMS = 4, 5  # ciphertexts of each level, and sums over images, that a process has at once; measured
_WEIGHTS = 5  # W, V and gradients that the first process has at once, in sizes of features; measured
# of the mean gradient's step: rate / sqrt(n) / 2^scale; weights were off by at most 1.4e6 times that (n = 16, 128, 512
# and 1024, two iterations), so that they stay within 5e-3 of the twin's
_NOISE = 3e-9
_STEPS = 4  # rescalings of an iteration: scores, square, cubic, gradient

Mode = Literal["levelled", "refresh"]
Loss = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class TilesPlan:
    """What both parties know of a run: sizes and settings, nothing about a single image.

    Attributes:
        images: training images n.
        columns: features and the constant, d.
        classes: C.
        batch: images of one iteration; iteration t uses batch t modulo ``batches``.
        iterations: T.
        mode: ``levelled``, all iterations on one modulus chain; ``refresh``, the key holder renews the weights after
            each.
        learning_rate, l2: step size, and the factor of the squared weights' penalty.
        lanes: slots for classes, a power of two.
        tile: features in one ciphertext, F, a power of two.
        ring, prime_bits, scale_bits: see :class:`ppvit.he.ckks.scheme.Parameters`.
        loss: ``sigmoid``, one-versus-rest with a cubic; ``softmax``, with a parabola.
    """

    images: int
    columns: int
    classes: int
    batch: int
    iterations: int
    mode: Mode
    learning_rate: float
    l2: float
    lanes: int
    tile: int
    ring: int
    prime_bits: tuple[int, ...]
    scale_bits: int
    loss: Loss = "sigmoid"

    @cached_property
    def parameters(self) -> Parameters:
        """The CKKS parameter set, checked."""
        return Parameters(self.ring, tuple(self.prime_bits), self.scale_bits)

    @property
    def rows(self) -> int:
        """Images in one ciphertext, n_g."""
        return self.ring // 2 // (self.lanes * self.tile)

    @property
    def blocks(self) -> int:
        """Ciphertexts that hold one row of features, K."""
        return math.ceil(self.columns / self.tile)

    @property
    def batches(self) -> int:
        """Mini-batches of an epoch; the last may be smaller."""
        return math.ceil(self.images / self.batch)

    def with_images(self, images: int) -> TilesPlan:
        """The same settings on fewer images: for twins only, the ring stays."""
        return replace(self, images=images, batch=min(self.batch, images))

    def batch_images(self, iteration: int) -> range:
        """Indices of the images of an iteration."""
        start = iteration % self.batches * self.batch
        return range(start, min(start + self.batch, self.images))

    def batch_groups(self, iteration: int) -> range:
        """Indices of the groups of ``rows`` images of an iteration; a group never holds two batches."""
        each = math.ceil(self.batch / self.rows)
        start = iteration % self.batches * each
        return range(start, start + math.ceil(len(self.batch_images(iteration)) / self.rows))

    def groups(self) -> Iterator[tuple[int, range]]:
        """Every group and its images, once."""
        for batch in range(self.batches):
            images = self.batch_images(batch)
            for place, group in enumerate(self.batch_groups(batch)):
                yield group, images[place * self.rows : (place + 1) * self.rows]

    def rotations(self) -> list[int]:
        """Steps by which training rotates: over features there and back, and over images."""
        over_features = [self.lanes << power for power in range(int(math.log2(self.tile)))]
        over_images = [self.lanes * self.tile << power for power in range(int(math.log2(self.rows)))]
        return [*over_features, *(-step for step in over_features), *over_images]

    def key_switches(self) -> int:
        """Relinearisations and rotations of the whole training; the first iteration has no scores to compute."""
        total = 0
        for iteration in range(self.iterations):
            total += _key_switches(self.blocks, len(self.batch_groups(iteration)) if iteration else 0, self)
        return total

    @property
    def files(self) -> int:
        """Ciphertexts of features and labels."""
        last = self.images - (self.batches - 1) * self.batch
        groups = (self.batches - 1) * math.ceil(self.batch / self.rows) + math.ceil(last / self.rows)
        return groups * (self.blocks + 1)

    def upload_bytes(self) -> int:
        """Size of features and labels as uploaded, before compression."""
        return self.files * self.parameters.ciphertext_bytes() // 2

    def memory_bytes(self, processes: int = 1) -> int:
        """Estimate of the trainer's memory: evaluation keys, ciphertexts, and working space; rather too high.

        Without mini-batches all ciphertexts stay in memory; with them every process keeps one group of images.
        """
        groups = len(self.batch_groups(0)) if self.batches == 1 else processes
        data = groups * (self.blocks + 1) * self.parameters.ciphertext_bytes()
        # sums over images are of three polynomials, one a block, at the levels of the errors
        top = self.parameters.top_level
        levels = range(top, 0, -4) if self.mode == "levelled" else {top, top - 3}
        products = self.blocks * sum(self.parameters.ciphertext_bytes(level) * 3 // 2 for level in levels)
        working = processes * (_KEY_SWITCHING * every_level_bytes(self.parameters) + _SUMS * products)
        weights = _WEIGHTS * self.blocks * self.parameters.ciphertext_bytes()
        return session_bytes(self.parameters, len(self.rotations()), processes) + data + working + weights

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Recorded(Record):
    """A plan in JSON; what does not follow from the rest is bounded, before anything is made of that size."""

    images: int = Field(ge=1, le=2**40)
    columns: int = Field(ge=1, le=MAX_COLUMNS)
    classes: int = Field(ge=1, le=MAX_CLASSES)
    batch: int = Field(ge=1, le=MAX_IMAGES)
    iterations: int = Field(ge=1, le=MAX_ITERATIONS)
    mode: Mode
    learning_rate: float = Field(gt=0)
    l2: float = Field(ge=0)
    lanes: int
    tile: int
    ring: int
    prime_bits: list[int] = Field(max_length=100)
    scale_bits: int
    loss: Loss


def read_plan(record: Any, where: str) -> TilesPlan:
    """The inverse of :meth:`TilesPlan.as_record`, checked.

    Raises:
        PpvitError: fields are missing or unknown, or are not what :func:`make_plan` chooses for these sizes.
    """
    try:
        checked = _Recorded.model_validate(record)
        plan = TilesPlan(**{**checked.model_dump(), "prime_bits": tuple(checked.prime_bits)})
        again = make_plan(
            plan.images, plan.columns, plan.classes, plan.iterations, plan.mode,
            plan.learning_rate, plan.l2, plan.batch, plan.loss,
        )  # fmt: skip
    except (PpvitError, ValueError, ArithmeticError) as error:
        reason = first_reason(error) if isinstance(error, ValidationError) else error
        raise PpvitError(f"{where} is no plan of this ppvit ({reason}); make it again: ppvit he keys") from None
    different = [name for name, value in again.as_record().items() if value != getattr(plan, name)]
    if different:
        raise PpvitError(
            f"{where}: {different[0]} {getattr(plan, different[0])} does not fit the sizes beside it; make it again: "
            "ppvit he keys"
        )
    return plan


def _key_switches(blocks: int, groups: int, plan: TilesPlan) -> int:
    relinearisations = 3 if plan.loss == "sigmoid" else 2  # of the scores and of the polynomial's products
    return blocks * (1 + int(math.log2(plan.rows))) + groups * (relinearisations + 2 * int(math.log2(plan.tile)))


def choose_chain(mode: str, iterations: int, images: int, learning_rate: float) -> Parameters:
    """The smallest ring whose 128-bit cap holds a chain with little enough noise, and the largest scale in it.

    Levelled: [q0, then s + b, s, s, s for every iteration but the first (dropped last to first), s, special], where b
    is log2 of images / learning rate: the weights' scale is that much larger, which saves a level for the factor.
    Refresh: [q0, s, s, s, s, special].

    Args:
        mode: ``levelled`` or ``refresh``.
        iterations: T.
        images: of a batch.
        learning_rate: step size.

    Raises:
        UsageError: no ring holds it.
    """
    factor = max(0, math.ceil(math.log2(images / learning_rate)))
    for ring in (8192, 16384, 32768):
        for scale in _SCALES:
            last = scale + factor + _HEADROOM
            if mode == "refresh":
                chain = [last, *[scale] * _STEPS]
            else:
                later = [scale] * (_STEPS - 1) + [scale + factor]
                chain = [last, *later * (iterations - 1), scale]
            spare = CAPS[ring] - sum(chain) - last
            noise = 2.0**-scale * learning_rate / math.sqrt(images)
            if last <= 60 and spare >= (_SPECIAL if scale > _SCALES[-1] else 0) and noise <= _NOISE:
                return Parameters(ring, (*chain, min(60, last + spare)), scale)
    raise UsageError(
        f"{iterations} iterations in mode {mode} on batches of {images} at rate {learning_rate:g} need more modulus "
        "than 128 bits of security allow; set he.mode=refresh, he.iterations lower or he.batch_images smaller"
    )


def make_plan(
    images: int,
    columns: int,
    classes: int,
    iterations: int,
    mode: Mode = "levelled",
    learning_rate: float = 4.0,
    l2: float = 0.0,
    batch: int = 0,
    loss: Loss = "sigmoid",
) -> TilesPlan:
    """Choose lanes, ring, chain and the tile with the fewest key switches.

    Args:
        images, columns, classes, iterations, mode, learning_rate, l2, loss: see :class:`TilesPlan`.
        batch: images of one iteration; 0 takes all.

    Raises:
        UsageError: beyond the bounds of this module, or no ring holds the chain.
    """
    batch = min(batch or images, images)
    for name, value, bound in (
        ("classes", classes, MAX_CLASSES),
        ("columns (he.components + 1)", columns, MAX_COLUMNS),
        ("images in a pass (he.batch_images)", batch, MAX_IMAGES),
        ("iterations (he.iterations)", iterations, MAX_ITERATIONS),
    ):
        if not 1 <= value <= bound:
            raise UsageError(f"{value} {name}: homomorphic training takes 1 to {bound}")
    lanes = max(2, 1 << (classes - 1).bit_length())
    chosen = choose_chain(mode, iterations, batch, learning_rate)
    plan = TilesPlan(
        images, columns, classes, batch, iterations, mode, learning_rate, l2, lanes, 1,
        chosen.ring, chosen.prime_bits, chosen.scale_bits, loss,
    )  # fmt: skip
    tiles = (1 << power for power in range(int(math.log2(chosen.slots // lanes)) + 1))
    candidates = [replace(plan, tile=tile) for tile in tiles]
    best = min(candidates, key=lambda each: (_key_switches(each.blocks, len(each.batch_groups(0)), each), each.tile))
    if best.files > MAX_FILES:
        raise UsageError(
            f"{images} images of {columns} columns take {best.files:,} ciphertexts, of at most {MAX_FILES:,}; lower "
            "he.train_images, or raise he.batch_images"
        )
    return best
