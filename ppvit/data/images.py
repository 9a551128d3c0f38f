"""Pictures at the model's size, and their lossless storage; for decoding those of users see ``decoding``."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from ppvit.core.errors import PpvitError, brief
from ppvit.data import npy

_WORTH_IT = 0.95  # of the size without compression: reading takes six times as long with it
_PNG = b"\x89PNG\r\n\x1a\n"  # with which every PNG begins


def to_square(image: np.ndarray, size: int, resize_filter: str = "bicubic", crop: str = "center") -> np.ndarray:
    """Bring an image to ``size`` x ``size``.

    Args:
        image: uint8, (H, W, 3).
        size: side in pixels.
        resize_filter: nearest, box, bilinear, bicubic or lanczos.
        crop: ``center`` (shorter side to ``size``, middle cut out), ``squash`` (aspect ratio given up) or ``pad``
            (longer side to ``size``, black bars).

    Returns:
        uint8, (size, size, 3).
    """
    if image.shape[:2] == (size, size):
        return image
    method = Image.Resampling[resize_filter.upper()]
    picture = Image.fromarray(image)
    if crop == "center":
        picture = ImageOps.fit(picture, (size, size), method)
    elif crop == "pad":
        if max(picture.size) > 2 * size * min(picture.size):  # half a pixel would be left, which Pillow 12 refuses
            picture = picture.resize((size, 1) if picture.width > picture.height else (1, size), method)
        picture = ImageOps.pad(picture, (size, size), method)
    else:
        picture = picture.resize((size, size), method)
    return np.asarray(picture)


def encode_png(image: np.ndarray, compress: bool = False) -> bytes:
    """Encode as PNG; without compression the same bytes on every machine.

    Most ciphertext does not compress, and Pillow's own encoder takes 25 times as long for the same size even at
    level 0 (it tries filters); any PNG reader opens the result. See ``benchmarks/shard_format.py``.

    Args:
        image: uint8, (H, W, 3) or (H, W).
        compress: zlib's level 1 on the difference to the row above, whose bytes depend on the version of zlib; an
            image that gains less than a twentieth is stored as without.
    """
    height, width = image.shape[:2]
    rows = np.zeros((height, 1 + image.size // height), np.uint8)  # a leading 0: no filter
    rows[:, 1:] = image.reshape(height, -1)
    data = _stored(rows.tobytes())
    if compress:
        rows[1:, 1:] -= rows[:-1, 1:].copy()
        rows[:, 0] = 2  # filter "up"
        packed = zlib.compress(rows.tobytes(), 1)
        data = packed if len(packed) < _WORTH_IT * len(data) else data
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))


def _stored(data: bytes) -> bytes:
    # a zlib stream of stored blocks (RFC 1950, RFC 1951 section 3.2.4); zlib's own level 0 differs between versions
    parts = [b"\x78\x01"]
    for start in range(0, len(data), 65535):
        block = data[start : start + 65535]
        last = start + 65535 >= len(data)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack(">I", zlib.adler32(data)))
    return b"".join(parts)


def encode_array(array: np.ndarray, compress: bool = False) -> tuple[str, bytes]:
    """Store one image's ciphertext: (file extension, content).

    Args:
        array: uint8 (H, W, 3), as PNG, or of any other dtype or shape, in NumPy's own format.
        compress: see :func:`encode_png`; other formats are never compressed, and the same bytes on every machine.
    """
    if array.dtype == np.uint8 and array.ndim == 3:
        return "png", encode_png(array, compress)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return "npy", buffer.getvalue()


def decode_array(data: bytes, where: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The inverse of :func:`encode_array`; nothing is decoded before its header says what is expected.

    Args:
        data: the content.
        where: its place, for the error.
        shape, dtype: that it must have.

    Returns:
        The array, not to be written to.

    Raises:
        PpvitError: it is no such image or array, or ends early; nothing is ever unpickled.
    """
    try:
        as_png = dtype == np.uint8 and len(shape) == 3
        return _png_pixels(data, shape) if as_png else npy.array_of(data, shape, dtype)
    except Exception as error:  # see decode
        raise PpvitError(
            f"{where}: this ciphertext cannot be read ({brief(error)}); make it again: dvc repro encrypt"
        ) from None


def _png_pixels(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    width, height, depth, colours = struct.unpack(">IIBB", data[16:26].ljust(10, b"\0"))
    if data[:8] != _PNG or data[12:16] != b"IHDR" or (depth, colours) != (8, 2):
        raise ValueError("no PNG of 8-bit colours")
    if (height, width, 3) != shape:
        raise ValueError(f"its shape is {(height, width, 3)}, the manifest says {shape}")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if (image.height, image.width, image.mode) != (height, width, "RGB"):  # a second header
            raise ValueError("it has two headers")
        return np.asarray(image)


def displayable(ciphertext: np.ndarray) -> np.ndarray:
    """Any ciphertext as pictures: uint8, (n, H, W, 3).

    Args:
        ciphertext: uint8 or float (n, H, W, 3), clipped, or tokens (n, N, T), drawn as a grey square of numbers.
    """
    if ciphertext.dtype == np.uint8:
        return ciphertext
    if ciphertext.ndim == 4:
        return np.clip(np.round(ciphertext.astype(np.float32)), 0, 255).astype(np.uint8)
    count = len(ciphertext)
    numbers = ciphertext.reshape(count, -1).astype(np.float32)
    side = int(numbers.shape[1] ** 0.5)
    square = 127.5 + 42.5 * numbers[:, : side * side].reshape(count, side, side) / numbers.std()  # 3 deviations shown
    return np.repeat(np.clip(square, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
