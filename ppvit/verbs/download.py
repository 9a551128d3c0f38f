"""Bring a data set of any kind into one raw form: plain WebDataset shards, which stay with the owner.

A sample is the image's bytes as they were (``.jpg``, ``.png``, …; arrays become PNG), its class number (``.cls``) and
where it came from (``.txt``, for error messages). ``dataset.json`` holds class names, counts and the
SHA-256 of every shard.
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from ppvit.config import Config
from ppvit.core.errors import UsageError
from ppvit.core.files import atomic_output, require_free_space, write_json
from ppvit.data.shards import SCHEMA, SPLITS, shard_records, write_shards
from ppvit.datasets import Sample, open_source
from ppvit.places import Places

IMAGES_PER_SHARD = 512


def run(config: Config, places: Places, cache: Path | None = None) -> None:
    """Write the raw form of the data set, whole or not at all.

    Args:
        config: ``dataset`` and ``download.holdout_fraction`` are used.
        places: ``raw`` is written.
        cache: where downloads are kept between runs; by default ``$PPVIT_CACHE`` or the user's cache folder.

    Raises:
        UsageError: an unknown data set, or a path that does not exist or overlaps with ``out``.
        PpvitError: the data are missing, damaged or do not fit on the disk, or cannot be fetched.
    """
    path, out = Path(config.dataset.path), places.raw
    _require_apart(path, out)
    source = open_source(
        config.dataset.name, path, cache or cache_folder(), config.download.holdout_fraction, config.dataset.seed
    )
    require_free_space(out, source.size_bytes)
    with atomic_output(out, directory=True) as folder:
        samples = {"train": source.train, "test": source.test}
        shards = {
            split: write_shards(folder, split, map(_members, samples[split]()), IMAGES_PER_SHARD) for split in SPLITS
        }
        write_json(
            folder / "dataset.json",
            {
                "schema": SCHEMA,
                "name": config.dataset.name,
                "classes": source.classes,
                "source": source.description,
                "counts": {split: sum(shard.samples for shard in shards[split]) for split in SPLITS},
                "shards": {split: shard_records(shards[split]) for split in SPLITS},
            },
        )


def cache_folder() -> Path:
    """Where downloads are kept: ``$PPVIT_CACHE``, else the platform's folder for caches."""
    return Path(os.environ.get("PPVIT_CACHE") or user_cache_path("ppvit"))


def _require_apart(path: Path, out: Path) -> None:
    inner, outer = out.resolve(), path.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError(f"dataset.path: {path} overlaps with {out}, which this stage writes; move your data elsewhere")


def _members(sample: Sample) -> dict[str, bytes]:
    return {
        sample.extension: sample.image,
        "cls": str(sample.label).encode("ascii"),
        "txt": sample.origin.encode("utf-8"),
    }
