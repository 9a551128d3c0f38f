"""What a study is about to write: encrypted images, one kind for every cipher and way to prepare them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from measure import Run
from study import Variant

from ppvit.ciphers.keyed import load_cipher
from ppvit.core.files import announce_size
from ppvit.data.plain import plain_splits
from ppvit.pipeline import STAGES


def announce(variants: Iterable[Variant], folder: Path) -> None:
    """Say how much of the disk the encrypted images of variants take at most, before the first is measured.

    Args:
        variants: those that will be measured.
        folder: where a run works.

    Raises:
        PpvitError: so much is not free.
    """
    sets = {}
    for variant in variants:
        run = Run(variant, folder)
        sets[STAGES["encrypt"].narrowed(run.config).model_dump_json(exclude_unset=True)] = run
    if not sets:
        return
    needed = sum(size_bytes(run) for run in sets.values())
    kinds = "one kind" if len(sets) == 1 else f"{len(sets)} kinds"
    announce_size(f"encrypted images of {kinds}", next(iter(sets.values())).places.raw.parent, needed)


def size_bytes(run: Run) -> int:
    """Of the encrypted images of a run; its raw images are fetched where they are not there."""
    run.data_id()
    cipher = load_cipher(run.config)
    splits = plain_splits(run.places.raw, run.config.dataset, run.config.encrypt)
    views = {"train": run.config.encrypt.views}
    pictures = sum(len(plain) * views.get(split, 1) for split, plain in splits.items())
    return pictures * (math.prod(cipher.shape) * cipher.dtype.itemsize + 2048)
