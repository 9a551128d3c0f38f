"""Encrypting a data set into keyed shards: decode, resize, encrypt, store; in parallel, and always the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from ppvit import images
from ppvit.ciphers import Cipher
from ppvit.config import Config, Dataset, Encrypt
from ppvit.errors import PpvitError
from ppvit.files import atomic_output, require_free_space, write_json
from ppvit.owner import load_cipher, public_record
from ppvit.parallel import available_cpus, requested_workers
from ppvit.shards import SCHEMA, SPLITS, Shard, ShardReader, read_manifest, shard_name, shard_records, write_shard

PARALLEL_PIXELS = 2**24  # below so many a second process would not earn back the time that it takes to start
BATCH = 64  # images encrypted in one call: enough for speed, little memory


class PlainImages:
    """The plain images of one split in the order of the encrypted shards, decoded and resized.

    Args:
        raw: folder that `download` wrote.
        split: ``train`` or ``test``.
        dataset: image_size, the fractions and the seed are used.
        encrypt: resize_filter and crop are used.

    A fraction is stratified. The order is a seeded permutation, so that neither shards nor batches group classes,
    whatever order the source had.
    """

    def __init__(self, raw: Path, split: str, dataset: Dataset, encrypt: Encrypt) -> None:
        self.manifest = read_manifest(raw, "download", "dataset.json")
        self._reader = ShardReader(raw, split, self.manifest["shards"])
        labels = self._reader.labels()
        fraction = dataset.train_fraction if split == "train" else dataset.test_fraction
        self._selected = select(labels, fraction, seed=(dataset.seed, SPLITS.index(split)))
        self.labels = labels[self._selected]
        self.image_size = dataset.image_size
        self._first_id = image_id(split, 0)
        self._encrypt = encrypt

    def __len__(self) -> int:
        return len(self._selected)

    def ids(self, start: int, stop: int) -> np.ndarray:
        """The numbers by which ciphers with a key for every image know images start .. stop - 1, int64."""
        return np.arange(self._first_id + start, self._first_id + stop)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images start .. stop - 1: uint8, (n, H, W, 3).

        Raises:
            PpvitError: an image cannot be decoded; names the file it came from.
        """
        return np.stack([self._read_one(index) for index in self._selected[start:stop]])

    def _read_one(self, index: int) -> np.ndarray:
        plain = images.decode(self._reader.image(index), self._reader.name(index))
        return images.to_square(plain, self.image_size, self._encrypt.resize_filter, self._encrypt.crop)


def image_id(split: str, index: int) -> int:
    """A number that no other image of the data set has: ``split`` is ``train``, ``test``, or ``query``."""
    return (*SPLITS, "query").index(split) * 2**32 + index


def select(labels: np.ndarray, fraction: float, seed: tuple[int, ...]) -> np.ndarray:
    """Indices of a stratified random fraction, in random order; at least one image of every class.

    Args:
        labels: int64, (n,).
        fraction: share of every class, in (0, 1].
        seed: equal seeds give equal indices; a smaller fraction gives a subset of a larger one.

    Returns:
        intp, (m,).
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # place of each image among those of its class
    shuffled = labels[order]
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        rank[members] = np.arange(len(members))
    kept = np.maximum(1, np.round(fraction * np.bincount(labels))).astype(np.int64)
    return order[rank < kept[shuffled]]


def encrypted_batches(plain: PlainImages, cipher: Cipher, start: int, stop: int) -> Iterator[np.ndarray]:
    """Ciphertext of images start .. stop - 1 in batches of up to 64."""
    for first in range(start, stop, BATCH):
        last = min(first + BATCH, stop)
        yield cipher.encrypt(plain.read(first, last), plain.ids(first, last))


def _write_encrypted_shard(plain: PlainImages, cipher: Cipher, path: Path, start: int, stop: int) -> Shard:
    batches = encrypted_batches(plain, cipher, start, stop)
    encoded = (images.encode_array(image) for batch in batches for image in batch)
    samples = (
        {extension: content, "cls": str(label).encode()}
        for (extension, content), label in zip(encoded, plain.labels[start:stop], strict=True)
    )
    return write_shard(path, samples, first_index=start)


def run(config: Config, raw: Path, out: Path) -> dict[str, Any]:
    """Encrypt both splits of a data set.

    Args:
        config: ``dataset``, ``cipher`` and ``encrypt`` are used.
        raw: folder that `download` wrote.
        out: folder of shards to write, with ``manifest.json`` and timm's ``_info.json``; whole or not at all.

    Returns:
        The manifest.

    Raises:
        PpvitError: a class is missing in a split, an image cannot be decoded, the disk is full, no key.
    """
    cipher = load_cipher(config)
    splits = {split: PlainImages(raw, split, config.dataset, config.encrypt) for split in SPLITS}
    manifest = splits["train"].manifest
    _check_classes(raw, manifest["classes"], splits)
    ciphertext_bytes = int(np.prod(cipher.shape)) * cipher.dtype.itemsize
    require_free_space(out, sum(len(plain) for plain in splits.values()) * (ciphertext_bytes + 2048))
    with atomic_output(out, directory=True) as folder:
        shards = _write_splits(splits, cipher, folder, config.encrypt.images_per_shard)
        manifest = {
            "schema": SCHEMA,
            "num_classes": len(manifest["classes"]),
            "counts": {split: len(splits[split]) for split in SPLITS},
            **public_record(config, cipher),
            "shape": list(cipher.shape),
            "dtype": cipher.dtype.name,
            "shards": {split: shard_records(shards[split]) for split in SPLITS},
        }
        write_json(folder / "manifest.json", manifest)
        write_json(folder / "_info.json", _timm_info(shards))
    return manifest


def _check_classes(raw: Path, classes: list[str], splits: dict[str, PlainImages]) -> None:
    for split, plain in splits.items():
        missing = np.flatnonzero(np.bincount(plain.labels, minlength=len(classes)) == 0)
        if len(missing):
            raise PpvitError(f"{raw}: class '{classes[missing[0]]}' has no {split} image; add one or remove the class")


def _write_splits(
    splits: dict[str, PlainImages], cipher: Cipher, folder: Path, per_shard: int
) -> dict[str, list[Shard]]:
    # all splits in one queue, so that no process waits at the end of each
    order = [(split, start) for split, plain in splits.items() for start in range(0, len(plain), per_shard)]
    tasks = (
        delayed(_write_encrypted_shard)(
            splits[split],
            cipher,
            folder / shard_name(split, start // per_shard),
            start,
            min(start + per_shard, len(splits[split])),
        )
        for split, start in order
    )
    pixels = sum(map(len, splits.values())) * cipher.image_size**2
    processes = min(requested_workers() or available_cpus(), len(order)) if pixels > PARALLEL_PIXELS else 1
    shards: dict[str, list[Shard]] = {split: [] for split in splits}
    with tqdm(total=len(order), desc="encrypt", unit="shard", disable=None, file=sys.stderr) as bar:
        for (split, _), shard in zip(order, Parallel(n_jobs=processes, return_as="generator")(tasks), strict=True):
            shards[split].append(shard)
            bar.update()
    return shards


def _timm_info(shards: dict[str, list[Shard]]) -> dict[str, Any]:
    """The description of shards that timm's WebDataset reader looks for."""
    splits = {
        split: {
            "name": split,
            "num_samples": sum(shard.samples for shard in members),
            "filenames": [shard.name for shard in members],
            "shard_lengths": [shard.samples for shard in members],
        }
        for split, members in shards.items()
    }
    return {"splits": splits}
