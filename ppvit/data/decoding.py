"""Pictures of any kind as their files hold them, and as the 8-bit RGB that ciphers and models take.

One rule for a data set, never one by picture: 8-bit pictures stay as they are, and those above 8 bits all take the same
range of values to 0..255. The range is given (``encrypt.value_range``, ``encrypt.window``) or found over the
training images by `download`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import UnidentifiedImageError

from ppvit.core.errors import PpvitError, brief
from ppvit.data import dicom, rasters
from ppvit.data.decoded import PIXELS, Decoded

__all__ = [
    "IMAGE_EXTENSIONS",
    "PIXELS",
    "START_BYTES",
    "Decoded",
    "brought",
    "decode",
    "decoded",
    "extension_by_start",
    "extension_of",
    "has_no_ending",
    "image_extension",
    "is_lossy",
    "is_noise",
    "pixels",
    "reason",
    "size_of",
    "to_rgb",
]

# format, by Pillow's name, and its endings; under the first of them the bytes are kept
_FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "AVIF": ("avif", "avifs"),
    "HEIF": ("heic", "heif", "hif"),  # by pillow-heif
    "JPEG2000": ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
    "TIFF": ("tif", "tiff"),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "DIB": ("dib",),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "TGA": ("tga", "icb", "vda", "vst"),
    "QOI": ("qoi",),
    "DDS": ("dds",),
    "BLP": ("blp",),
    "FTEX": ("ftc", "ftu"),
    "GBR": ("gbr",),
    "ICO": ("ico",),
    "ICNS": ("icns",),
    "CUR": ("cur",),
    "PCX": ("pcx",),
    "DCX": ("dcx",),
    "FLI": ("fli", "flc"),
    "SGI": ("sgi", "bw", "rgb", "rgba"),
    "SUN": ("ras",),
    "XBM": ("xbm",),
    "XPM": ("xpm",),
    "MSP": ("msp",),
    "PIXAR": ("pxr",),
    "DICOM": ("dcm", "dicom", "dic", "ima"),  # by pydicom
}
_BY_OTHERS = ("HEIF", "DICOM")  # than Pillow
_UNMARKED = ("TGA", "GBR")  # nothing at the beginning of a file tells
_APART = ("PPM",)  # its endings tell what is in the file, and are kept
_STARTS = (  # where a file without an ending says what it is; short marks, which others begin with too, are left out
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"\0\0\0\x0cjP  ", "JPEG2000"),
    *((0, mark, "TIFF") for mark in rasters.TIFF),
    *((4, b"ftyp" + brand, "HEIF") for brand in (b"heic", b"heix", b"mif1")),
    (4, b"ftypavif", "AVIF"),
)
START_BYTES = dicom.PREAMBLE + 4  # of a file, that tell its kind
IMAGE_EXTENSIONS = {
    ending: ending if kind in _APART else endings[0] for kind, endings in _FORMATS.items() for ending in endings
}
"""file extension, lower case -> the extension under which the bytes are kept; the one table of what is an image"""


def image_extension(name: str) -> str | None:
    """The extension under which a file's bytes are kept, if its name is that of an image, else None."""
    return IMAGE_EXTENSIONS.get(_ending(name)) if "." in name else None


def has_no_ending(name: str) -> bool:
    """Whether a file's name says nothing of its kind, as ``IM0001``, ``IM.1`` and ``1.2.840.113619`` of DICOM do."""
    _, dot, ending = name.rpartition(".")
    return not dot or ending.isdigit()


def extension_by_start(start: bytes) -> str | None:
    """The extension of a JPEG, PNG, WebP, TIFF, GIF, JPEG 2000, AVIF, HEIC or DICOM file by its first bytes, else None.

    Args:
        start: the first ``START_BYTES``.
    """
    if dicom.is_dicom(start):
        return _FORMATS["DICOM"][0]
    return next((_FORMATS[kind][0] for at, mark, kind in _STARTS if start[at : at + len(mark)] == mark), None)


def extension_of(data: bytes, name: str = "") -> str:
    """The extension under which an encoded image is kept, by its first bytes, else by its name, else that of a PNG."""
    if dicom.is_dicom(data):
        return _FORMATS["DICOM"][0]
    try:
        with rasters.opened(data, _formats(None)) as image:
            kind = str(image.format)
    except Exception:  # readers name none of those that a damaged header ends in; who decodes it says what is wrong
        return image_extension(name) or "png"
    return next(endings[0] for of, endings in _FORMATS.items() if kind == of or kind.lower() in endings)


def is_noise(parts: Sequence[str]) -> bool:
    """Whether a path is of what macOS, Windows and DICOM media have in folders and archives beside the user's files.

    Args:
        parts: of the path, its folders first.
    """
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1].lower() in _LEFT_BEHIND


_LEFT_BEHIND = (".ds_store", "thumbs.db", "desktop.ini", "dicomdir")


def size_of(data: bytes, extension: str | None = None) -> tuple[int, int]:
    """Width and height of an encoded image as its header says, before EXIF turns it; no pixels are decoded.

    Pillow would take bytes for anything; so it is asked for the formats that begin in a way of their own, and for TGA,
    which does not, only where the extension says so.

    Raises:
        UnidentifiedImageError: it is of no kind that is read.
        PpvitError: what would read it is not installed.
        ValueError: it has more than 2^28 pixels.
        Exception: whatever readers stumble over in a damaged header.
    """
    if dicom.is_dicom(data):
        return dicom.size_of(data)
    with rasters.opened(data, _formats(extension)) as image:
        return int(image.width), int(image.height)


def is_lossy(data: bytes) -> bool:
    """Whether an encoded image, of which :func:`size_of` is known, was stored with loss, as JPEG is."""
    return not dicom.is_dicom(data) and rasters.is_lossy(data)


def _formats(extension: str | None) -> list[str]:
    named = [kind for kind in _UNMARKED if extension in _FORMATS[kind]]
    return [kind for kind in _FORMATS if kind not in (*_BY_OTHERS, *_UNMARKED)] + named


def reason(error: Exception, data: bytes) -> str:
    """Why an image of these bytes was not read, in a few words, from whatever its reader raised."""
    if not data:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        start = data[:200].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        return next((what for mark, what in _OTHERS.items() if start.startswith(mark)), "of no kind that is read")
    return brief(error)


_OTHERS = {  # what stands in files in the place of images, by their first letters
    b"version https://git-lfs": "a pointer of Git LFS, not the file: git lfs pull fetches it",
    b"<!doctype html": "a web page, as a failed download leaves it",
    b"<html": "a web page, as a failed download leaves it",
    b"<svg": "SVG, which is not drawn",
    b"<?xml": "XML, perhaps SVG, which is not drawn",
    b"%pdf": "PDF, of which pages are not drawn",
    b"\x93numpy": "a NumPy array",
    b"pk\x03\x04": "a zip archive",
}


def pixels(data: bytes, where: str, frames: str = "error", extension: str | None = None) -> np.ndarray:
    """Decode an encoded image: as a person sees it, or the values themselves where they have more than 8 bits.

    Args:
        data: the file's bytes, of any format in ``IMAGE_EXTENSIONS``.
        where: the file's name for the error.
        frames: which picture is taken of several pages or an animation: ``first``, ``middle``, ``last``, or none
            (``error``).
        extension: of the file; by default that of ``where``. Only formats that cannot be told by their first bytes,
            such as TGA, need it.

    Returns:
        uint8, (H, W, 3): rotated as EXIF says, transparency on white. Or float32 or float64, (H, W) grey or (H, W, 3)
        colours: values before any range is applied, finite but for padding, see :class:`Decoded`.

    Raises:
        MissingPackage: what would read it is not installed.
        PpvitError: not an image, truncated, larger than 2^28 pixels, several frames, or not all values are finite.
    """
    return decoded(data, where, frames, extension).values


def decoded(
    data: bytes, where: str, frames: str = "error", extension: str | None = None, opaque: bool = False
) -> Decoded:
    """The same as :func:`pixels`, and whether grey values above 8 bits are inverted; ``opaque``: as if all were."""
    try:
        if dicom.is_dicom(data):
            return dicom.read(data, frames)
        return rasters.read(data, _formats(extension or _ending(where)), frames, opaque)
    except PpvitError as error:
        raise type(error)(f"{where}: {error}") from None
    except MemoryError:  # which says nothing of the file
        raise
    except Exception as error:  # readers name none of those that a damaged file ends in
        raise PpvitError(
            f"{where}: this image cannot be decoded ({reason(error, data)}); replace or remove it"
        ) from None


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()


def to_rgb(values: np.ndarray, value_range: Sequence[float] | None, inverted: bool = False) -> np.ndarray:
    """Bring what :func:`pixels` gives to 8 bits: linear from ``value_range`` to 0..255, clipped.

    Args:
        values: uint8, (H, W, 3), which are returned as they are, or float, (H, W) or (H, W, 3).
        value_range: lowest and highest value that is told apart, of the whole data set and all its colours; None where
            there are none above 8 bits.
        inverted: whether low values are white.

    Returns:
        uint8, (H, W, 3).

    Raises:
        PpvitError: ``value_range`` is missing, or has no width.
    """
    if values.dtype == np.uint8:
        return values
    if value_range is None:
        raise PpvitError(
            "its values have more than 8 bits; set encrypt.value_range to the lowest and the highest, or save it with 8"
        )
    low, high = value_range
    if not low < high:
        raise PpvitError(f"no range from {low:g} to {high:g}; set encrypt.value_range to the lowest and the highest")
    with np.errstate(over="ignore"):  # a range beyond half of what float32 holds; clipped below
        scaled = (np.clip(values, low, high) - low) * (255 / (high - low))
    eight = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    eight = 255 - eight if inverted else eight
    return eight if eight.ndim == 3 else np.repeat(eight[..., None], 3, axis=-1)


def decode(
    data: bytes,
    where: str,
    value_range: Sequence[float] | None = None,
    frames: str = "error",
    extension: str | None = None,
) -> np.ndarray:
    """Decode an encoded image to RGB; arguments: see :func:`pixels` and :func:`to_rgb`.

    Returns:
        uint8, (H, W, 3).

    Raises:
        PpvitError: see there; names ``where``.
    """
    return brought(decoded(data, where, frames, extension), where, value_range)


def brought(found: Decoded, where: str, value_range: Sequence[float] | None) -> np.ndarray:
    """The same of what :func:`decoded` gave."""
    try:
        return to_rgb(found.values, value_range, found.inverted)
    except PpvitError as error:
        raise PpvitError(f"{where}: {error}") from None
