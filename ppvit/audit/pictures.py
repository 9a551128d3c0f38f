"""What an attack shows, to look at: a row an image, plain, encrypted and recovered side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TITLES = ("plain", "encrypted", "recovered")
TILE = 128  # smaller images are enlarged to about this side, pixel by pixel
_GAP, _TITLE = 8, 20


def save_grid(path: Path, plain: np.ndarray, encrypted: np.ndarray, recovered: np.ndarray) -> None:
    """Write a PNG grid.

    Args:
        path: the file.
        plain, encrypted, recovered: uint8, (n, H, W, 3), n rows.
    """
    side = plain.shape[1] * max(1, TILE // plain.shape[1])
    step = side + _GAP
    grid = Image.new("RGB", (len(TITLES) * step + _GAP, len(plain) * step + _TITLE + _GAP), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(12)
    for column, (title, images) in enumerate(zip(TITLES, (plain, encrypted, recovered), strict=True)):
        draw.text((column * step + _GAP, 4), title, "black", font)
        for row, image in enumerate(images):
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            grid.paste(tile, (column * step + _GAP, row * step + _TITLE + _GAP))
    grid.save(path, "PNG")
