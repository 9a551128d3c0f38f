"""Writing encrypted shards: decode, resize, encrypt, store; in parallel, and always the same bytes.

A split is a folder: ``000000.tar`` and so on, ``view1-000000.tar`` and so on where images have several views,
``manifest.json``, and ``_info.json`` for timm's WebDataset reader.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.ciphers import Cipher
from ppvit.core.errors import PpvitError
from ppvit.core.executor import Executor
from ppvit.core.files import atomic_output, write_json
from ppvit.core.progress import tqdm
from ppvit.core.workers import available_cpus, requested_workers
from ppvit.data.labels import LabelSets, recorded
from ppvit.data.plain import Plain, encrypted_batches
from ppvit.data.shards import SCHEMA, Shard, shard_records, write_shard
from ppvit.data.storing import STORED, Storing, announce

KNOWN_BY = "*/manifest.json"
PARALLEL_PIXELS = 2**24  # below so many a second process would not earn back the time that it takes to start


def write_encrypted(
    splits: Mapping[str, Plain], cipher: Cipher, out: Path, images_per_shard: int, storing: Storing = STORED
) -> None:
    """Encrypt the splits of a data set into a folder each, below ``out``; all whole or not at all.

    Args:
        splits: plain images by the name of their split.
        cipher: with its key in place.
        out: replaced when it exists.
        images_per_shard: images in one tar.
        storing: how ciphertext is stored.

    Raises:
        PpvitError: a class is missing in a split, or no label tells images apart; an image cannot be decoded, the disk
            is full.
    """
    for split, plain in splits.items():
        _require_classes(split, plain)
    announce(out, splits, cipher, storing)
    with atomic_output(out, known_by=KNOWN_BY) as folder:
        fill(folder, splits, cipher, images_per_shard, storing)


def fill(
    folder: Path, splits: Mapping[str, Plain], cipher: Cipher, images_per_shard: int, storing: Storing = STORED
) -> None:
    """Write all files of :func:`write_encrypted` into an empty folder."""
    for split in splits:
        (folder / split).mkdir()
    tested: list[dict[str, Any]] = []
    for split, (shards, *views) in _write_shards(splits, cipher, folder, images_per_shard, storing).items():
        manifest = {
            "schema": SCHEMA,
            "split": split,
            "num_classes": len(splits[split].classes),
            **recorded(splits[split].labelling.task),
            "count": len(splits[split]),
            **cipher.record,
            "facts": cipher.facts,
            **splits[split].prepared,
            "shape": list(cipher.shape),
            "dtype": cipher.dtype.name,
            **storing.record,
            "shards": shard_records(shards),
        }
        if views:
            manifest |= {**splits[split].drawn, "view_shards": [shard_records(each) for each in views]}
        write_json(folder / split / "manifest.json", manifest)
        if storing.layout is None:
            write_json(folder / split / "_info.json", _timm_info(split, shards, *views))
        else:  # which no other reader knows
            storing.layout.write(folder / split)
        if split == "test":
            tested = shard_records(shards)
    # what training depends on where finetune.track_test is true, and where it is false, which is always the same
    write_json(folder / "track_test_true.json", tested)
    write_json(folder / "track_test_false.json", [])


def _require_classes(split: str, plain: Plain) -> None:
    if split == "val":  # small ones may lack a class, which no choice of an epoch needs
        return
    counts = plain.labelling.counts(plain.labels)
    missing = np.flatnonzero(counts == 0)
    if isinstance(plain.labelling, LabelSets):
        if ((counts == 0) | (counts == len(plain))).all():
            raise PpvitError(
                f"{plain.folder}: no label is carried by some of the {len(plain)} {split} images and not by others, so "
                "there is nothing to tell apart; take more images"
            )
    elif len(missing):
        raise PpvitError(
            f"{plain.folder}: class '{plain.classes[missing[0]]}' has no {split} image; add one or remove the class"
        )


def _write_shards(
    splits: Mapping[str, Plain], cipher: Cipher, folder: Path, per_shard: int, storing: Storing
) -> dict[str, list[list[Shard]]]:
    """The shards of every view of every split."""
    # all in one queue, so that no process waits at the end of each split
    order = [
        (split, view, start)
        for split, plain in splits.items()
        for view in range(plain.views)
        for start in range(0, len(plain), per_shard)
    ]
    tasks = (
        (
            splits[split],
            cipher,
            folder / split / f"{f'view{view}-' if view else ''}{start // per_shard:06d}.tar",
            start,
            min(start + per_shard, len(splits[split])),
            storing,
            view,
        )
        for split, view, start in order
    )
    pixels = sum(len(plain) * plain.views for plain in splits.values()) * cipher.image_size**2
    asked = requested_workers() or available_cpus()  # refused also where there is too little to do
    processes = min(asked, len(order)) if pixels > PARALLEL_PIXELS else 1  # here; a cluster has its own
    shards: dict[str, list[list[Shard]]] = {split: [[] for _ in range(splits[split].views)] for split in splits}
    with (
        Executor(processes) as executor,
        tqdm(total=len(order), desc="encrypt", unit="shard", disable=None, file=sys.stderr) as bar,
    ):
        for (split, view, _), shard in zip(order, executor.each(_write_encrypted_shard, tasks), strict=True):
            shards[split][view].append(shard)
            bar.update()
    return shards


def _write_encrypted_shard(
    plain: Plain, cipher: Cipher, path: Path, start: int, stop: int, storing: Storing, view: int
) -> Shard:
    batches = encrypted_batches(plain, cipher, start, stop, view)
    ciphertext = (image for batch in batches for image in batch)
    encoded = (storing.encoded(image, f"{plain.folder}: image {start + n}") for n, image in enumerate(ciphertext))
    samples = (
        {extension: content, "cls": plain.labelling.text(label).encode()}
        for (extension, content), label in zip(encoded, plain.labels[start:stop], strict=True)
    )
    with atomic_output(path) as temporary:  # a cluster that takes a slow worker for a dead one has two at it
        return replace(write_shard(temporary, samples, first_index=start), name=path.name)


def _timm_info(split: str, shards: list[Shard], *views: list[Shard]) -> dict[str, Any]:
    """The description of shards that timm's WebDataset reader looks for.

    Where there are several views, ``train`` is the first, and ``train_views`` all of them, a sample each.
    """
    parts = {split: shards}
    if views:
        parts[f"{split}_views"] = [*shards, *(shard for view in views for shard in view)]
    return {
        "splits": {
            name: {
                "name": name,
                "num_samples": sum(shard.samples for shard in part),
                "filenames": [shard.name for shard in part],
                "shard_lengths": [shard.samples for shard in part],
            }
            for name, part in parts.items()
        }
    }
