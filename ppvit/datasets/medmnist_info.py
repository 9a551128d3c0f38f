"""The data sets of MedMNIST v2, as ``medmnist.toml`` has them: class names, counts, licences, published MD5 sums."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Info:
    """One data set.

    Attributes:
        shows: what is seen.
        classes: names in order of label number.
        md5: of the npz file, by side in pixels.
        counts: images, or volumes, of train, val and test.
        licence: as its publishers have it.
        kind: ``labels``, of which an image carries any number; ``grades``, which are ordered; or plain ``classes``.
    """

    shows: str
    classes: tuple[str, ...]
    md5: dict[int, str]
    counts: tuple[int, int, int]
    licence: str
    kind: Literal["classes", "labels", "grades"] = "classes"


def _read(table: dict[str, Any]) -> Info:
    train, val, test = table["counts"]
    md5 = {int(side): digest for side, digest in table["md5"].items()}
    return Info(**table | {"classes": tuple(table["classes"]), "md5": md5, "counts": (train, val, test)})


INFO = {
    flag: _read(table)
    for flag, table in tomllib.loads(Path(__file__).with_name("medmnist.toml").read_text(encoding="utf-8")).items()
}
