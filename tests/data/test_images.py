"""Any user image to RGB, and PNG without compression."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ppvit.core.errors import PpvitError
from ppvit.data.decoding import decode
from ppvit.data.images import encode_png, to_square


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@given(st.integers(1, 200), st.integers(1, 200), st.booleans(), st.integers(0, 9), st.booleans())
def test_png_is_read_back_bit_exact_by_pillow(height, width, colour, seed, compress):
    shape = (height, width, 3) if colour else (height, width)
    image = np.random.default_rng(seed).integers(0, 256 >> seed % 8, shape, dtype=np.uint8)
    opened = Image.open(io.BytesIO(encode_png(image, compress)))
    opened.load()
    np.testing.assert_array_equal(np.asarray(opened), image)


def test_png_holds_a_valid_zlib_stream_with_the_right_checksum():
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    data = encode_png(image)
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    rows = zlib.decompress(data[start : start + length])  # raises on a wrong Adler-32
    assert len(rows) == 224 * (1 + 224 * 3)
    assert int.from_bytes(data[start + length : start + length + 4], "big") == zlib.crc32(
        data[start - 4 : start + length]
    )


GREY = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
def test_every_mode_becomes_rgb(mode):
    if mode == "I;16":
        image = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    elif mode == "LA":
        image = GREY.convert("RGBA").convert("LA")
    else:
        image = GREY.convert(mode)
    kind = "TIFF" if mode in ("F", "CMYK", "I") else "PNG"
    ranges = {"I": (0, 255), "F": (0, 255), "I;16": (0, 65535)}
    rgb = decode(encoded(image, kind), "x", ranges.get(mode))
    assert rgb.dtype == np.uint8
    assert rgb.shape == (16, 16, 3)
    if mode not in ("1", "P", "CMYK"):  # these quantise or convert colours
        np.testing.assert_allclose(rgb[..., 0], np.asarray(GREY), atol=1)


def test_transparency_lies_on_white_and_exif_rotation_is_applied():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (decode(encoded(clear), "x") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    assert decode(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif), "x").shape == (8, 4, 3)


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(GREY)[:40], encoded(GREY, "JPEG")[:-60]])
def test_what_cannot_be_decoded_is_named(data):
    with pytest.raises(PpvitError, match=r"^cat/3\.jpg: this image cannot be decoded"):
        decode(data, "cat/3.jpg")


@pytest.mark.parametrize("crop", ["center", "squash", "pad"])
@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (7, 7), (1, 300)])
def test_to_square_gives_the_size(crop, shape):
    image = np.full((*shape, 3), 200, np.uint8)
    square = to_square(image, 16, "bilinear", crop)
    assert square.shape == (16, 16, 3)
    if crop != "pad":
        assert (square == 200).all()
    elif shape == (40, 20):
        assert (square[:, :4] == 0).all()  # half as wide as high: a quarter of the side is black on either side
        assert (square[:, 4:12] == 200).all()


def test_center_crop_takes_the_middle():
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, 16:32] = 255
    assert (to_square(image, 16, "nearest", "center") == 255).all()
