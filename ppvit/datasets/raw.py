"""The raw form of a data set: plain WebDataset shards of any images, which stay with the owner.

A sample is the image's bytes as they were (``.jpg``, ``.png``, …; arrays become PNG), its class number or numbers
(``.cls``, see :mod:`ppvit.data.labels`) and where it came from (``.txt``, for error messages). ``dataset.json`` holds
class names, counts and the SHA-256 of every shard. All of it is the user's alone (modes 0600 and 0700), and sealed
where there is a key for it, see :mod:`ppvit.data.sealed`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ppvit.config import Dataset
from ppvit.core.errors import PpvitError
from ppvit.core.files import announce_size, atomic_output, write_json
from ppvit.core.private import keep_private, make_private
from ppvit.core.progress import tqdm
from ppvit.data.labels import ClassNumbers, Labelling, LabelSets, recorded
from ppvit.data.sealed import Seal
from ppvit.data.shards import SCHEMA, SPLITS, shard_records, write_shards
from ppvit.datasets.checked import Examiner
from ppvit.datasets.findings import Findings
from ppvit.datasets.findings_list import clear_refused, write_list, write_refused
from ppvit.datasets.source import Sample, Source, no_val_to_train_on, warn

IMAGES_PER_SHARD = 512


def write_raw(source: Source, settings: Dataset, out: Path, seal: Seal | None = None) -> None:
    """Write the images of a data set as they are, whole or not at all; each is decoded once, to see what it is.

    What was found about them is told on the terminal, counted in ``dataset.json`` and listed beside it, see
    :mod:`ppvit.datasets.findings` and :mod:`ppvit.datasets.findings_list`.

    Args:
        source: train and test images with their classes, and perhaps val.
        settings: ``name``, ``own_val``, ``frames``, ``bad_images`` and ``duplicates`` are used.
        out: the folder; an old one is replaced.
        seal: what seals it; by default it stays plain.

    Raises:
        UsageError: validation images are to be trained on, and the data set brings none.
        PpvitError: the data are damaged, refused by the settings, or do not fit on the disk.
    """
    if settings.own_val == "train":
        source = _trained_on_val(source, settings.name)
    announce_size("plain images", out, source.size_bytes)
    labelling = (LabelSets if source.multilabel else ClassNumbers)(len(source.classes))
    set_bytes = labelling.text_bytes if source.multilabel else 0
    splits = {split: read for split in SPLITS if (read := getattr(source, split)) is not None}
    findings = Findings(source.classes, settings)
    make_private(out.absolute().parent)
    with atomic_output(out, known_by="dataset.json") as folder:
        keep_private([folder])
        shards = {}
        with (
            Examiner(settings.frames) as examiner,
            tqdm(desc="download", unit="image", disable=None, file=sys.stderr) as bar,
        ):
            for split, read in splits.items():
                kept = findings.kept(split, examiner.batches(_counted(read(), bar)))
                samples = (_members(sample, labelling) for sample in kept)
                sealed = samples if seal is None else seal.samples(split, samples, set_bytes)
                shards[split] = write_shards(folder, split, sealed, IMAGES_PER_SHARD)
        if refusal := findings.refusal():
            place = write_refused(out, findings.rows(), seal)
            raise PpvitError(f"{settings.name}: {refusal}; all are in {_told(place, seal)}")
        manifest = {
            "schema": SCHEMA,
            "name": settings.name,
            "classes": source.classes,
            **recorded(labelling.task),
            "source": source.description,
            "wide": findings.wide,
            "checks": findings.checks,
            "counts": {split: sum(shard.samples for shard in shards[split]) for split in splits},
            "shards": {split: shard_records(shards[split]) for split in splits},
        }
        write_json(folder / "dataset.json", manifest if seal is None else seal.manifest(manifest))
        listed = write_list(folder, findings.rows(), seal)
        keep_private(folder.iterdir())
    clear_refused(out)
    for remark in findings.remarks():
        warn(f"{settings.name}: {remark}")
    if listed is not None:
        warn(f"{settings.name}: all are in {_told(out / listed.name, seal)}")


def _trained_on_val(source: Source, name: str) -> Source:
    """The data set with its validation images behind its training images."""
    train, val = source.train, source.val
    if val is None:
        raise no_val_to_train_on(name)
    description = f"{source.description}, with val in train"
    return replace(source, train=lambda: chain(train(), val()), val=None, description=description)


def _counted(samples: Iterator[Sample], bar: Any) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        bar.update()


def _told(place: Path, seal: Seal | None) -> str:
    return str(place) if seal is None else f"{place}, which `ppvit show --findings` opens"


def _members(sample: Sample, labelling: Labelling) -> dict[str, bytes]:
    return {
        sample.extension: sample.image,
        "cls": labelling.text(sample.label).encode("ascii"),
        "txt": sample.origin.encode("utf-8"),
    }
