"""Colours of 16 bits, whole: Pillow has no mode for them and keeps one byte of each value, the upper one if not asked.

So a picture is decoded twice, once as what it is and once as if its bytes stood in the other order, which keeps the
lower byte of each value.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import ImageOps

from ppvit.core.errors import PpvitError

_ORDERS = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # of bytes, and the other one
_DEPTH, _PLANES = 258, 284  # tags of TIFF: bits of each sample, and whether each colour is stored for itself (2)
_WHITE = 65535


def has(image: Any) -> bool:
    """Whether a picture, whose header Pillow has read, has colours of 16 bits that :func:`values` reads.

    Those of PNG, TIFF, and PPM up to 65535 are read. Other formats say which is their highest value, as PPM may, and
    Pillow scales them from it to 8 bits.
    """
    if image.mode not in ("RGB", "RGBA") or not image.tile:
        return False
    if image.format == "PNG":
        return not getattr(image, "is_animated", False) and image.tile[0].args.endswith(";16B")
    if image.format == "TIFF":
        return bool({*image.tag_v2.get(_DEPTH, ())} == {16})
    return bool(image.format == "PPM" and image.tile[0].args == ("RGB", _WHITE))


def values(image: Any, again: Any, opaque: bool = False) -> np.ndarray:
    """The colours, transparency on white of 65535: float32, (H, W, 3).

    Args:
        image: for which :func:`has` holds.
        again: the same, opened once more.
        opaque: transparency is left aside.

    Raises:
        PpvitError: each colour is compressed for itself, which Pillow mistakes for something else.
    """
    if image.tile[0].codec_name == "libtiff" and image.tag_v2.get(_PLANES) == 2:
        raise PpvitError("it is a TIFF of compressed planes of 16 bits; save it with interleaved colours")
    premultiplied = "RGBa" in str(image.tile)
    transparent = image.info.get("transparency")  # in PNG, one colour that is
    upper, lower = _bytes(image, lower=False), _bytes(again, lower=True)
    whole = (upper.astype(np.uint16) << 8) | lower
    colours: np.ndarray = whole[..., :3].astype(np.float32)
    if opaque:
        return colours
    if whole.shape[2] == 4 and (whole[..., 3] != _WHITE).any():
        alpha = whole[..., 3:].astype(np.float32) / _WHITE
        colours = (colours if premultiplied else colours * alpha) + (1 - alpha) * _WHITE
        np.clip(np.rint(colours), 0, _WHITE, out=colours)
    elif isinstance(transparent, tuple):
        colours[(whole[..., :3] == transparent).all(axis=2)] = _WHITE
    return colours


def _bytes(image: Any, lower: bool) -> np.ndarray:
    order = {b"II": "L", b"MM": "B"}[image.tag_v2.prefix] if image.format == "TIFF" else "B"
    image.tile = [_of(tile, order, lower) for tile in image.tile]
    return np.asarray(ImageOps.exif_transpose(image))


def _of(tile: Any, order: str, lower: bool) -> Any:
    """What Pillow is told of how a piece of the picture is stored, with the order of bytes, which it may not know."""
    if tile.codec_name == "ppm":
        tile = tile._replace(codec_name="raw", args=("RGB", 0, 1))
    mode, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args
    bands, _, known = mode.replace("RGBa", "RGBA").partition(";16")
    order = known or order
    told = f"{bands};16{_ORDERS[order] if lower else order}"
    return tile._replace(args=told if isinstance(tile.args, str) else (told, *rest))
