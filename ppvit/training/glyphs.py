"""Random pictures of printed letters and digits, for pretraining without any data set.

Every glyph of every font is drawn once with Pillow and kept as a field of signed distances (a pool). A batch is then
made in torch alone: a threshold on the distance sets the stroke width, an affine and an elastic map bend the glyph,
and two matrix products blur it the way an image of 8 to 24 pixels looks once it is enlarged to 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor

# One text a class. Every glyph is scaled to the same height below, so what differs by size or baseline only is one
# class (c and C, p and P), and so are bars (1, I, l), which handwriting does not tell apart either.
CLASSES = (
    "1Il", "2", "3", "4", "5", "6", "7", "8", "9", "0oO", "a", "A", "b", "B", "cC", "d", "D", "e", "E", "f", "F", "g",
    "G", "h", "H", "i", "j", "J", "kK", "L", "m", "M", "n", "N", "pP", "q", "Q", "r", "R", "sS", "t", "T", "uU", "vV",
    "wW", "xX", "yY", "zZ",
)  # fmt: skip
# The text fonts in matplotlib's package. Left out: its symbol fonts, which draw boxes or nothing for most letters.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono",
    "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "STIXGeneralBolIta", "cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10",
)  # fmt: skip

SIZE = 32  # side of the pictures in pixels
FIELD = 64  # side of a distance field
INK = 44  # the larger side of a glyph in its field; the rest is room for thicker strokes


@dataclass(frozen=True)
class Pool:
    """Glyphs as fields of signed distances, in two styles: the font's own outline, and a pen along its middle line."""

    distances: Tensor
    """float32 [glyphs, 1, 64, 64], in field pixels, positive inside the ink"""
    thresholds: Tensor
    """float32 [glyphs, 2], lowest and highest distance at which the glyph may be cut: thickest and thinnest stroke"""
    labels: Tensor
    """int64 [glyphs], index in CLASSES"""


@cache
def pool() -> Pool:
    """All glyphs of CLASSES in all FONTS; takes about three seconds, once a process."""
    characters = [(label, character) for label, text in enumerate(CLASSES) for character in text]
    masks = np.stack([glyph_mask(character, font) for font in FONTS for _, character in characters])
    outline = np.stack([_signed_distance(mask) for mask in masks])
    middle_line = np.stack([-ndimage.distance_transform_edt(~line) for line in thin(masks)])
    thinnest = np.array([0.8 * _stroke_half_width(distance) for distance in outline])
    thresholds = np.concatenate(
        [np.stack([np.full_like(thinnest, -2.5), thinnest], 1), np.tile([-5.0, -1.2], (len(masks), 1))]
    )
    labels = torch.tensor([label for label, _ in characters]).repeat(2 * len(FONTS))
    distances = torch.from_numpy(np.concatenate([outline, middle_line])).float()[:, None]
    return Pool(distances, torch.from_numpy(thresholds).float(), labels)


def glyph_mask(character: str, font: str) -> NDArray[np.bool_]:
    """The ink of a character, bool [64, 64], centred, its larger side 44 pixels whatever the font's proportions."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    canvas = Image.new("L", (512, 512))
    ImageDraw.Draw(canvas).text((256, 256), character, fill=255, font=ImageFont.truetype(path, 256), anchor="mm")
    ink = canvas.crop(canvas.getbbox())
    scale = INK / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    field = Image.new("L", (FIELD, FIELD))
    field.paste(ink.resize((width, height), Image.Resampling.BOX), ((FIELD - width) // 2, (FIELD - height) // 2))
    return np.asarray(field) > 127


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return distance


def _stroke_half_width(distance: NDArray[np.float64]) -> float:
    """Half the width of the thin strokes: a low quantile of the distance along its own ridges, in field pixels."""
    ridge = (distance > 0) & (distance == ndimage.maximum_filter(distance, 3))
    return float(np.quantile(distance[ridge], 0.1))


def thin(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Middle lines of shapes, one pixel wide (Zhang and Suen 1984, "A fast parallel algorithm for thinning").

    Args:
        masks: bool [n, side, side], with an empty border.
    """
    masks = masks.copy()
    changed = True
    while changed:
        changed = False
        for first_pass in (True, False):
            # The eight neighbours, clockwise from north: P2 to P9 of the paper.
            shifts = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
            around = np.stack([np.roll(masks, (-row, -column), (1, 2)) for row, column in shifts])
            north, east, south, west = around[0], around[2], around[4], around[6]
            neighbours = around.sum(0)
            rises = (~around & np.roll(around, -1, 0)).sum(0)
            corner = (east & south & (north | west)) if first_pass else (north & west & (east | south))
            removed = masks & (neighbours >= 2) & (neighbours <= 6) & (rises == 1) & ~corner
            masks &= ~removed
            changed |= bool(removed.any())
    return masks


def render(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw random glyphs.

    Args:
        count: how many.
        generator: on the CPU; the same state gives the same pictures.

    Returns:
        Pictures, uint8 [count, 3, 32, 32], and labels, int64 [count], each the index of its text in CLASSES.
    """
    glyphs = pool()
    # The class first: classes of several characters are not more frequent than the others.
    wanted = torch.randint(len(CLASSES), (count,), generator=generator)
    scores = torch.rand(count, len(glyphs.labels), generator=generator)
    chosen = scores.masked_fill(wanted[:, None] != glyphs.labels, -1).argmax(1)  # [count]
    grid, pixel = _deformation(count, generator)
    distance = F.grid_sample(glyphs.distances[chosen], grid, padding_mode="border", align_corners=False)[:, 0]
    thickest, thinnest = glyphs.thresholds[chosen].unbind(1)
    threshold = thickest + (thinnest - thickest) * torch.rand(count, generator=generator)
    ink = ((distance - threshold[:, None, None]) / pixel[:, None, None] + 0.5).clamp(0, 1)  # [count, 32, 32]
    blur = _blurs()[torch.randint(len(_blurs()), (count,), generator=generator)]
    ink = (blur @ ink @ blur.mT).clamp(0, 1)
    return _colour(ink, generator), wanted


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _deformation(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sampling grids [count, 32, 32, 2] for grid_sample, and how many field pixels a picture's pixel spans, [count]."""
    height = _uniform(0.7, 1.0, count, generator)  # of the glyph, as a share of the picture
    width = height * torch.exp(_uniform(-0.4, 0.3, count, generator))
    angle = _uniform(-0.25, 0.25, count, generator)  # radians
    shear = _uniform(-0.45, 0.45, count, generator)
    # From picture to field: rotation, shear and scale undone; a field is larger than its ink.
    unit = INK / FIELD
    cosine, sine = angle.cos(), angle.sin()
    across = torch.stack([cosine + shear * sine, -sine + shear * cosine], 1) * (unit / width)[:, None]
    down = torch.stack([sine, cosine], 1) * (unit / height)[:, None]
    room = (1 - height).clamp(min=0) * 0.5 + 0.05
    shift = (2 * torch.rand(count, 2, generator=generator) - 1) * room[:, None]
    matrix = torch.stack([across, down], 1)  # [count, 2, 2]
    offset = -(matrix @ shift[:, :, None])
    grid = F.affine_grid(torch.cat([matrix, offset], 2), [count, 1, SIZE, SIZE], align_corners=False)
    strength = _uniform(0.0, 0.09, count, generator)[:, None, None, None]
    wobble = strength * torch.randn(count, 2, 4, 4, generator=generator)
    wobble = F.interpolate(wobble, (SIZE, SIZE), mode="bicubic", align_corners=True)
    pixel = INK / SIZE / (height * width).sqrt()
    return grid + wobble.permute(0, 2, 3, 1), pixel


@cache
def _blurs() -> Tensor:
    """Matrices [21, 32, 32] that shrink a column of pixels to 8, 9 ... 24 and enlarge it again.

    Four of them average whole blocks of 4 pixels, as scikit-learn's digits were made from scans of 32 x 32.
    """

    def matrix(side: int, **shrink: Any) -> Tensor:
        small = F.interpolate(torch.eye(SIZE)[None, None], (side, SIZE), **shrink)
        return F.interpolate(small, (SIZE, SIZE), mode="bicubic", antialias=True)[0, 0]  # what Pillow computes

    scans = [matrix(8, mode="area")] * 4
    return torch.stack(scans + [matrix(side, mode="bilinear", antialias=True) for side in range(8, 25)])


def _colour(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Ink [count, 32, 32] in 0..1 to pictures: mostly grey and bright on dark, some inverted, some in two colours."""
    count = len(ink)
    paper = _uniform(0.0, 0.25, count, generator) * (torch.rand(count, generator=generator) < 0.3)
    pen = _uniform(0.7, 1.0, count, generator)
    shades = torch.stack([paper, pen], 1)[:, :, None].expand(-1, -1, 3)  # [count, paper and pen, channels]
    inverted = torch.rand(count, generator=generator) < 0.1
    shades = torch.where(inverted[:, None, None], 1 - shades, shades)
    coloured = torch.rand(count, generator=generator) < 0.1
    tint = 0.5 * torch.rand(count, 2, 3, generator=generator) * torch.tensor([1.0, -1.0])[:, None]
    shades = torch.where(coloured[:, None, None], shades + tint, shades)
    paper, pen = shades.unbind(1)  # [count, 3] each
    picture = paper[:, :, None, None] + (pen - paper)[:, :, None, None] * ink[:, None]
    noise = torch.randn(count, 1, SIZE, SIZE, generator=generator)
    picture = picture + _uniform(0.0, 0.03, count, generator)[:, None, None, None] * noise
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)
