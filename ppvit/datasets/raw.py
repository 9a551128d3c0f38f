"""The raw form of a data set: plain WebDataset shards of any images, which stay with the owner.

A sample is the image's bytes as they were (``.jpg``, ``.png``, …; arrays become PNG), its class number or numbers
(``.cls``, see :mod:`ppvit.data.labels`) and where it came from (``.txt``, for error messages). ``dataset.json`` holds
class names, counts and the SHA-256 of every shard. All of it is the user's alone (modes 0600 and 0700), and sealed
where there is a key for it, see :mod:`ppvit.data.sealed`.
"""

from __future__ import annotations

from pathlib import Path

from ppvit.core.files import atomic_output, require_free_space, write_json
from ppvit.core.private import keep_private, make_private
from ppvit.data.labels import ClassNumbers, Labelling, LabelSets, recorded
from ppvit.data.sealed import Seal
from ppvit.data.shards import SCHEMA, SPLITS, shard_records, write_shards
from ppvit.datasets.source import Sample, Source

IMAGES_PER_SHARD = 512


def write_raw(source: Source, name: str, out: Path, seal: Seal | None = None) -> None:
    """Write the images of a data set as they are, whole or not at all.

    Args:
        source: train and test images with their classes.
        name: of the data set.
        out: the folder; an old one is replaced.
        seal: what seals it; by default it stays plain.

    Raises:
        PpvitError: the data are damaged or do not fit on the disk.
    """
    require_free_space(out, source.size_bytes)
    labelling = (LabelSets if source.multilabel else ClassNumbers)(len(source.classes))
    set_bytes = labelling.text_bytes if source.multilabel else 0
    samples = {
        split: (_members(sample, labelling) for sample in read())
        for split, read in (("train", source.train), ("test", source.test))
    }
    make_private(out.absolute().parent)
    with atomic_output(out, known_by="dataset.json") as folder:
        keep_private([folder])
        shards = {
            split: write_shards(
                folder,
                split,
                samples[split] if seal is None else seal.samples(split, samples[split], set_bytes),
                IMAGES_PER_SHARD,
            )
            for split in SPLITS
        }
        manifest = {
            "schema": SCHEMA,
            "name": name,
            "classes": source.classes,
            **recorded(labelling.task),
            "source": source.description,
            "counts": {split: sum(shard.samples for shard in shards[split]) for split in SPLITS},
            "shards": {split: shard_records(shards[split]) for split in SPLITS},
        }
        write_json(folder / "dataset.json", manifest if seal is None else seal.manifest(manifest))
        keep_private(folder.iterdir())


def _members(sample: Sample, labelling: Labelling) -> dict[str, bytes]:
    return {
        sample.extension: sample.image,
        "cls": labelling.text(sample.label).encode("ascii"),
        "txt": sample.origin.encode("utf-8"),
    }
