"""Algorithms of homomorphic training by name, and what one must give to the parties.

One more is a package here, with a subclass of :class:`Algorithm` that it registers. Neither this file nor the packages
load TenSEAL, or anything else that takes long, before ciphertexts are there to be worked on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import numpy as np
import numpy.typing as npt

from ppvit.core.errors import PpvitError
from ppvit.core.registry import Registry
from ppvit.he.ckks.scheme import Parameters

if TYPE_CHECKING:  # the trainer has no params.yaml
    from typing import Self

    from ppvit.config import He
    from ppvit.he.ckks.session import Session

ALGORITHMS: Registry[type[Algorithm]] = Registry("ppvit.he", "he.algorithm")

Floats = npt.NDArray[np.float64]
Slots = npt.NDArray[np.float64] | npt.NDArray[np.complex128]  # (N/2,), to encrypt
# class numbers, (n,), or where images carry several labels, 0 and 1, (n, C)
Labels = npt.NDArray[np.int64]
Weights = list[Any]  # ciphertexts
State = list[Weights]  # all that is carried from one iteration to the next
Renew = Callable[[State], State]  # weights alone where the owner ends the training: they are the result

WORTHLESS = 10  # times the safe score: from there on each step throws the weights further


class Plan(Protocol):
    """What both parties know of a run: sizes and settings, nothing about a single image.

    Attributes:
        images: training images n.
        columns: features and the constant, d.
        classes: C.
        iterations: T.
        mode: ``levelled``, all iterations on one modulus chain; ``refresh``, the key holder renews the weights after
            each.
        loss: what the polynomial stands for, ``sigmoid`` or ``softmax``.
        blocks: ciphertexts that hold the weights.
        parameters: the CKKS parameter set, checked.
    """

    @property
    def images(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def iterations(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def loss(self) -> str: ...
    @property
    def blocks(self) -> int: ...
    @property
    def parameters(self) -> Parameters: ...

    def rotations(self) -> list[int]:
        """Steps by which training rotates."""
        ...

    def key_switches(self) -> int:
        """Relinearisations and rotations of the whole training."""
        ...

    def upload_bytes(self) -> int:
        """Size of what :meth:`Algorithm.upload_slots` gives as it is uploaded, before compression."""
        ...

    def memory_bytes(self, processes: int = 1) -> int:
        """Estimate of the trainer's memory, rather too high."""
        ...

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        ...


@dataclass(frozen=True)
class Twin:
    """Result of the same training in the clear.

    Attributes:
        weights: float64, (C, d).
        largest_scores: max |Z| of every iteration that needed the polynomial.
        safe_score: up to where the polynomial follows the sigmoid or softmax.
    """

    weights: Floats
    largest_scores: list[float]
    safe_score: float

    @property
    def largest_score(self) -> float:
        """max |Z|, 0 where no polynomial was needed, NaN where one of them is."""
        return float(np.max(self.largest_scores, initial=0.0))

    @property
    def safe(self) -> bool:
        """Whether all scores stayed there."""
        return not self.diverged and all(score <= self.safe_score for score in self.largest_scores)

    @property
    def diverged(self) -> bool:
        """Whether the result is worthless."""
        bounded = all(score <= WORTHLESS * self.safe_score for score in self.largest_scores)
        return not (bounded and bool(np.isfinite(self.weights).all()))


@dataclass(frozen=True)
class Algorithm(ABC):
    """A way to train a linear head on ciphertexts, laid out for one run. Its docstring begins with what it is.

    Attributes:
        name: the value of ``he.algorithm``.
        reads: names in the section ``he`` that this algorithm reads and not every one does.
        whitened: whether it trains on whitened features; else on raw ones.
        gentler: what to change where scores leave the range of the polynomial and training does not diverge yet.
        plan: of the run.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    whitened: ClassVar[bool]
    gentler: ClassVar[str]

    plan: Plan

    @classmethod
    @abstractmethod
    def planned(cls, settings: He, images: int, columns: int, classes: int) -> Self:
        """Lay out a run.

        Args:
            settings: the section ``he``.
            images, columns, classes: see :class:`Plan`.

        Raises:
            UsageError: beyond the bounds, or no parameter set has 128 bits of security.
        """

    @classmethod
    @abstractmethod
    def read(cls, record: Any, where: str) -> Self:
        """The inverse of :meth:`Plan.as_record`, checked.

        Args:
            record: from JSON.
            where: the file, named in errors.

        Raises:
            PpvitError: the record is no plan.
        """

    @abstractmethod
    def with_images(self, images: int) -> Self:
        """The same settings on fewer images, for twins only: the ring stays."""

    def with_iterations(self, iterations: int) -> Self:
        """The same settings with fewer iterations, for twins and key switches only: the chain stays."""
        return replace(self, plan=replace(cast(Any, self.plan), iterations=iterations))

    def processes(self) -> int:
        """Processes among which the trainer shares its work."""
        return 1

    def require_memory(self, available_bytes: int) -> None:
        """Refuse, before any work, what would not fit the trainer's memory.

        Raises:
            PpvitError: fewer bytes are available than :meth:`Plan.memory_bytes`.
        """
        needed = self.plan.memory_bytes(self.processes())
        if needed > available_bytes:
            raise PpvitError(self.too_large(needed, available_bytes))

    @abstractmethod
    def too_large(self, needed_bytes: int, available_bytes: int) -> str:
        """What to say where memory is too small, with a remedy."""

    @abstractmethod
    def twin(self, features: Floats, labels: Labels) -> Twin:
        """Owner: the same training in the clear.

        Args:
            features: (n, d), the constant included.
            labels: (n,) or (n, C), see :data:`Labels`.
        """

    @abstractmethod
    def remedy(self, features: Floats, labels: Labels) -> str:
        """Owner: what to change where :meth:`twin` diverges."""

    @abstractmethod
    def upload_names(self) -> Iterator[str]:
        """File names of everything that the owner encrypts, all of them; known to both parties."""

    @abstractmethod
    def upload_slots(self, features: Floats, labels: Labels) -> Iterator[tuple[str, Slots]]:
        """Owner: file name and slots, (N/2,), of everything to encrypt; arguments as of :meth:`twin`."""

    @abstractmethod
    def train(self, session: Session, data: Path, bar: Any, renew: Renew | None = None) -> tuple[Weights, int]:
        """Trainer: run all iterations.

        Args:
            session: with evaluation keys.
            data: folder of what :meth:`upload_slots` named, encrypted.
            bar: progress in key switches, as of tqdm.
            renew: gives ciphertexts at the lowest level back at the top; None where the chain holds all iterations.

        Returns:
            Encrypted weights, ``plan.blocks`` ciphertexts, and the number of key switches; fewer than the plan's where
            ``renew`` ended the training.
        """

    @abstractmethod
    def weights_of(self, slots: list[Floats], features: Floats) -> Floats:
        """Owner: weights, (C, d), from the decrypted slots of what :meth:`train` gave.

        Args:
            slots: real parts, (N/2,), of ``plan.blocks`` ciphertexts.
            features: (n, d), what :meth:`upload_slots` was given, for algorithms that scaled them.
        """


def truths(labels: npt.NDArray[np.integer], classes: int) -> Floats:
    """What each one-against-rest classifier learns: 0 or 1, float64 (n, C)."""
    return np.eye(classes)[labels] if labels.ndim == 1 else labels.astype(np.float64)


def features_name(group: int, block: int) -> str:
    """File name of the encrypted features of a group of images, one block."""
    return f"x-{group:05d}-{block:04d}.ct"


def labels_name(group: int) -> str:
    """File name of the encrypted labels of a group of images."""
    return f"y-{group:05d}.ct"


def parameters_read(settings: He) -> set[str]:
    """Names of the parameters of ``he`` that its algorithm reads: no other changes the result.

    Raises:
        UsageError: there is no such algorithm.
    """
    of_some = {name for algorithm in ALGORITHMS.values() for name in algorithm.reads}
    return set(type(settings).model_fields) - (of_some - set(ALGORITHMS[settings.algorithm].reads))
