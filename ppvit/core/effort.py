"""How much compute measurements may take where parameters are ``auto``, and how it is told before they begin.

The unit is a floating-point operation, counted from the network and the number of images, never from a clock: the
same parameters and images choose the same on every machine. All measurements together take at most what training took,
and no more than a first look: two minutes or so on two cores, or a hundredth of a long training. Where the choice is
open, a quarter of that is left for what no operation counts: loading models, CKKS, the audit's other attacks.
"""

from __future__ import annotations

from ppvit.core.progress import duration

FIRST_LOOK = 8e12
LONG_SHARE = 0.01  # of a long training, which may be more than a first look
# of the stages in all of it; the convolutions of the audit take three times as long an operation as a ViT
SHARES = {"robustness": 0.36, "threats": 0.4, "audit": 0.11, "he": 0.07}
_CHOSEN = 3 / 4  # of a share of training that a choice may fill


def budget(stage: str, training: float | None) -> float:
    """Operations that a stage may choose to take.

    Args:
        stage: one of :data:`SHARES`.
        training: operations of the training; None where they are not known, or the stage has nothing to do with it.
    """
    if training is None:
        return SHARES[stage] * FIRST_LOOK
    return SHARES[stage] * min(_CHOSEN * training, max(FIRST_LOOK, LONG_SHARE * training))


def amount(operations: float) -> str:
    """Operations in words, such as ``1.8 TFLOP``."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if operations >= size:
            return f"{operations / size:.3g} {unit}FLOP"
    return f"{operations / 1e6:.3g} MFLOP"


def estimate(operations: float, training: float | None, seconds: float | None = None) -> str:
    """What a measurement will take, in words.

    Args:
        operations: of the measurement.
        training: of the training, where it is known.
        seconds: that the measurement will take here.
    """
    told = f"about {amount(operations)}"
    if training:
        ratio = operations / training
        told += f", {100 * ratio:.0f} % of training" if ratio < 10 else f", {ratio:,.0f} times training"
    return told + (f", {duration(seconds)} here" if seconds is not None else "")
