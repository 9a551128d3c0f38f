"""What encryption does to images, as a picture: plain, encrypted and decrypted side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ppvit.config import Config
from ppvit.encrypt import PlainImages
from ppvit.errors import UsageError
from ppvit.files import atomic_output
from ppvit.owner import load_cipher

_GAP = 8  # pixels between pictures
_TITLE = 24  # pixels above each column


def run(config: Config, raw: Path, out: Path, count: int = 4) -> None:
    """Write a PNG with one row an image: plain, encrypted, decrypted.

    Args:
        config: ``dataset``, ``cipher`` and ``encrypt`` are used.
        raw: folder that `download` wrote.
        out: the PNG.
        count: the first so many test images.

    Raises:
        UsageError: ``count`` is not positive, no key.
    """
    if count < 1:
        raise UsageError(f"--count must be 1 or more, got {count}")
    columns = examples(config, raw, count)
    with atomic_output(out) as temporary:
        image_grid(list(columns.values()), list(columns)).save(temporary, format="PNG")


def examples(config: Config, raw: Path, count: int) -> dict[str, np.ndarray]:
    """The first test images as column title -> uint8 (n, H, W, 3)."""
    cipher = load_cipher(config)
    plain_images = PlainImages(raw, "test", config.dataset, config.encrypt)
    plain = plain_images.read(0, min(count, len(plain_images)))
    ids = np.arange(len(plain))
    encrypted = cipher.encrypt(plain, ids)
    return {"plain": plain, f"encrypted ({cipher.name})": encrypted, "decrypted": cipher.decrypt(encrypted, ids)}


def image_grid(columns: list[np.ndarray], titles: list[str], side: int = 160) -> Image.Image:
    """Columns of images under their titles.

    Args:
        columns: uint8, (n, H, W, 3) each; a row shows the n-th image of every column.
        titles: one a column.
        side: pixels an image takes at least; small images are enlarged by whole numbers, so that pixels stay visible.
    """
    height, width = (size * max(1, round(side / size)) for size in columns[0].shape[1:3])
    rows = len(columns[0])
    grid = Image.new("RGB", (len(columns) * (width + _GAP) + _GAP, rows * (height + _GAP) + _TITLE), "white")
    draw = ImageDraw.Draw(grid)
    for column, (pictures, title) in enumerate(zip(columns, titles, strict=True)):
        left = _GAP + column * (width + _GAP)
        draw.text((left, 4), title, "black", ImageFont.load_default(14))
        for row, picture in enumerate(pictures):
            enlarged = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
            grid.paste(enlarged, (left, _TITLE + row * (height + _GAP)))
    return grid
