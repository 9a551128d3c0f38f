"""AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690) through the package `pyautoattack`.

Of the packages that offer it, this one gives the very images of the authors' code for the same seed. Its warnings
(a randomised model, gradients that vanish, probabilities instead of logits) mean that its figures prove nothing, so
they are errors here.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ppvit.core.errors import PpvitError
from ppvit.evasion.ball import Ball

SQUARE_QUERIES = 5000
APGD_STEPS = 100
UNTRUSTED = "Remove from the model what is random or hides its gradients, then dvc repro finetune robustness"
_NORMS = {"linf": "Linf", "l2": "L2"}
TARGETS = 9  # classes that targeted attacks try, of those with the largest logits


def perturb(
    model: nn.Module,
    attack: str,
    images: Tensor,
    labels: Tensor,
    ball: Ball,
    classes: int,
    seed: int,
    queries: int,
    steps: int = APGD_STEPS,
) -> Tensor:
    """Adversarial images of one attack, with AutoAttack's standard settings.

    Args:
        model: (n, 3, H, W) in [-1, 1] to logits (n, C).
        attack: a name that the package knows.
        images, labels: float32 in [-1, 1], (n, 3, H, W); int64 (n,).
        ball: how far the images may move.
        classes: C.
        seed: of the random starts.
        queries: of the Square attack.
        steps: of the others.

    Returns:
        Like ``images``; an image that the attack could not move over the boundary stays as it is.

    Raises:
        PpvitError: the package is missing, or it doubts its own figures.
    """
    package = require_package()
    with _doubts_are_errors():
        adversary = package.AutoAttack(
            _UnitRange(model),
            attacks=[attack],
            version="custom",
            eps=ball.epsilon / 2,
            norm=_NORMS[ball.norm],
            seed=seed,
            device=images.device,
        )
        adversary.apgd.n_restarts = adversary.fab.n_restarts = 1
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(TARGETS, classes - 1)
        adversary.square.n_queries = queries
        adversary.fab.n_iter = steps
        for each in (adversary.apgd, adversary.apgd_targeted):
            _take(each, steps)
        unit = ((images + 1) / 2).contiguous()  # as the package needs it, which views gradients of this layout as flat
        moved, _ = adversary.run_standard_evaluation(unit, labels, batch_size=len(images))
    found: Tensor = 2 * moved - 1
    return found


def _take(apgd: Any, steps: int) -> None:
    """So many steps, and checkpoints at the shares of them that Croce and Hein's code has."""
    apgd.n_iter = apgd.n_iter_orig = steps
    for name, share in (("n_iter_2", 0.22), ("n_iter_min", 0.06), ("size_decr", 0.03)):
        setattr(apgd, name, max(int(share * steps), 1))


class _UnitRange(nn.Module):
    """A model that takes pixels in [0, 1], as the package wants it, instead of in [-1, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(2 * images - 1)
        return logits


def require_package(
    who: str = "robustness.attack quick and full", otherwise: str = "robustness.attack=pgd"
) -> ModuleType:
    """The package, which is an extra.

    Args:
        who: needs it.
        otherwise: what does without it, if anything; both are named in the error.

    Raises:
        PpvitError: it is not installed.
    """
    try:
        return importlib.import_module("pyautoattack")
    except ImportError:
        remedy = "pip install 'ppvit[robust]'" + (f", or set {otherwise}" if otherwise else "")
        raise PpvitError(f"{who} need pyautoattack; {remedy}") from None


class _Doubts(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _doubts_are_errors() -> Iterator[None]:
    doubts, logger = _Doubts(), logging.getLogger("auto-attack")
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(doubts)
    try:
        yield
    finally:
        logger.removeHandler(doubts)
        logger.propagate = propagated
    if doubts.messages:
        said = doubts.messages[0].split(" See ")[0].strip()
        raise PpvitError(f"AutoAttack does not trust its own figure: {said} {UNTRUSTED}")
