"""Owner: what `encrypt` keeps of the images until the head comes back; plain, so for the owner's eyes alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ppvit.core.errors import PpvitError
from ppvit.core.reading import read_bounded
from ppvit.he.algorithms import Floats, Labels, Plan
from ppvit.he.parties.features import Whitening
from ppvit.he.parties.folders import OwnersFiles

_MAX_FEATURES = 2**20  # D; an image of 512 x 512 pixels has fewer values
_HEADER_BYTES = 2**16


@dataclass(frozen=True)
class Kept:
    """The whitening, and for comparison with the head that comes back, the twin and what both were trained on.

    Attributes:
        whitening: from raw features, (D,), to (d,), the constant included.
        twin_weights: float64, (C, d).
        features: whitened, float64 (n, d).
        labels: int64, (n,).
    """

    whitening: Whitening
    twin_weights: Floats
    features: Floats
    labels: Labels


def write_kept(owner: OwnersFiles, kept: Kept) -> None:
    """Write it, for the user alone to read."""
    whitening = kept.whitening
    arrays = {
        "matrix": whitening.matrix,
        "offset": whitening.offset,
        "bound": np.array([whitening.bound]),
        "twin_weights": kept.twin_weights,
        "features": kept.features,
        "labels": kept.labels,
    }
    with owner.writing(owner.kept) as file:
        file.write(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_kept(owner: OwnersFiles, plan: Plan) -> Kept:
    """The inverse of :func:`write_kept`, checked.

    Raises:
        PpvitError: it is missing or damaged, or of another plan.
    """
    path = owner.place(owner.kept)
    n, d, classes = plan.images, plan.columns, plan.classes
    shapes = {
        "matrix": (d - 1, None), "offset": (d - 1,), "bound": (1,),
        "twin_weights": (classes, d), "features": (n, d), "labels": (n,),
    }  # fmt: skip
    most = 8 * ((d - 1) * (_MAX_FEATURES + 1) + 1 + classes * d + n * d + n) + _HEADER_BYTES
    try:
        arrays = load(read_bounded(path, most))
    except FileNotFoundError:
        raise PpvitError(f"{path} is missing; run ppvit he encrypt") from None
    except SafetensorError as error:
        raise PpvitError(f"{path} is damaged ({error}); run ppvit he encrypt again") from None
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is None or not _fits(array, shape, np.int64 if name == "labels" else np.float64):
            raise PpvitError(f"{path}: {name} is not of the plan beside it, or damaged; run ppvit he encrypt again")
    if not (arrays["bound"] > 0).all() or not all(
        np.isfinite(arrays[name]).all() for name in shapes if name != "bound"
    ):
        raise PpvitError(f"{path} has numbers that are none; run ppvit he encrypt again")
    if not ((arrays["labels"] >= 0) & (arrays["labels"] < classes)).all():
        raise PpvitError(f"{path}: labels are no classes of the plan beside it; run ppvit he encrypt again")
    whitening = Whitening(arrays["matrix"], arrays["offset"], float(arrays["bound"][0]))
    return Kept(whitening, arrays["twin_weights"], arrays["features"], arrays["labels"])


def _fits(array: np.ndarray, shape: tuple[int | None, ...], kind: type) -> bool:
    same = len(array.shape) == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    return array.dtype == kind and same
