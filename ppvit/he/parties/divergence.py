"""Owner: whether the twin's scores stay where the polynomial follows the sigmoid; said before anything is encrypted."""

from __future__ import annotations

import sys

from ppvit.core.errors import UsageError
from ppvit.he.algorithms import Algorithm, Floats, Labels, Twin


def check(algorithm: Algorithm, clear: Twin, features: Floats, labels: Labels) -> None:
    """Warn of scores beyond the safe ones.

    Args:
        algorithm: with the plan of the run.
        clear: its twin.
        features: what it trains on, (n, d).
        labels: (n,).

    Raises:
        UsageError: training diverges; with what to change.
    """
    if clear.safe:
        return
    reach = f"scores reach {clear.largest_score:.3g}"
    beyond = f"beyond {clear.safe_score:.0f} the polynomial leaves the {algorithm.plan.loss}"
    if clear.diverged:
        raise UsageError(f"training diverges: {reach}, {beyond}; {algorithm.remedy(features, labels)}")
    print(f"warning: {reach}, {beyond} and training diverges; {algorithm.gentler}", file=sys.stderr)
