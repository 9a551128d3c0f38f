"""Sources of plain images by name. One more is a file here with an opener under ``@DATASETS.register("name")``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvit.datasets.local import own_data
from ppvit.datasets.source import CHOICES, DATASETS, Request, Sample, Source

if TYPE_CHECKING:  # a data set can be opened without params.yaml
    from ppvit.config import Dataset

__all__ = ["CHOICES", "DATASETS", "Request", "Sample", "Source", "open_source", "parameters_read", "require_choices"]


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
    """Refuse a data set that there is not, and choices that the chosen one does not have, before it is fetched.

    Raises:
        UsageError: one line with the parameter and what there is.
    """
    require = getattr(DATASETS[settings.name], "require", None)
    if require is not None:
        require(settings)


def parameters_read(settings: Dataset) -> set[str]:
    """Names of the parameters of ``dataset`` that opening the chosen one may read: no other changes its plain shards.

    Raises:
        UsageError: there is no such data set.
    """
    read = getattr(DATASETS[settings.name], "reads", ())
    return set(type(settings).model_fields) - (set(CHOICES) - set(read))
