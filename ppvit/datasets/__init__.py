"""Sources of plain images by name. One more is a file here with an opener under ``@DATASETS.register("name")``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvit.config import NO_DATA
from ppvit.datasets.local import own_data
from ppvit.datasets.source import CHOICES, DATASETS, Request, Sample, Source, no_val_to_train_on

if TYPE_CHECKING:  # a data set can be opened without params.yaml
    from ppvit.config import Dataset

__all__ = [
    "CHOICES",
    "DATASETS",
    "Request",
    "Sample",
    "Source",
    "brings_no_val",
    "open_source",
    "parameters_read",
    "require_choices",
]


def open_source(name: str, path: Path | str, cache: Path, test_fraction: float, seed: int, **choices: Any) -> Source:
    """Open a data set.

    Args:
        name: one of ``DATASETS``.
        path: the user's folder or file; ``data/none`` means that there is none.
        cache: folder for downloads.
        test_fraction: share held out as test, stratified, where the data set brings no test split.
        seed: which images are held out.
        choices: further fields of :class:`Request`, which only some data sets read.

    Raises:
        UsageError: an unknown name (the nearest is suggested) or a path that does not exist.
        PpvitError: the data are missing, damaged or not laid out as the data set needs, or cannot be fetched.
    """
    return DATASETS[name](Request(name, own_data(Path(path)), Path(cache), test_fraction, seed, **choices))


def require_choices(settings: Dataset) -> None:
    """Refuse a data set that there is not, and what the chosen one does not have, before it is fetched or looked at.

    Raises:
        UsageError: one line with the parameter and what there is: a choice of others, no path where it cannot be
            fetched, a path where it takes none, validation images to train on where it brings none.
    """
    require = getattr(DATASETS[settings.name], "require", None)
    if require is not None:
        path = None if _is_default(settings.path) else Path(settings.path)
        choices = {name: getattr(settings, name) for name in CHOICES}
        require(Request(settings.name, path, Path(), test_fraction=0.0, seed=0, **choices))
    if settings.own_val == "train" and brings_no_val(settings):
        raise no_val_to_train_on(settings.name)


def brings_no_val(settings: Dataset) -> bool:
    """Whether it is sure that the data set has no validation images of its own; of a user's files it is not.

    Raises:
        UsageError: there is no such data set.
    """
    return _is_default(settings.path) and not getattr(DATASETS[settings.name], "brings_val", True)


def _is_default(path: str) -> bool:
    return Path(path) == Path(NO_DATA)


def parameters_read(settings: Dataset) -> set[str]:
    """Names of the parameters of ``dataset`` that opening the chosen one may read: no other changes its plain shards.

    Raises:
        UsageError: there is no such data set.
    """
    read = getattr(DATASETS[settings.name], "reads", ())
    return set(type(settings).model_fields) - (set(CHOICES) - set(read))
