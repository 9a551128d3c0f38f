"""Images side by side, as one picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 8  # pixels between pictures
_TITLE = 24  # pixels above each column


def image_grid(columns: list[np.ndarray], titles: list[str], side: int = 160) -> Image.Image:
    """Columns of images under their titles.

    Args:
        columns: uint8, (n, H, W, 3) each; a row shows the n-th image of every column.
        titles: one a column.
        side: pixels an image takes at least; small images are enlarged by whole numbers, so that pixels stay visible.
    """
    height, width = (size * max(1, round(side / size)) for size in columns[0].shape[1:3])  # of all, tokens too
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
