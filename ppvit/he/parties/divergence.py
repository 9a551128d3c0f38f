"""Owner: whether the twin's scores stay where the polynomial follows the sigmoid; said before anything is encrypted."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from ppvit.core.errors import UsageError
from ppvit.he.algorithms import AnyPlan
from ppvit.he.tiles import plan as parameters
from ppvit.he.tiles import twin
from ppvit.he.tiles.twin import Twin
from ppvit.he.volley_revolver import algorithm as published

_HALVINGS = 16  # of the learning rate that are tried


def check(plan: AnyPlan, clear: Twin, features: np.ndarray, labels: np.ndarray) -> None:
    """Warn of scores beyond the safe ones.

    Args:
        plan: of the run.
        clear: its twin.
        features: whitened, float64 (n, d).
        labels: int64, (n,).

    Raises:
        UsageError: training diverges; with a learning rate at which the twin does not.
    """
    if clear.safe:
        return
    reach = f"scores reach {clear.largest_score:.3g}"
    beyond = f"beyond {clear.safe_score:.0f} the polynomial leaves the {plan.loss}"
    if clear.diverged:
        raise UsageError(f"training diverges: {reach}, {beyond}; {_remedy(plan, features, labels)}")
    raw = isinstance(plan, published.Plan)
    remedy = "set he.algorithm=tiles" if raw else "lower he.learning_rate or he.iterations, or raise he.l2"
    print(f"warning: {reach}, {beyond} and training diverges; {remedy}", file=sys.stderr)


def _remedy(plan: AnyPlan, features: np.ndarray, labels: np.ndarray) -> str:
    if isinstance(plan, published.Plan):
        return "set he.algorithm=tiles, which whitens the features"
    rate = working_rate(plan, features, labels)
    if rate is None:
        return f"no he.learning_rate down to {plan.learning_rate / 2**_HALVINGS:.3g} helps; lower he.iterations"
    return f"set he.learning_rate={rate:g}, from `keys` on: with it the same training in the clear does not"


def working_rate(plan: parameters.Plan, features: np.ndarray, labels: np.ndarray) -> float | None:
    """The first halving of the learning rate at which the twin's scores are safe, rounded; None if none of them is."""
    for halving in range(1, _HALVINGS + 1):
        slower = replace(plan, learning_rate=float(f"{plan.learning_rate / 2**halving:.3g}"))
        if twin.train(slower, features, labels).safe and _has_chain(slower):
            return slower.learning_rate
    return None


def _has_chain(plan: parameters.Plan) -> bool:
    try:
        parameters.choose_chain(plan.mode, plan.iterations, plan.batch, plan.learning_rate)
    except UsageError:
        return False
    return True
