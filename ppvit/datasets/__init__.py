"""Sources of plain images by name. One more is a file here with an opener under ``@DATASETS.register("name")``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvit.core.errors import UsageError
from ppvit.datasets.local import own_data
from ppvit.datasets.source import CHOICES, DATASETS, Request, Sample, Source

if TYPE_CHECKING:  # a data set can be opened without params.yaml
    from ppvit.config import Dataset

__all__ = ["CHOICES", "DATASETS", "Request", "Sample", "Source", "open_source", "parameters_read"]


def open_source(
    name: str, path: Path | str, cache: Path, test_fraction: float, seed: int, own_val: str = "val", **choices: Any
) -> Source:
    """Open a data set.

    Args:
        name: one of ``DATASETS``.
        path: the user's folder or file; ``data/none`` means that there is none.
        cache: folder for downloads.
        test_fraction: share held out as test, stratified, where the data set brings no test split.
        seed: which images are held out.
        own_val: ``train`` puts the data set's own validation images behind the training images.
        choices: further fields of :class:`Request`, which only some data sets read.

    Raises:
        UsageError: an unknown name (the nearest is suggested), a path that does not exist, or ``own_val`` of a data set
            that has no validation images.
        PpvitError: the data are missing, damaged or not laid out as the data set needs, or cannot be fetched.
    """
    source = DATASETS[name](Request(name, own_data(Path(path)), Path(cache), test_fraction, seed, **choices))
    return _without_val(source, name) if own_val == "train" else source


def _without_val(source: Source, name: str) -> Source:
    train, val = source.train, source.val
    if val is None:
        raise UsageError(
            f"dataset.own_val=train: {name} brings no validation images; set it back to val, and "
            "dataset.val_fraction=0 to train on all images"
        )

    def both() -> Iterator[Sample]:
        return chain(train(), val())

    return replace(source, train=both, val=None, description=f"{source.description}, trained on val as well")


def parameters_read(settings: Dataset) -> set[str]:
    """Names of the parameters of ``dataset`` that opening the chosen one may read: no other changes its plain shards.

    Raises:
        UsageError: there is no such data set.
    """
    read = getattr(DATASETS[settings.name], "reads", ())
    return set(type(settings).model_fields) - (set(CHOICES) - set(read))
