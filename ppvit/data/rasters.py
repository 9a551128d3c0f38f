"""Pictures by Pillow, and HEIC by pillow-heif: their headers, one of their frames, and its colours or grey values."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ppvit.core.errors import MissingPackage, PpvitError
from ppvit.data import deep_colours, other_tiff
from ppvit.data.decoded import PIXELS, Decoded, chosen_frame, require_finite, require_size

# what Pillow remarks of damaged tags: what cannot be decoded is an error anyway
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
Image.MAX_IMAGE_PIXELS = PIXELS // 2  # Pillow refuses twice that, also of pictures inside others, as icons have them

_PNG_DEPTH, _PNG_COLOURS = 24, 25  # where a PNG says them
_GREY_WITH_ALPHA = 4
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
TIFF = (b"II*\0", b"MM\0*")  # with which they begin
_REDUCED, _MASK = 1, 4  # bits of TIFF's NewSubfileType: not a page but a smaller copy of one, or its transparency
_SUBFILE, _PHOTOMETRIC, _SAMPLE_FORMAT = 254, 262, 339  # tags of TIFF


def opened(data: bytes, formats: list[str]) -> Any:
    """An encoded image of which nothing but the header has been read: a Pillow image.

    Args:
        data: the file's bytes.
        formats: Pillow's names of those that it may be of.

    Raises:
        UnidentifiedImageError: it is of no such kind.
        MissingPackage: it is HEIC, and pillow-heif is not installed.
        ValueError: it has more than 2^28 pixels.
        Exception: whatever readers stumble over in a damaged header.
    """
    try:
        image: Any = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        promised = re.findall(r"\d+", str(error))[:1]
        raise ValueError(f"{' '.join(promised)} pixels are more than {PIXELS:,}") from None
    except UnidentifiedImageError:
        if data[4:8] != b"ftyp":
            raise
        image = _heif(data)
    require_size(*image.size)
    if image.format == "PNG" and data[_PNG_DEPTH : _PNG_COLOURS + 1] == bytes([16, _GREY_WITH_ALPHA]):
        raise PpvitError(
            "it is grey of 16 bits with transparency, of which half the bits would be lost; save it without"
        )
    if image.format == "TGA" and not image.tile:
        raise ValueError(f"a TGA file of {data[16]} bits a pixel")
    return image


def is_lossy(data: bytes) -> bool:
    """Whether a file of a kind that is read is JPEG, lossy WebP, AVIF or HEIC, by its first bytes."""
    return data[:2] == b"\xff\xd8" or data[4:8] == b"ftyp" or (data[8:12] == b"WEBP" and b"VP8L" not in data)


def _heif(data: bytes) -> Any:
    try:
        import pillow_heif
    except ImportError:
        if data[8:12] not in _HEIF_BRANDS:  # a film, such as MP4, begins like HEIC
            raise UnidentifiedImageError from None
        raise MissingPackage("it is HEIC, which needs pillow-heif; install it: pip install 'ppvit[heic]'") from None
    try:
        return pillow_heif.HeifImageFile(io.BytesIO(data))
    except SyntaxError as error:
        raise ValueError(str(error)) from None


def read(data: bytes, formats: list[str], frames: str, opaque: bool = False) -> Decoded:
    """Decode an image; arguments and errors: see :func:`opened` and :func:`ppvit.data.decoding.decoded`."""
    try:
        opened_image = opened(data, formats)
    except UnidentifiedImageError:
        if data[:4] in TIFF:
            return other_tiff.read(data, frames)
        raise
    with opened_image as image:
        _seek(image, frames)
        require_size(*image.size)  # a later page may be of another size
        if image.mode == "F" or image.mode.startswith("I"):
            return _grey(image)
        if image.mode == "L" and image.format == "TIFF" and image.tag_v2.get(_SAMPLE_FORMAT) == (2,):
            signed = np.asarray(ImageOps.exif_transpose(image)).view(np.int8)  # which Pillow takes for unsigned
            return Decoded(signed.astype(np.float32), image.tag_v2.get(_PHOTOMETRIC) == 0)
        if deep_colours.has(image):
            with opened(data, formats) as again:
                _seek(again, frames)
                return Decoded(deep_colours.values(image, again, opaque))
        if image.format == "TGA" and image.mode == "RGBA" and not data[17] & 15:
            image = image.convert("RGB")  # it says that it has no alpha; the fourth byte is anything
        return Decoded(np.asarray(_rgb(ImageOps.exif_transpose(image), opaque)))


def _seek(image: Any, frames: str) -> None:
    # the first picture of a multi-picture JPEG is the photograph, the others a preview, a depth map, a gain map
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return
    if image.format == "TIFF":
        pages = [*islice(_pages(image), 2 if frames == "error" else None)] or [0]  # two are enough to refuse it
        image.seek(pages[chosen_frame(len(pages), frames)])
    else:
        image.seek(chosen_frame(2 if frames == "error" else image.n_frames, frames))


def _pages(image: Any) -> Iterator[int]:
    for number in count():
        try:
            image.seek(number)
        except EOFError:
            return
        if not image.tag_v2.get(_SUBFILE, 0) & (_REDUCED | _MASK):
            yield number


def _grey(image: Any) -> Decoded:
    """Grey values above 8 bits as they are."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    inverted = tags.get(_PHOTOMETRIC) == 0  # Pillow turns WhiteIsZero round in 8 bits only
    mode = image.mode
    values = np.asarray(ImageOps.exif_transpose(image))
    require_finite(values)
    if mode == "I":
        unsigned = image.format == "TIFF" and tags.get(_SAMPLE_FORMAT, (1,)) == (1,)
        return Decoded((values.view(np.uint32) if unsigned else values).astype(np.float64), inverted)
    return Decoded(values.astype(np.float32), inverted)


def _rgb(image: Any, opaque: bool = False) -> Any:
    if image.mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if opaque:
            return rgba.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
