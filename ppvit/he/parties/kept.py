"""Owner: what `encrypt` keeps of the images until the head comes back; plain, so for the owner's eyes alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ppvit.core.errors import PpvitError
from ppvit.core.reading import read_bounded
from ppvit.he.algorithms import Floats, Labels, Plan
from ppvit.he.parties.features import Whitening
from ppvit.he.parties.folders import OwnersFiles, Sent

_MAX_FEATURES = 2**20  # D; an image of 512 x 512 pixels has fewer values
_HEADER_BYTES = 2**16


@dataclass(frozen=True)
class Kept:
    """The whitening, and for comparison with the head that comes back, the twin and what both were trained on.

    Attributes:
        whitening: from raw features, (D,), to (d,), the constant included.
        twin_weights: float64, (C, d).
        features: whitened, float64 (n, d).
        labels: int64, (n,) or (n, C).
        data: the id of their encryption, see :func:`ppvit.he.parties.folders.id_of_data`.
        held_out, held_out_labels: the same of images for early stopping, (m, d) and (m,) or (m, C); none without it.
    """

    whitening: Whitening
    twin_weights: Floats
    features: Floats
    labels: Labels
    data: str
    held_out: Floats
    held_out_labels: Labels


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
        "held_out": kept.held_out,
        "held_out_labels": kept.held_out_labels,
    }
    with owner.writing(owner.kept) as file:
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        file.write(save(whole, {"data": kept.data}))


def read_kept(owner: OwnersFiles, plan: Plan, sent: Sent) -> Kept:
    """The inverse of :func:`write_kept`, checked.

    Raises:
        PpvitError: it is missing or damaged, or of another plan or other data.
    """
    path = owner.place(owner.kept)
    n, d, classes = plan.images, plan.columns, plan.classes
    shapes = {
        "matrix": (d - 1, None), "offset": (d - 1,), "bound": (1,),
        "twin_weights": (classes, d), "features": (n, d), "labels": (n,),
        "held_out": (None, d), "held_out_labels": (None,),
    }  # fmt: skip
    most = 8 * ((d - 1) * (_MAX_FEATURES + 1) + 1 + classes * d + 2 * n * (d + classes)) + _HEADER_BYTES
    try:
        stored = read_bounded(path, most)
        arrays = load(stored)
    except FileNotFoundError:
        raise PpvitError(f"{path} is missing; run ppvit he encrypt") from None
    except SafetensorError as error:
        raise PpvitError(f"{path} is damaged ({error}); run ppvit he encrypt again") from None
    if (data := _data_of(stored)) != sent.id:
        raise PpvitError(
            f"{path} is of {data or 'data that it does not name'}, {sent.told_by} of {sent.id}: ppvit he encrypt was "
            "ended on its way, or files were mixed up; run ppvit he encrypt again"
        )
    several = "labels" in arrays and arrays["labels"].ndim == 2  # of an image
    if several:
        shapes["labels"], shapes["held_out_labels"] = (n, classes), (None, classes)
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is None or not _fits(array, shape, np.int64 if name.endswith("labels") else np.float64):
            raise PpvitError(f"{path}: {name} is not of the plan beside it, or damaged; run ppvit he encrypt again")
    if not (arrays["bound"] > 0).all() or not all(
        np.isfinite(arrays[name]).all() for name in shapes if name != "bound"
    ):
        raise PpvitError(f"{path} has numbers that are none; run ppvit he encrypt again")
    if len(arrays["held_out"]) != len(arrays["held_out_labels"]):
        raise PpvitError(f"{path}: images that were held out have other labels; run ppvit he encrypt again")
    every = np.concatenate([arrays["labels"], arrays["held_out_labels"]])
    if not ((every >= 0) & (every < (2 if several else classes))).all():
        raise PpvitError(f"{path}: labels are no classes of the plan beside it; run ppvit he encrypt again")
    whitening = Whitening(arrays["matrix"], arrays["offset"], float(arrays["bound"][0]))
    names = ("twin_weights", "features", "labels", "held_out", "held_out_labels")
    found: dict[str, Any] = {name: arrays[name] for name in names}
    return Kept(whitening, data=sent.id, **found)


def _data_of(stored: bytes) -> str | None:
    """The id in the metadata of a file that safetensors could read; its ``load`` does not return them."""
    header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
    data: str | None = (header.get("__metadata__") or {}).get("data")
    return data


def _fits(array: np.ndarray, shape: tuple[int | None, ...], kind: type) -> bool:
    same = len(array.shape) == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    return array.dtype == kind and same
