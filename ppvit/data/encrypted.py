"""Writing encrypted shards: decode, resize, encrypt, store; in parallel, and always the same bytes.

A split is a folder: ``000000.tar`` and so on, ``manifest.json``, and ``_info.json`` for timm's WebDataset reader.
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
from ppvit.core.files import atomic_output, require_free_space, write_json
from ppvit.core.progress import tqdm
from ppvit.core.workers import available_cpus, requested_workers
from ppvit.data import images
from ppvit.data.labels import LabelSets, recorded
from ppvit.data.plain import Plain, encrypted_batches
from ppvit.data.shards import SCHEMA, Shard, shard_records, write_shard

KNOWN_BY = "*/manifest.json"
PARALLEL_PIXELS = 2**24  # below so many a second process would not earn back the time that it takes to start


def write_encrypted(splits: Mapping[str, Plain], cipher: Cipher, out: Path, images_per_shard: int) -> None:
    """Encrypt the splits of a data set into a folder each, below ``out``; all whole or not at all.

    Args:
        splits: plain images by the name of their split.
        cipher: with its key in place.
        out: replaced when it exists.
        images_per_shard: images in one tar.

    Raises:
        PpvitError: a class is missing in a split, or no label tells images apart; an image cannot be decoded, the disk
            is full.
    """
    for split, plain in splits.items():
        _require_classes(split, plain)
    ciphertext_bytes = int(np.prod(cipher.shape)) * cipher.dtype.itemsize
    require_free_space(out, sum(len(plain) for plain in splits.values()) * (ciphertext_bytes + 2048))
    with atomic_output(out, known_by=KNOWN_BY) as folder:
        fill(folder, splits, cipher, images_per_shard)


def fill(folder: Path, splits: Mapping[str, Plain], cipher: Cipher, images_per_shard: int) -> None:
    """Write all files of :func:`write_encrypted` into an empty folder."""
    for split in splits:
        (folder / split).mkdir()
    for split, shards in _write_shards(splits, cipher, folder, images_per_shard).items():
        manifest = {
            "schema": SCHEMA,
            "split": split,
            "num_classes": len(splits[split].classes),
            **recorded(splits[split].labelling.task),
            "count": len(splits[split]),
            **cipher.record,
            **splits[split].prepared,
            "shape": list(cipher.shape),
            "dtype": cipher.dtype.name,
            "shards": shard_records(shards),
        }
        write_json(folder / split / "manifest.json", manifest)
        write_json(folder / split / "_info.json", _timm_info(split, shards))
        if split == "test":
            # what training depends on with finetune.track_test=true and with false, see dvc.yaml
            (folder / "track_test").mkdir()
            write_json(folder / "track_test" / "true.json", shard_records(shards))
            write_json(folder / "track_test" / "false.json", [])


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


def _write_shards(splits: Mapping[str, Plain], cipher: Cipher, folder: Path, per_shard: int) -> dict[str, list[Shard]]:
    # all splits in one queue, so that no process waits at the end of each
    order = [(split, start) for split, plain in splits.items() for start in range(0, len(plain), per_shard)]
    tasks = (
        (
            splits[split],
            cipher,
            folder / split / f"{start // per_shard:06d}.tar",
            start,
            min(start + per_shard, len(splits[split])),
        )
        for split, start in order
    )
    pixels = sum(map(len, splits.values())) * cipher.image_size**2
    asked = requested_workers() or available_cpus()  # refused also where there is too little to do
    processes = min(asked, len(order)) if pixels > PARALLEL_PIXELS else 1  # here; a cluster has its own
    shards: dict[str, list[Shard]] = {split: [] for split in splits}
    with (
        Executor(processes) as executor,
        tqdm(total=len(order), desc="encrypt", unit="shard", disable=None, file=sys.stderr) as bar,
    ):
        for (split, _), shard in zip(order, executor.each(_write_encrypted_shard, tasks), strict=True):
            shards[split].append(shard)
            bar.update()
    return shards


def _write_encrypted_shard(plain: Plain, cipher: Cipher, path: Path, start: int, stop: int) -> Shard:
    batches = encrypted_batches(plain, cipher, start, stop)
    encoded = (images.encode_array(image) for batch in batches for image in batch)
    samples = (
        {extension: content, "cls": plain.labelling.text(label).encode()}
        for (extension, content), label in zip(encoded, plain.labels[start:stop], strict=True)
    )
    with atomic_output(path) as temporary:  # a cluster that takes a slow worker for a dead one has two at it
        return replace(write_shard(temporary, samples, first_index=start), name=path.name)


def _timm_info(split: str, shards: list[Shard]) -> dict[str, Any]:
    """The description of shards that timm's WebDataset reader looks for."""
    described = {
        "name": split,
        "num_samples": sum(shard.samples for shard in shards),
        "filenames": [shard.name for shard in shards],
        "shard_lengths": [shard.samples for shard in shards],
    }
    return {"splits": {split: described}}
