"""Resume checkpoints: the state of training, from which a killed run goes on to the result of an uninterrupted one."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ppvit.core.files import atomic_output
from ppvit.tuners import trained_state

SAVE_SECONDS = 60.0  # at most this much work is lost; when a checkpoint is saved never changes the result


class Checkpoint:
    """The checkpoint of one run.

    Args:
        determines: everything that the result depends on; runs that differ in any of it have checkpoints of their own.
        folder: outside all outputs, see :func:`ppvit.core.scratch.scratch_folder`.
    """

    def __init__(self, determines: dict[str, Any], folder: Path) -> None:
        digest = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()
        self._folder = folder / digest[:32]
        self._path = self._folder / "state.pt"
        self._saved_at = time.monotonic()

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
        with atomic_output(self._path) as temporary:
            torch.save(state, temporary)
        self._saved_at = time.monotonic()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Put the saved state in place; returns ``progress``, or None when there is nothing (readable) to resume."""
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        own = trained_state(model)
        saved = state["model"]
        if {name: own[name].shape for name in own} != {name: saved[name].shape for name in saved}:
            return None
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"]:
            torch.cuda.set_rng_state_all(state["cuda_random"])
        progress: dict[str, Any] = state["progress"]
        return progress

    def remove(self) -> None:
        """Forget the checkpoint once the result is written."""
        shutil.rmtree(self._folder, ignore_errors=True)


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
