"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, ten classes, shipped with the package."""

from __future__ import annotations

from functools import partial

import numpy as np

from ppvit.core.errors import UsageError
from ppvit.datasets.source import DATASETS, Request, Source, array_samples, shard_bytes


@DATASETS.register("digits")
def open_digits(request: Request) -> Source:
    """Handwritten digits that come with scikit-learn, no download: 1,797 grey images of 8 px, 10 classes, CC BY 4.0.

    Test images are held out, stratified.

    Raises:
        UsageError: the user named a path, which this data set would ignore, or a split would lack a class.
    """
    _require_no_path(request)

    from sklearn.datasets import load_digits  # slow imports, which other data sets do not need
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8); the source counts ink from 0 to 16
    labels = bunch.target
    try:
        halves = train_test_split(
            np.arange(len(labels)), test_size=request.test_fraction, random_state=request.seed, stratify=labels
        )
    except ValueError:
        raise UsageError(
            f"download.holdout_fraction {request.test_fraction} leaves no image of some digit in one split"
        ) from None
    train, test = (np.sort(positions) for positions in halves)
    return Source(
        [str(name) for name in bunch.target_names],
        partial(array_samples, images[train], labels[train], "digits train"),
        partial(array_samples, images[test], labels[test], "digits test"),
        "sklearn.datasets.load_digits",
        shard_bytes(len(images), images.nbytes),
    )


def _require_no_path(request: Request) -> None:
    if request.path is not None:
        raise UsageError(
            "dataset.name=digits takes no dataset.path; for images of your own set dataset.name=imagefolder"
        )


vars(open_digits).update(require=_require_no_path, brings_val=False)
