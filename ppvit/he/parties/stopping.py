"""Owner: early stopping by held-out images, as HETAL (ICML 2023) has it.

There the trainer computes encrypted scores of encrypted validation images, and the owner decrypts these. Here, with
`refresh`, the owner decrypts the weights themselves after every iteration, so it scores its validation images in the
clear: no level, no ciphertext, the same scores. What the trainer learns is when training ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import Field

from ppvit.config import Config
from ppvit.core.errors import UsageError
from ppvit.core.files import write_json
from ppvit.core.reading import Record, read_record
from ppvit.data.plain import PlainImages
from ppvit.he.algorithms import Algorithm, Floats, Labels
from ppvit.he.parties.features import Whitening, backbone_of, extract
from ppvit.he.parties.folders import MANIFEST, Manifest, OwnersFiles
from ppvit.he.parties.kept import Kept, read_kept
from ppvit.he.parties.measured import read_patience, read_sent
from ppvit.he.parties.score import figure
from ppvit.places import Places

STOPPED = "stopped.json"


class Stopped(Record):
    """``stopped.json`` of the owner: a run of the trainer that it ended.

    Attributes:
        run: which one.
        after: iterations that the trainer did.
        iterations: after how many of them the weights were best, which are the result.
    """

    run: str = Field(pattern=r"\A[0-9a-f]{16}\z")
    after: int = Field(ge=1, le=1000)
    iterations: int = Field(ge=1, le=1000)


@dataclass
class Judge:
    """Follows one run of the trainer.

    Args:
        features: of held-out images, whitened, float64 (m, d).
        labels: int64, (m,) or (m, C).
        patience: iterations without a better figure after which training ends; 0 never ends it.
    """

    features: Floats
    labels: Labels
    patience: int
    best: float = field(default=-np.inf, init=False)
    iterations: int = field(default=0, init=False)
    slots: list[Floats] = field(default_factory=list, init=False)

    def ends(self, iteration: int, weights: Floats, slots: list[Floats]) -> bool:
        """Take note of the weights after an iteration, from 1 on; whether training ends with the best so far.

        Args:
            iteration: how many were done.
            weights: (C, d).
            slots: the same as they are encrypted, kept while they are the best.
        """
        now = figure(self.features @ weights.T, self.labels)
        if now > self.best:
            self.best, self.iterations, self.slots = now, iteration, slots
        return 0 < self.patience <= iteration - self.iterations


def write_stopped(folder: Path, run: str, after: int, iterations: int) -> None:
    """Note that a run was ended; ``folder`` is the owner's."""
    write_json(folder / STOPPED, {"run": run, "after": after, "iterations": iterations})


def read_stopped(folder: Path, weights: Path) -> Stopped | None:
    """What the owner noted of the run that wrote these weights; None of one that it did not end.

    Raises:
        PpvitError: a file is damaged.
    """
    if not (folder / STOPPED).exists():
        return None
    stopped = read_record(folder / STOPPED, Stopped, "he (or ppvit he refresh)")
    return stopped if stopped.run == read_record(weights / MANIFEST, Manifest, "he (or ppvit he train)").run else None


def held_out_images(config: Config, places: Places, whitening: Whitening, labels: Labels) -> tuple[Floats, Labels]:
    """Whitened features and labels of validation images, no more than there are to train on; none without patience.

    Args:
        config, places: of the run.
        whitening: fitted on the training images.
        labels: of these.

    Raises:
        UsageError: early stopping needs some, and there are none.
    """
    if not config.he.patience:
        return np.zeros((0, len(whitening.offset) + 1)), labels[:0]
    if not len(PlainImages(places.raw, "val", config.dataset, config.encrypt)):
        raise UsageError(
            f"he.patience {config.he.patience} needs validation images and the data set has none; set "
            "dataset.val_fraction above 0, or he.patience=0"
        )
    features, found = extract(config, places.raw, "val", len(labels), backbone_of(config, places.embedded))
    return whitening(features), found


def ender(
    owner: OwnersFiles, trainer: Path, algorithm: Algorithm
) -> Callable[[str, int, list[Floats]], list[Floats] | None]:
    """What `answer_trainer` asks: given a run, how many iterations it did and slots of its weights, those to end with.

    Args:
        owner: where the owner keeps things; read when first asked, as images may be encrypted anew until then.
        trainer: the trainer's folder.
        algorithm: of the run.
    """
    judges: dict[str, tuple[Judge, Kept]] = {}

    def ends(run: str, iteration: int, slots: list[Floats]) -> list[Floats] | None:
        if not (patience := read_patience(owner.folder)):
            return None
        if run not in judges:
            kept = read_kept(owner, algorithm.plan, read_sent(owner.folder, trainer))
            judges[run] = Judge(kept.held_out, kept.held_out_labels, patience), kept
        judge, kept = judges[run]
        if not judge.ends(iteration, algorithm.weights_of(slots, kept.features), slots):
            return None
        write_stopped(owner.folder, run, iteration, judge.iterations)
        return judge.slots

    return ends
