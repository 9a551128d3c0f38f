"""The raw form of a data set: plain WebDataset shards of any images, which stay with the owner.

A sample is the image's bytes as they were (``.jpg``, ``.png``, …; arrays become PNG), its class number (``.cls``) and
where it came from (``.txt``, for error messages). ``dataset.json`` holds class names, counts and the
SHA-256 of every shard.
"""

from __future__ import annotations

from pathlib import Path

from ppvit.core.files import atomic_output, require_free_space, write_json
from ppvit.data.shards import SCHEMA, SPLITS, shard_records, write_shards
from ppvit.datasets.source import Sample, Source

IMAGES_PER_SHARD = 512


def write_raw(source: Source, name: str, out: Path) -> None:
    """Write the images of a data set as they are, whole or not at all.

    Args:
        source: train and test images with their classes.
        name: of the data set.
        out: the folder; an old one is replaced.

    Raises:
        PpvitError: the data are damaged or do not fit on the disk.
    """
    require_free_space(out, source.size_bytes)
    samples = {"train": source.train, "test": source.test}
    with atomic_output(out, known_by="dataset.json") as folder:
        shards = {
            split: write_shards(folder, split, map(_members, samples[split]()), IMAGES_PER_SHARD) for split in SPLITS
        }
        manifest = {
            "schema": SCHEMA,
            "name": name,
            "classes": source.classes,
            "source": source.description,
            "counts": {split: sum(shard.samples for shard in shards[split]) for split in SPLITS},
            "shards": {split: shard_records(shards[split]) for split in SPLITS},
        }
        write_json(folder / "dataset.json", manifest)


def _members(sample: Sample) -> dict[str, bytes]:
    return {
        sample.extension: sample.image,
        "cls": str(sample.label).encode("ascii"),
        "txt": sample.origin.encode("utf-8"),
    }
