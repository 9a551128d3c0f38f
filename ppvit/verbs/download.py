"""Bring a data set of any kind into one raw form, see :mod:`ppvit.datasets.raw`."""

from __future__ import annotations

from pathlib import Path

from ppvit.config import Config
from ppvit.core.files import require_apart
from ppvit.core.scratch import cache_folder
from ppvit.data.sealed import Seal, read_dataset
from ppvit.datasets import CHOICES, open_source
from ppvit.datasets.raw import write_raw
from ppvit.places import Places


def run(config: Config, places: Places, cache: Path | None = None) -> None:
    """Write the raw form of the data set, whole or not at all.

    Args:
        config: ``dataset`` and ``download`` are used.
        places: ``raw`` is written.
        cache: where downloads are kept between runs; by default ``$PPVIT_CACHE`` or the user's cache folder.

    Raises:
        UsageError: an unknown data set, a path that does not exist or overlaps with ``out``, or no key to seal with.
        PpvitError: the data are missing, damaged or do not fit on the disk, or cannot be fetched.
    """
    path, out = Path(config.dataset.path), places.raw
    seal = Seal.of(config.download.key_id, config.dataset.name)
    require_apart(path, out)
    source = open_source(
        config.dataset.name,
        path,
        cache or cache_folder(),
        config.download.holdout_fraction,
        config.dataset.seed,
        **{name: getattr(config.dataset, name) for name in CHOICES},
    )
    write_raw(source, config.dataset, out, seal)
    dataset, _ = read_dataset(out)
    counts = " and ".join(f"{count:,} {split}" for split, count in dataset["counts"].items() if count)
    print(f"download: {counts} images of {len(dataset['classes']):,} classes, in {out}")
