"""Draw what encryption does to images, plain, encrypted and decrypted side by side; tell what was found about them."""

from __future__ import annotations

from pathlib import Path

from ppvit.config import Config
from ppvit.core.errors import UsageError
from ppvit.core.files import atomic_output
from ppvit.core.reading import read_json
from ppvit.data.pictures import image_grid
from ppvit.data.sealed import Seal
from ppvit.data.shards import SPLITS, read_manifest, sizes
from ppvit.datasets.findings_list import read_list
from ppvit.places import Places
from ppvit.report.pictures import examples, over_ciphers


def findings(config: Config, places: Places) -> str:
    """What the last `download` found about images, as CSV, empty where nothing; see :mod:`ppvit.datasets.findings`.

    Args:
        config: ``dataset.name`` and ``download.key_id`` are used.
        places: ``raw`` is read, and what a refused `download` left beside it.

    Raises:
        UsageError: no key to open it with.
        PpvitError: it was altered, or is sealed with another key; nothing was downloaded.
    """
    found = read_list(places.raw, Seal.of(config.download.key_id, config.dataset.name))
    if not found:
        read_json(places.raw / "dataset.json", "download")  # which is missing where nothing was looked at
    return found


def encrypted_sizes(places: Places) -> str:
    """How many images of each split were encrypted, in words; empty where none were.

    Args:
        places: ``encrypted`` is read.

    Raises:
        PpvitError: a manifest is damaged.
    """
    if not all((places.encrypted / split / "manifest.json").exists() for split in SPLITS):
        return ""
    return sizes({split: read_manifest(places.encrypted / split)["count"] for split in SPLITS})


def run(config: Config, places: Places, out: Path, count: int = 4, ciphers: bool = False) -> None:
    """Write a PNG with one row an image: plain, encrypted, decrypted; or the first image under every cipher.

    Args:
        config: ``dataset``, ``cipher`` and ``encrypt`` are used.
        places: ``raw`` is read.
        out: the PNG.
        count: the first so many test images.
        ciphers: :func:`over_ciphers` instead.

    Raises:
        UsageError: ``count`` is not positive, ``out`` is not named as a PNG, no key.
    """
    if out.suffix.lower() != ".png":  # which git is told to leave alone: it shows plain images
        raise UsageError(f"--out {out}: it is a PNG that is written; name it so, such as {out.with_suffix('.png')}")
    if count < 1:
        raise UsageError(f"--count must be 1 or more, got {count}")
    if ciphers:
        picture = over_ciphers(config, places.raw)
    else:
        columns = examples(config, places.raw, count)
        picture = image_grid(list(columns.values()), list(columns))
    with atomic_output(out) as temporary:
        picture.save(temporary, format="PNG")
