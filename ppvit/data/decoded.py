"""What decoders of all kinds share: what they give, how much they take on, and which frame is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppvit.core.errors import PpvitError

PIXELS = 2**28  # of an image, at most; decoding one takes up to 2 GiB, with transparency 4, of deep colours 12


@dataclass(frozen=True)
class Decoded:
    """A picture as its file holds it.

    Attributes:
        values: uint8, (H, W, 3), or values above 8 bits, float32 or float64, (H, W) grey or (H, W, 3) colours. What a
            file calls padding is infinite, so that any range makes it black.
        inverted: whether low values are white, as in DICOM's MONOCHROME1 and TIFF's WhiteIsZero; of grey values above
            8 bits only, since inverting comes after the range (DICOM PS3.3, C.7.6.3.1.2).
    """

    values: np.ndarray
    inverted: bool = False

    @property
    def extremes(self) -> tuple[float, float] | None:
        """The lowest and highest value that is no padding; None of 8 bits."""
        return None if self.values.dtype == np.uint8 else finite_extremes(self.values)


def is_narrow(extremes: Sequence[float], value_range: Sequence[float]) -> bool:
    """Whether of a picture fewer than 16 of 256 levels would be left, as where its values are on another scale.

    Args:
        extremes: of the picture, see :attr:`Decoded.extremes`.
        value_range: that becomes 0..255.
    """
    low, high = value_range
    return (min(extremes[1], high) - max(extremes[0], low)) * 16 < high - low


def finite_extremes(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest of the finite values, of which there is at least one."""
    finite = np.isfinite(values)
    return float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))


def require_finite(values: np.ndarray) -> None:
    """Refuse a picture of which some values are missing.

    Raises:
        PpvitError: NaN or infinite ones.
    """
    if not np.isfinite(values).all():
        raise PpvitError("some of its values are not finite (NaN or infinite); replace or remove it")


def require_size(width: int, height: int) -> None:
    """Refuse what a header promises before memory is taken for it.

    Raises:
        ValueError: no pixels, or more than 2^28.
    """
    if width < 1 or height < 1:
        raise ValueError("it has no pixels")
    if width * height > PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {PIXELS:,}")


def chosen_frame(count: int, frames: str) -> int:
    """Which of ``count`` frames is meant.

    Args:
        count: at least 1.
        frames: value of ``dataset.frames``.

    Raises:
        PpvitError: there are several, and none is to be chosen.
    """
    if count < 1:
        raise ValueError("it holds no frames")
    if count > 1 and frames == "error":
        raise PpvitError("it holds several frames; set dataset.frames to first, middle or last, or keep the one meant")
    return {"error": 0, "first": 0, "middle": (count - 1) // 2, "last": count - 1}[frames]
