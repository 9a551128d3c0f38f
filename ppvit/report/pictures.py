"""What encryption does to images, as a picture, and the pictures of what attacks recovered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from ppvit.ciphers import CIPHERS
from ppvit.ciphers.keyed import load_cipher
from ppvit.ciphers.keys import load as load_key
from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import Record, read_bounded, read_record
from ppvit.data.images import displayable
from ppvit.data.pictures import image_grid
from ppvit.data.plain import PlainImages

_TILES = 6  # pictures in a line of the overview
_PICTURE_BYTES = 64 * 2**20  # of a picture that audit drew: some rows of images beside each other

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
_Text = Annotated[str, Field(max_length=2000)]
_Row = Annotated[list[_Text], Field(min_length=3, max_length=3)]


class Told(Record):
    """``attacks.json``: rows of the table of attacks, the title of each attack, and a sentence on it."""

    rows: list[_Row]
    titles: dict[_Name, _Text]
    sentences: dict[_Name, _Text]


@dataclass(frozen=True)
class Recovered:
    """What `audit` tells: rows of the table, a sentence an attack, and PNG files by their titles."""

    rows: list[list[str]]
    sentences: dict[str, str]
    pictures: dict[str, bytes]


def recovered(folder: Path) -> Recovered:
    """What `audit` tells in texts and pictures; only the pictures of attacks that it names are read.

    Raises:
        PpvitError: a file is missing, too large, or not what audit writes.
    """
    told = read_record(folder / "attacks.json", Told, "audit")
    pictures = {}
    for name, title in sorted(told.titles.items()):
        path = folder / f"{name}.png"
        if path.exists():  # not every attack makes pictures
            pictures[title] = read_bounded(path, _PICTURE_BYTES)
            if not pictures[title].startswith(b"\x89PNG\r\n\x1a\n"):
                raise PpvitError(f"{path} is no PNG; make it again: dvc repro --force audit")
    return Recovered(told.rows, told.sentences, pictures)


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
