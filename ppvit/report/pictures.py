"""What encryption does to images, as a picture, and the pictures of what attacks recovered."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

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
_PICTURE_PIXELS = 64 * 10**6
_SHOWN_WIDTH = 416  # pixels of the page that a picture takes at most
_WIDE = 880  # and one with many names in it
_LUCK = 10  # of 100, the strength of an attack below which it found no more than a guess
_PAGE_BYTES = 520_000  # of all pictures together, before base64: scripts and text are the rest of 2 MB

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
    """What `audit` tells, by the names of attacks: rows of the table, titles, a sentence each, and pictures."""

    rows: list[list[str]]
    titles: dict[str, str]
    sentences: dict[str, str]
    pictures: dict[str, Image.Image]


@dataclass(frozen=True)
class Shown:
    """A picture in the page: its data URI and size in pixels of the page, what it is called and what is seen in it."""

    uri: str
    width: int
    height: int
    title: str
    seen: str
    alt: str
    nothing: bool = False  # is seen that a guess would not show


def recovered(folder: Path) -> Recovered:
    """What `audit` tells in texts and pictures; only the pictures of attacks that it names are read.

    Raises:
        PpvitError: a file is missing, too large, or not what audit writes.
    """
    told = read_record(folder / "attacks.json", Told, "audit")
    pictures = {}
    for name in sorted(told.titles):
        path = folder / f"{name}.png"
        if path.exists():  # not every attack makes pictures
            pictures[name] = _read_png(path)
    return Recovered(told.rows, told.titles, told.sentences, pictures)


def _read_png(path: Path) -> Image.Image:
    data = read_bounded(path, _PICTURE_BYTES)
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise PpvitError(f"{path} is no PNG; make it again: dvc repro --force audit")
    try:
        picture = Image.open(io.BytesIO(data), formats=["PNG"])
        if picture.width * picture.height > _PICTURE_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels")
        return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PpvitError(f"{path} cannot be shown ({error}); make it again: dvc repro --force audit") from error


def attack_pictures(told: Recovered, audit: Mapping[str, Any], budget: int) -> list[Shown]:
    """Every picture that attacks made, once: those that look the same share one, and one caption.

    Args:
        told: what `audit` tells.
        audit: its figures; SSIM and strength of every attack are used.
        budget: bytes of a picture.
    """
    alike: dict[bytes, list[str]] = {}
    for name, picture in told.pictures.items():
        alike.setdefault(picture.tobytes() + repr(picture.size).encode(), []).append(name)
    shown = []
    for names in alike.values():
        titles = [told.titles[name] for name in names]
        title = titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"
        ssim = audit.get(f"{names[0]}_ssim")
        strength = audit.get(f"{names[0]}_strength_percent")
        seen = what_is_seen(ssim, strength)
        if ssim is not None:
            seen += f" SSIM {ssim:.2f}."
        if len(names) > 1:
            seen += f" The same picture came of all {len(names)} attacks."
        alt = f"Columns of test images: plain, encrypted, and as recovered by {title}. {seen}"
        nothing = ssim is not None and strength is not None and strength < _LUCK
        shown.append(replace(_shown(told.pictures[names[0]], budget, title, seen, alt), nothing=nothing))
    return shown


def what_is_seen(ssim: float | None, strength: float | None) -> str:
    """A sentence on the images that an attack recovered.

    Args:
        ssim: of recovered and plain images, mean; None where it was not measured.
        strength: 0, what luck gives, to 100; None as well.
    """
    if ssim is None or strength is None:
        return "How near the right column comes to the left was not measured."
    if strength < _LUCK:
        return "The right column shows nothing of the left one that a guess would not."
    if ssim >= 0.9:
        return "The right column shows the images of the left one: they can be read."
    if ssim >= 0.5:
        return "The right column shows what the images of the left one are of, with faults."
    return "The right column shows traces of the left one."


def picture_budget(pictures: int) -> int:
    """Bytes that each of so many pictures may take."""
    return _PAGE_BYTES // max(1, pictures)


def _shown(picture: Image.Image, budget: int, title: str, seen: str, alt: str, most: int = _SHOWN_WIDTH) -> Shown:
    """A picture as WebP at the size at which it is shown: without loss where that is small enough, else with."""
    width = min(most, picture.width)
    picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.BOX)
    data = _webp(picture, lossless=True)
    scale, quality = 1.0, 80
    while len(data) > budget and scale > 0.1:  # noise, such as ciphertext, hardly compresses
        smaller = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BOX)
        data = _webp(smaller, quality=quality)
        scale, quality = (scale, quality - 20) if quality > 40 else (scale * 0.8, 80)
    uri = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    return Shown(uri, picture.width, picture.height, title, seen, alt)


def _webp(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", **options)
    return buffer.getvalue()


def example_picture(columns: Mapping[str, np.ndarray], budget: int) -> Shown:
    """Test images plain, encrypted, and decrypted where there is decryption.

    Args:
        columns: see :func:`examples`.
        budget: bytes of the picture.
    """
    grid = image_grid(list(columns.values()), list(columns))
    seen = "The key brings the images back." if "decrypted" in columns else "This cipher has no decryption."
    seen = f"What the trainer gets is the column in the middle. {seen}" if "decrypted" in columns else seen
    alt = f"Columns of test images: {', '.join(columns)}."
    return _shown(grid, budget, "encryption and decryption with the key", seen, alt)


def cipher_picture(config: Config, raw: Path, budget: int) -> Shown:
    """One test image under every cipher, see :func:`over_ciphers`."""
    seen = "What still shows outlines or colours hides less; what looks like noise may be broken all the same."
    alt = "The first test image, plain and encrypted by each cipher, the name of the cipher above it."
    return _shown(over_ciphers(config, raw), budget, "one test image under every cipher", seen, alt, _WIDE)


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
