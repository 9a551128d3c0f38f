"""Resume checkpoints: the state of training, from which a killed run goes on to the result of an uninterrupted one."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ppvit.core.errors import brief, say
from ppvit.core.files import atomic_output
from ppvit.core.reading import open_regular
from ppvit.tuners import trained_state

SAVE_SECONDS = 60.0  # at most this much work is lost; when a checkpoint is saved never changes the result


class Extent(NamedTuple):
    """How far a run can be: its epochs, the optimiser steps of one, and the number of values that it measures."""

    epochs: int
    steps: int
    measures: int


class Checkpoint:
    """The checkpoint of one run.

    Runs that give the same result share it: whichever saves last, any of them may go on from there.

    Args:
        determines: everything that the result depends on; runs that differ in any of it have checkpoints of their own.
        folder: outside all outputs, see :func:`ppvit.core.scratch.scratch_folder`.
    """

    def __init__(self, determines: dict[str, Any], folder: Path) -> None:
        digest = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()
        self._path = folder / f"{digest[:32]}.pt"
        self._saved_at = time.monotonic()

    @property
    def name(self) -> str:
        """A digest of everything that the result depends on."""
        return self._path.stem

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved_at >= SAVE_SECONDS

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
        """Save trained parameters, buffers, optimiser, random states and ``progress``; whole or not at all."""
        state = {
            "model": trained_state(model),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "progress": progress,
        }
        # by a file of ours: torch's own does not say why it could not write
        with atomic_output(self._path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
        self._saved_at = time.monotonic()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, within: Extent) -> dict[str, Any] | None:
        """Put the saved state in place; returns ``progress``, or None when there is nothing to resume.

        A damaged checkpoint, or one that another program has written there, is not used, and training starts anew.
        Nothing in it is executed.
        """
        try:
            with open_regular(self._path) as file:
                if (damaged := zipfile.ZipFile(file).testzip()) is not None:  # which torch does not look for
                    raise ValueError(f"{damaged} is damaged")
                file.seek(0)
                state = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged file makes torch raise
            self._told_unusable(error)
            return None
        before = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
        own = trained_state(model)
        try:
            saved = state["model"]
            _require_like(own, saved)
            progress: dict[str, Any] = state["progress"]
            _check(progress, within)
            _require_finite(saved)
            for kept in (progress["selection"]["weights"], progress["average"].get("weights")):
                if kept:
                    _require_like(own, kept)
                    _require_finite(kept)
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            if state["cuda_random"]:
                torch.cuda.set_rng_state_all(state["cuda_random"])
        except Exception as error:
            optimizer.load_state_dict(before[0])
            torch.set_rng_state(before[1])
            self._told_unusable(error)
            return None
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        return progress

    def _told_unusable(self, error: Exception) -> None:
        say(f"warning: the checkpoint {self._path} cannot be used ({brief(error)}); training starts anew")

    def remove(self) -> None:
        """Forget the checkpoint once the result is written."""
        self._path.unlink(missing_ok=True)


def _check(progress: Any, within: Extent) -> None:
    """Refuse what :class:`ppvit.training.loop.Training` could not go on from."""
    names = {"epoch": int, "step": int, "history": list, "sums": list, "objective": dict, "selection": dict}
    names |= {"average": dict}
    whole = isinstance(progress, dict) and all(isinstance(progress.get(name), kind) for name, kind in names.items())
    if not (
        whole
        and 0 <= progress["epoch"] <= within.epochs
        and 0 <= progress["step"] < within.steps
        and len(progress["history"]) == progress["epoch"]
        and all(isinstance(metrics, dict) and _are_numbers(metrics.values()) for metrics in progress["history"])
        and len(progress["sums"]) == within.measures
        and _are_numbers(progress["sums"])
        and _is_selection(progress["selection"], progress["epoch"])
        and _is_average(progress["average"])
    ):
        raise ValueError("its progress is not that of this training run")


def _is_selection(selection: dict[str, Any], epoch: int) -> bool:
    """Whether it is what :class:`ppvit.training.selection.Selection` may have kept after so many epochs."""
    best, epochs, weights = (selection.get(name) for name in ("best", "epochs", "weights"))
    if not (isinstance(best, list) and isinstance(epochs, list) and isinstance(weights, dict)):
        return False
    in_range = len(epochs) == 2 and all(isinstance(each, int) and 0 <= each <= epoch for each in epochs)
    return len(best) in (0, 2) and _are_numbers(best) and in_range


def _is_average(average: dict[str, Any]) -> bool:
    """Whether it is what :class:`ppvit.training.average.WeightAverage` may have kept; empty where there is none."""
    steps, weights = average.get("steps"), average.get("weights")
    return not average or (isinstance(steps, int) and 0 < steps < 2**53 and isinstance(weights, dict) and bool(weights))


def _require_like(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    if {name: (own[name].shape, own[name].dtype) for name in own} != {
        name: (saved[name].shape, saved[name].dtype) for name in saved
    }:
        raise ValueError("it belongs to another model")


def _require_finite(saved: dict[str, Tensor]) -> None:
    if not all(tensor.isfinite().all() for tensor in saved.values() if tensor.is_floating_point()):
        raise ValueError("it holds values that are no numbers")


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
