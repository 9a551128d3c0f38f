"""TIFF of the kinds that Pillow does not know and scientific programs write, by tifffile.

Floating point of 16 and 64 bits, whole numbers of 64, and colours in any of them; uncompressed, since tifffile would
decompress whatever its size.
"""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np

from ppvit.data.decoded import Decoded, chosen_frame, require_finite, require_size

# what it remarks of damaged tags: what cannot be decoded is an error anyway
logging.getLogger("tifffile").addHandler(logging.NullHandler())
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _COLOURS = 0, 1, 2  # photometric interpretations
_NO_PAGE = 1 | 4  # bits of NewSubfileType: a smaller copy of a page, or its transparency
_ORIENTATION = 274


def read(data: bytes, frames: str) -> Decoded:
    """Decode one page: float32 or float64, (H, W) grey or (H, W, 3) colours.

    Args:
        data: the file's bytes.
        frames: see :func:`ppvit.data.decoding.pixels`.

    Raises:
        PpvitError: several pages and none chosen, or values that are not finite.
        Exception: whatever tifffile stumbles over; ValueError where it is of another kind.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        found: list[Any] = list(file.pages)
        pages = [page for page in found if not page.subfiletype & _NO_PAGE]
        page = pages[chosen_frame(len(pages), frames)]
        require_size(page.imagewidth, page.imagelength)
        _require_read(page)
        stored = page.asarray()
    values = stored.reshape(page.imagelength, page.imagewidth) if page.samplesperpixel == 1 else _last(stored)
    floats = values.astype(np.float32 if np.can_cast(values.dtype, np.float32) else np.float64)
    require_finite(floats)
    return Decoded(floats, page.photometric == _WHITE_IS_ZERO)


def _require_read(page: Any) -> None:
    """Refuse what is not read, before memory is taken for its values."""
    kind = f"{page.dtype or 'unknown values'}, {page.samplesperpixel} of them a pixel"
    bands = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _COLOURS: 3}.get(page.photometric)
    if bands != page.samplesperpixel or page.imagedepth != 1 or page.dtype is None or page.dtype.kind not in "fiu":
        raise ValueError(f"a TIFF of {kind}; grey and RGB are read")
    if page.compression != 1:
        raise ValueError(f"a compressed TIFF of {kind}, which is read uncompressed only")
    if _ORIENTATION in page.tags and page.tags[_ORIENTATION].value != 1:
        raise ValueError(f"a TIFF of {kind} that is to be turned")


def _last(stored: np.ndarray) -> np.ndarray:
    """With colours last, where they are stored one after the other."""
    return stored if stored.shape[-1] == 3 else np.moveaxis(stored, 0, -1)
