"""What encryption does to images, as a picture: plain, encrypted and decrypted side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ppvit.ciphers import CIPHERS
from ppvit.config import Config
from ppvit.encrypt import PlainImages
from ppvit.errors import UsageError
from ppvit.files import atomic_output
from ppvit.images import displayable
from ppvit.keys import load as load_key
from ppvit.owner import load_cipher

_TILES = 6  # pictures in a line of the overview
_GAP = 8  # pixels between pictures
_TITLE = 24  # pixels above each column


def run(config: Config, raw: Path, out: Path, count: int = 4, ciphers: bool = False) -> None:
    """Write a PNG with one row an image: plain, encrypted, decrypted; or the first image under every cipher.

    Args:
        config: ``dataset``, ``cipher`` and ``encrypt`` are used.
        raw: folder that `download` wrote.
        out: the PNG.
        count: the first so many test images.
        ciphers: :func:`over_ciphers` instead.

    Raises:
        UsageError: ``count`` is not positive, no key.
    """
    if count < 1:
        raise UsageError(f"--count must be 1 or more, got {count}")
    if ciphers:
        picture = over_ciphers(config, raw)
    else:
        columns = examples(config, raw, count)
        picture = image_grid(list(columns.values()), list(columns))
    with atomic_output(out) as temporary:
        picture.save(temporary, format="PNG")


def examples(config: Config, raw: Path, count: int) -> dict[str, np.ndarray]:
    """The first test images as column title -> uint8 (n, H, W, 3)."""
    cipher = load_cipher(config)
    plain_images = PlainImages(raw, "test", config.dataset, config.encrypt)
    plain = plain_images.read(0, min(count, len(plain_images)))
    ids = plain_images.ids(0, len(plain))
    encrypted = cipher.encrypt(plain, ids)
    columns = {"plain": plain, f"encrypted ({cipher.name})": displayable(encrypted)}
    return columns | ({"decrypted": cipher.decrypt(encrypted, ids)} if cipher.invertible else {})


def over_ciphers(config: Config, raw: Path) -> Image.Image:
    """The first test image plain and under every cipher, each with the run's key and options, under their names.

    A cipher whose options do not fit the block side is left out.

    Args:
        config: ``dataset``, ``cipher`` and ``encrypt`` are used.
        raw: folder that `download` wrote.
    """
    plain_images = PlainImages(raw, "test", config.dataset, config.encrypt)
    plain, ids = plain_images.read(0, 1), plain_images.ids(0, 1)
    key = load_key(config.cipher.key_id)
    tiles = {"plain": plain}
    for name in CIPHERS:
        try:
            settings = config.cipher.model_copy(update={"name": name, "token_width": 64})
            cipher = load_cipher(config.model_copy(update={"cipher": settings}), key)
        except UsageError:
            continue
        if cipher.keyed:
            tiles[name] = displayable(cipher.encrypt(plain, ids))
    side = plain.shape[1]
    pictures = {name: _fit(picture[0], side)[None] for name, picture in tiles.items()}
    lines = [list(pictures.items())[start : start + _TILES] for start in range(0, len(pictures), _TILES)]
    grids = [image_grid([picture for _, picture in line], [name for name, _ in line]) for line in lines]
    page = Image.new("RGB", (grids[0].width, sum(grid.height for grid in grids)), "white")
    for number, grid in enumerate(grids):
        page.paste(grid, (0, sum(above.height for above in grids[:number])))
    return page


def _fit(picture: np.ndarray, side: int) -> np.ndarray:
    if picture.shape[0] == side:
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST))


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
