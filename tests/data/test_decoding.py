"""Pictures of every kind: the same pixels whatever the format, one range for grey values above 8 bits, no surprises."""

import io
import struct
import zlib
from types import MappingProxyType

import numpy as np
import pillow_heif
import pytest
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from ppvit.core.errors import PpvitError
from ppvit.data import decoding, rasters
from ppvit.data.decoding import IMAGE_EXTENSIONS, decode, decoded, is_noise, pixels, size_of, to_rgb

RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY = RGB[..., 0]

# endings that Pillow knows and this project leaves out: docs/own_data.md says why
LEFT_OUT = {
    *("eps", "ps", "wmf", "emf", "psd", "pdf", "palm", "mpg", "mpeg", "bufr", "grib", "h5", "hdf"),
    *("fit", "fits", "pcd", "im", "iim"),
}


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def refused(*arguments, **options):
    with pytest.raises(PpvitError) as caught:
        decode(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def require_pixels_or_a_line(data, name, value_range):
    """What is damaged is read all the same, or refused with its name in one line."""
    try:
        found = decode(data, name, value_range, "last")
    except PpvitError as error:
        found = str(error)
    if isinstance(found, str):
        assert found.startswith(f"{name}: ")
        assert "\n" not in found
    else:
        assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)


def test_every_ending_that_pillow_opens_is_in_the_table_or_left_out_for_a_reason():
    Image.init()
    # pillow-heif adds its own where another library has it do so
    known = {ending.removeprefix(".") for ending, kind in Image.registered_extensions().items() if kind != "HEIF"}
    by_others = {"heic", "heif", "hif", "dcm", "dicom", "dic", "ima"}
    assert set(IMAGE_EXTENSIONS) == (known - LEFT_OUT) | by_others
    assert not set(IMAGE_EXTENSIONS) & LEFT_OUT
    assert known >= LEFT_OUT
    for kept in set(IMAGE_EXTENSIONS.values()):  # under which bytes are kept: itself an ending, and of a tar member
        assert IMAGE_EXTENSIONS[kept] == kept
        assert kept.isalnum()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("PNG", "a.png"), ("PNG", "a.jpg"), ("BMP", "a.bmp"), ("DIB", "a.dib"), ("GIF", "a.gif"), ("PPM", "a.ppm")),
        *(("TIFF", "a.tif"), ("TGA", "a.tga"), ("TGA", "a.VST"), ("QOI", "a.qoi"), ("DDS", "a.dds"), ("ICO", "a.ico")),
        *(("PCX", "a.pcx"), ("SGI", "a.rgb"), ("JPEG2000", "a.jp2"), ("JPEG2000", "a.j2k"), ("BLP", "a.blp")),
    ],
)
def test_every_lossless_format_gives_the_same_pixels(kind, name):
    image = Image.fromarray(RGB)
    if kind in ("GIF", "BLP"):  # of 256 colours
        image = image.quantize(64)
    data = encoded(image, kind, **({"sizes": [image.size]} if kind == "ICO" else {}))
    np.testing.assert_array_equal(decode(data, name), np.asarray(image.convert("RGB")))
    assert size_of(data, name.rpartition(".")[2].lower()) == (16, 12)


SMOOTH = np.repeat(np.repeat(RGB[:4, :4], 16, axis=0), 16, axis=1)


@pytest.mark.parametrize(("kind", "lossy"), [("JPEG", True), ("WEBP", True), ("AVIF", True), ("HEIF", True)])
def test_every_lossy_format_gives_nearly_the_same_and_is_known_as_lossy(kind, lossy):
    if kind == "HEIF":
        buffer = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(SMOOTH)).save(buffer, quality=95)
        data = buffer.getvalue()
    else:
        data = encoded(SMOOTH, kind, quality=95)
    assert np.abs(decode(data, "a.heic").astype(int) - SMOOTH).mean() < 12
    assert decoding.is_lossy(data) == lossy
    assert not decoding.is_lossy(encoded(SMOOTH, "WEBP", lossless=True))
    assert not decoding.is_lossy(encoded(SMOOTH, "PNG"))


def test_heic_without_its_library_names_the_extra(monkeypatch):
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(SMOOTH)).save(buffer)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    assert refused(buffer.getvalue(), "a.heic").endswith("pip install 'ppvit[heic]'")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n", "git lfs pull"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404", "a web page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b"PK\x03\x04", "a zip archive"),
        (b"anything", "of no kind that is read"),
        (b"", "it is empty"),
    ],
)
def test_what_stands_in_the_place_of_an_image_is_told(data, told):
    assert told in refused(data, "a.jpg")


def test_tga_is_read_by_its_name_alone_since_nothing_in_it_tells():
    data = encoded(RGB, "TGA")
    np.testing.assert_array_equal(decode(data, "shard.tar: sample 3 (from x)", extension="tga"), RGB)
    for name in ("a.png", "a.jpg", "a"):
        assert "of no kind that is read" in refused(data, name)
    assert "of no kind that is read" in refused(b"\0" * 400, "a.tga")
    assert "of no kind that is read" in refused(b"text of no image, " * 20, "a.tga")
    assert "truncated" in refused(data[:-40], "a.tga")


def test_tga_whose_fourth_byte_is_no_alpha_and_tga_of_depths_that_pillow_leaves_black():
    rgba = np.dstack([RGB, np.zeros_like(GREY)])
    data = bytearray(encoded(rgba, "TGA"))
    data[17] &= 0xF0  # says: no alpha bits
    np.testing.assert_array_equal(decode(bytes(data), "a.tga"), RGB)
    assert (decode(encoded(rgba, "TGA"), "a.tga") == 255).all()
    header = bytes([0, 0, 2]) + bytes(9) + struct.pack("<HH", 4, 4) + bytes([8, 0])
    assert "TGA file of 8 bits a pixel" in refused(header + bytes(999), "a.tga")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB"])
def test_every_mode_of_8_bits_becomes_rgb(mode, monkeypatch):
    """Also those that no file of ours comes in, as readers of other versions may give them."""
    image = Image.fromarray(GREY).convert({"La": "LA", "RGBa": "RGBA", "PA": "P", "LAB": "RGB"}.get(mode, mode))
    if mode in ("La", "RGBa", "PA"):
        image = image.convert(mode)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    rgb = np.asarray(rasters._rgb(image))
    assert (rgb.shape, rgb.dtype) == ((12, 16, 3), np.uint8)
    if mode != "1":
        np.testing.assert_allclose(rgb[..., 0].astype(int), GREY, atol=3)


# --- grey values above 8 bits ---


def tiff(values, bits, kind=1, order="<", photometric=1, **tags):
    """A TIFF of one uncompressed strip: unsigned (kind 1), signed (2) or floating point (3)."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    entries = {
        256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height, 279: len(data),
        339: kind, **{int(name[1:]): value for name, value in tags.items()},
    }  # fmt: skip
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    ifd = struct.pack(order + "H", len(entries))
    for tag, value in sorted(entries.items()):
        ifd += struct.pack(order + "HHII", tag, 4, 1, value)
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + ifd + bytes(4) + data


DEEP = (GREY.astype(np.uint16) * 257) ^ 0x0305  # 16 bits, the lower ones not those of the upper


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("values", "bits", "kind"),
    [
        (DEEP, 16, 1),
        ((DEEP.astype(np.int32) - 32768).astype(np.int16), 16, 2),
        ((DEEP.astype(np.int32) - 32768) * 60_000, 32, 2),
        (DEEP.astype(np.float32) / 999 - 20, 32, 3),
    ],
)
def test_values_of_tiff_are_those_in_the_file_whatever_their_type_and_order(values, bits, kind, order):
    found = pixels(tiff(values, bits, kind, order), "a.tif")
    assert found.dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(found, values)


def test_unsigned_32_bits_do_not_wrap_and_64_bit_floats_are_read():
    values = DEEP.astype(np.uint32) * 65_537
    np.testing.assert_array_equal(pixels(tiff(values, 32, 1), "a.tif"), values)


def test_values_of_12_bit_tiff_png_pgm_and_jpeg_2000():
    twelve = DEEP >> 4
    packed = np.unpackbits(twelve.astype(">u2").view(np.uint8).reshape(12, 16, 2), axis=2)[..., 4:]
    whole = tiff(DEEP, 12)
    data = whole[: -DEEP.nbytes] + np.packbits(packed.reshape(12, -1), axis=1).tobytes()
    np.testing.assert_array_equal(pixels(data, "a.tif"), twelve)
    np.testing.assert_array_equal(pixels(encoded(DEEP, "PNG"), "a.png"), DEEP)
    np.testing.assert_array_equal(pixels(encoded(DEEP, "JPEG2000"), "a.jp2"), DEEP)
    np.testing.assert_array_equal(pixels(b"P5 16 12 65535\n" + DEEP.astype(">u2").tobytes(), "a.pgm"), DEEP)
    floats = DEEP.astype("<f4") / 7 - 5
    np.testing.assert_array_equal(pixels(b"Pf\n16 12\n-1.0\n" + floats[::-1].tobytes(), "a.pfm"), floats)


def test_low_values_may_be_white():
    for bits, kind, values in ((16, 1, DEEP), (32, 3, DEEP.astype(np.float32))):
        found = decoded(tiff(values, bits, kind, photometric=0), "a.tif")
        np.testing.assert_array_equal(found.values, values)  # as they are, so that a window means what it says
        assert found.inverted
        rgb = decode(tiff(values, bits, kind, photometric=0), "a.tif", (0, 65535))
        np.testing.assert_array_equal(rgb, 255 - decode(tiff(values, bits, kind), "a.tif", (0, 65535)))
    np.testing.assert_array_equal(decode(tiff(GREY, 8, photometric=0), "a.tif")[..., 0], 255 - GREY)


@pytest.mark.parametrize(
    ("values", "bits", "kind", "value_range"),
    [
        (GREY.astype(np.float32) / np.float32(255), 32, 3, (0, 1)),
        (GREY.astype(np.uint16) << 4, 16, 1, (0, 255 << 4)),
        (GREY.astype(np.uint16) << 2, 16, 1, (0, 255 << 2)),
        (GREY.astype(np.uint16), 16, 1, (0, 255)),
        (GREY.astype(np.uint16) + 1, 16, 1, (1, 256)),
        (GREY.astype(np.int16) * 10 - 1024, 16, 2, (-1024, 2550 - 1024)),
        (GREY.astype(np.int32) * 10**6 - 10**8, 32, 2, (-(10**8), 255 * 10**6 - 10**8)),
        (GREY.astype(np.float32) * 1e-30, 32, 3, (0, 255e-30)),
    ],
)
def test_a_range_brings_any_values_to_the_8_bits_that_they_were_made_of(values, bits, kind, value_range):
    rgb = decode(tiff(values, bits, kind), "a.tif", value_range)
    np.testing.assert_array_equal(rgb, np.repeat(GREY[..., None], 3, axis=2))


def test_the_same_value_becomes_the_same_grey_in_every_picture():
    """Once a picture whose highest value was 255 came out bright, and one with 256 black."""
    for highest in (255, 256, 4000):
        values = np.array([[0, 100, highest]], np.uint16)
        assert decode(tiff(values, 16), "a.tif", (0, 4080))[0, :, 0].tolist() == [0, 6, round(highest / 16)]


def test_values_outside_the_range_are_black_or_white():
    assert to_rgb(np.float32([[-9, 0, 5, 10, 99]]), (0, 10))[0, :, 1].tolist() == [0, 0, 128, 255, 255]
    assert to_rgb(np.float32([[-9, 0, 5, 10, 99]]), (0, 10), inverted=True)[0, :, 1].tolist() == [255, 255, 127, 0, 0]
    extreme = np.array([[-3e38, 0, 3e38]], np.float32)
    assert to_rgb(extreme, (-3e38, 3e38))[0, :, 0].tolist() == [0, 128, 255]


def test_8_bits_stay_as_they_are_whatever_the_range():
    np.testing.assert_array_equal(decode(encoded(RGB, "PNG"), "a.png", (5, 9)), RGB)
    np.testing.assert_array_equal(decode(encoded(GREY, "PNG"), "a.png", (5, 9))[..., 2], GREY)


@pytest.mark.parametrize(
    ("data", "value_range", "told"),
    [
        (tiff(DEEP, 16), None, "more than 8 bits; set encrypt.value_range"),
        (tiff(DEEP, 16), (7, 7), "no range from 7 to 7; set encrypt.value_range"),
        (tiff(np.float32([[1, np.nan]]), 32, 3), (0, 1), "not finite"),
        (tiff(np.float32([[1, np.inf]]), 32, 3), (0, 1), "not finite"),
        (tiff(np.float32([[1, 2]]), 32, 3, t338=2, t277=2), (0, 1), "cannot be decoded"),  # with alpha
    ],
)
def test_values_that_mean_nothing_are_refused_with_the_name_of_the_file(data, value_range, told):
    line = refused(data, "mri/3.tif", value_range)
    assert line.startswith("mri/3.tif: ")
    assert told in line


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(colours, samples, transparent=None, passes=((0, 0, 1, 1),)):
    """A PNG of 16 bits: grey (0), colours (2), grey with alpha (4), colours with alpha (6); ``ADAM7`` interlaces it."""
    parts = [samples[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(
        np.pad(part.astype(">u2").view(np.uint8).reshape(len(part), -1), ((0, 0), (1, 0))).tobytes() for part in parts
    )

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 12, 16, colours, 0, 0, len(passes) > 1))
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(">3H", *transparent))
    return b"\x89PNG\r\n\x1a\n" + header + clear + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_grey_of_16_bits_with_alpha_is_refused():
    line = refused(png(4, np.dstack([DEEP, DEEP])), "a.png", (0, 65535))
    assert line.endswith("half the bits would be lost; save it without")
    np.testing.assert_array_equal(pixels(png(0, DEEP), "a.png"), DEEP)


COLOURS = RGB.astype(np.uint16) * 16 + 3  # 12 bits, in files that say 16


def tiff_by_tifffile(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **({"photometric": "rgb"} | options))
    return buffer.getvalue()


PLANES = np.ascontiguousarray(np.moveaxis(COLOURS, -1, 0))
DEEP_FILES = {
    "png": png(2, COLOURS),
    "png, interlaced": png(2, COLOURS, passes=ADAM7),
    "png with alpha": png(6, np.dstack([COLOURS, np.full((12, 16), 65535)])),
    "ppm": b"P6 16 12 65535\n" + COLOURS.astype(">u2").tobytes(),
    "tiff": tiff_by_tifffile(COLOURS),
    "tiff, other order": tiff_by_tifffile(COLOURS, byteorder=">"),
    "tiff, deflated": tiff_by_tifffile(COLOURS, compression="zlib", predictor=True),
    "tiff, deflated, other order": tiff_by_tifffile(COLOURS, compression="zlib", byteorder=">"),
    "tiff, in tiles": tiff_by_tifffile(COLOURS, tile=(16, 16)),
    "tiff, in planes": tiff_by_tifffile(PLANES, planarconfig="separate"),
    "tiff, in planes and strips": tiff_by_tifffile(PLANES, planarconfig="separate", rowsperstrip=5, byteorder=">"),
    "tiff, with a fourth": tiff_by_tifffile(np.dstack([COLOURS, DEEP]), extrasamples=["unspecified"]),
}


@pytest.mark.parametrize("kind", DEEP_FILES)
def test_colours_of_16_bits_are_read_whole(kind):
    """Pillow keeps the upper 8, so that 12 bits in 16 come out dark, and reads planes as noise."""
    data = DEEP_FILES[kind]
    found = pixels(data, "a")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, COLOURS)
    np.testing.assert_array_equal(decode(data, "a", (3, 4083)), RGB)
    assert "more than 8 bits; set encrypt.value_range" in refused(data, "a")


def test_deep_colours_lie_on_white_and_turn_as_their_tags_say():
    alpha = DEEP / 65535.0
    over = np.rint(COLOURS * alpha[..., None] + 65535 * (1 - alpha[..., None]))
    samples = np.dstack([COLOURS, DEEP])
    for data in (png(6, samples), tiff_by_tifffile(samples, extrasamples=["unassalpha"])):
        np.testing.assert_allclose(pixels(data, "a"), over, atol=1)
    premultiplied = np.dstack([np.rint(COLOURS * alpha[..., None]), DEEP]).astype(np.uint16)
    data = tiff_by_tifffile(premultiplied, extrasamples=["assocalpha"])
    np.testing.assert_allclose(pixels(data, "a"), over, atol=1)
    clear = np.where((COLOURS[3, 4] == COLOURS).all(axis=2)[..., None], 65535, COLOURS)
    np.testing.assert_array_equal(pixels(png(2, COLOURS, COLOURS[3, 4]), "a"), clear)
    turned = tiff_by_tifffile(COLOURS, extratags=[(274, 3, 1, 6, True)])
    np.testing.assert_array_equal(pixels(turned, "a"), np.rot90(COLOURS, -1))


def test_deep_colours_of_the_page_that_is_meant():
    data = tiff_by_tifffile(np.stack([COLOURS, COLOURS + 5, COLOURS + 9]))
    np.testing.assert_array_equal(pixels(data, "a", "last"), COLOURS + 9)


def test_tiff_that_pillow_misreads_or_does_not_read_is_refused():
    planes = tiff_by_tifffile(PLANES, planarconfig="separate", compression="zlib")
    assert "save it with interleaved colours" in refused(planes, "a", (0, 1))
    floats = COLOURS.astype(np.float32)
    assert "read uncompressed only" in refused(tiff_by_tifffile(floats, compression="zlib"), "a", (0, 1))
    assert "that is to be turned" in refused(tiff_by_tifffile(floats, extratags=[(274, 3, 1, 6, True)]), "a", (0, 1))
    bands = tiff_by_tifffile(np.dstack([GREY] * 5), photometric="minisblack", planarconfig="contig")
    assert "a TIFF of uint8, 5 of them a pixel; grey and RGB are read" in refused(bands, "a", (0, 1))
    complex_values = tiff_by_tifffile(GREY.astype(np.complex64), photometric="minisblack")
    assert "a TIFF of complex64" in refused(complex_values, "a", (0, 1))


@pytest.mark.parametrize("dtype", ["f2", "f8", "i8", "u8", "i1"])
def test_tiff_of_numbers_that_pillow_does_not_know(dtype):
    """Among them signed ones of 8 bits, which it takes for unsigned."""
    values = GREY.astype(int) // 2 - 60 * (dtype in ("i8", "i1", "f8"))
    for white, inverted in (("minisblack", False), ("miniswhite", True)):
        found = decoded(tiff_by_tifffile(values.astype(dtype), photometric=white), "a.tif")
        np.testing.assert_array_equal(found.values, values)
        assert found.inverted == inverted


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u4"])
def test_tiff_colours_of_numbers_that_pillow_does_not_know(dtype):
    values = (RGB // 2).astype(dtype)
    planes = tiff_by_tifffile(np.ascontiguousarray(np.moveaxis(values, -1, 0)), planarconfig="separate")
    for data in (tiff_by_tifffile(values), tiff_by_tifffile(values, byteorder=">"), planes):
        np.testing.assert_array_equal(pixels(data, "a.tif"), RGB // 2)
    pages = tiff_by_tifffile(np.stack([values, values + 1]))
    assert "holds several frames" in refused(pages, "a.tif", (0, 1))
    np.testing.assert_array_equal(pixels(pages, "a.tif", "last"), RGB // 2 + 1)
    large = bytearray(tiff_by_tifffile(values))
    for tag in (256, 257):
        struct.pack_into("<I", large, large.index(struct.pack("<HH", tag, 4)) + 8, 2**15)
    assert "32768 x 32768 pixels are more than" in refused(bytes(large), "a.tif", (0, 1))
    assert "cannot be decoded" in refused(tiff_by_tifffile(values)[:-50], "a.tif", (0, 1))


def test_wide_grey_is_turned_as_its_tags_say():
    turned = pixels(tiff(DEEP, 16, t274=6), "a.tif")
    np.testing.assert_array_equal(turned, np.rot90(DEEP, -1))


# --- several pictures in a file ---

FRAMES = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (10, 90, 170, 250)]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "AVIF"])
def test_frames_are_refused_or_chosen(kind):
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    data = encoded(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:], **options)
    line = refused(data, "a.gif")
    assert line == "a.gif: it holds several frames; set dataset.frames to first, middle or last, or keep the one meant"
    for frames, value in (("first", 10), ("middle", 90), ("last", 250)):
        assert np.abs(decode(data, "a.gif", frames=frames).astype(int) - value).max() <= 2


def test_pages_may_differ_in_size_and_depth_and_copies_are_no_pages():
    pages = [Image.fromarray(DEEP), Image.fromarray(RGB[:5])]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(pixels(data, "a.tif", "first"), DEEP)
    np.testing.assert_array_equal(pixels(data, "a.tif", "last"), RGB[:5])
    small = Image.fromarray(RGB[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}  # a reduced copy, as pyramids and thumbnails are
    pyramid = encoded(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[small])
    assert Image.open(io.BytesIO(pyramid)).n_frames == 2
    np.testing.assert_array_equal(decode(pyramid, "a.tif"), RGB)


def test_the_photograph_of_a_multi_picture_jpeg_is_its_first():
    other = Image.fromarray(255 - SMOOTH)
    data = encoded(SMOOTH, "MPO", save_all=True, append_images=[other], quality=95)
    np.testing.assert_array_equal(decode(data, "a.jpg"), decode(encoded(SMOOTH, "JPEG", quality=95), "a.jpg"))


# --- what is promised and not there ---


def claimed(kind):
    """A few bytes of a file that says it has more than 2^28 pixels."""
    side = 2**15
    return {
        "PNG": png_of(side),
        "PPM": f"P6 {side} {side} 255\n".encode(),
        "TIFF": tiff(DEEP, 16, t256=side, t257=side),
        "TGA": bytes([0, 0, 2]) + bytes(9) + struct.pack("<HH", side, side) + bytes([24, 0]),
        "QOI": b"qoif" + struct.pack(">II", side, side) + bytes([3, 0]),
        "GIF": b"GIF89a" + struct.pack("<HH", side, side) + bytes(3)
        + b"," + struct.pack("<4HB", 0, 0, side, side, 0) + b"\x08\x01\x00\x00;",
        "BLP": b"BLP2" + struct.pack("<iBBBBII", 1, 1, 0, 0, 0, side, side) + bytes(2000),
        "PCX": b"\x0a\x05\x01\x08" + struct.pack("<4H", 0, 0, side - 1, side - 1) + bytes(53) + b"\3" + bytes(70),
        "WEBP": webp_of(side),
        "JPEG2000": resized(encoded(RGB, "JPEG2000", no_jp2=True), side),
        "ICO": icon_of(side),
        "AVIF": extent(encoded(RGB, "AVIF"), side),
        "HEIF": extent(heic(), side),
        "a later page": tiff_with_second_page(side),
    }[kind]  # fmt: skip


def webp_of(side):
    """An animation of one small frame on a canvas so large."""
    canvas = bytes([2, 0, 0, 0]) + (side - 1).to_bytes(3, "little") * 2
    frame = bytes(6) + (15).to_bytes(3, "little") + (11).to_bytes(3, "little") + bytes(4) + encoded(RGB, "WEBP")[12:]
    chunks = ((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame))
    body = b"WEBP" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_of(side):
    data = encoded(RGB, "PNG")
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def heic():
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(SMOOTH)).save(buffer)
    return buffer.getvalue()


def resized(codestream, side):
    place = codestream.index(b"\xff\x51") + 6  # SIZ: width and height of the picture, then of its tiles
    return codestream[:place] + struct.pack(">II", side, side) + codestream[place + 8 :]


def extent(container, side):
    places = [place for place in range(len(container)) if container[place : place + 4] == b"ispe"]
    for place in places:
        container = container[: place + 8] + struct.pack(">II", side, side) + container[place + 16 :]
    assert places
    return container


def icon_of(side):
    inner = png_of(side)
    return struct.pack("<3H", 0, 1, 1) + bytes([16, 12, 0, 0]) + struct.pack("<HHII", 1, 32, len(inner), 22) + inner


def tiff_with_second_page(side):
    data = bytearray(encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:2]))
    (first,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[first : first + 2])
    (second,) = struct.unpack("<I", data[first + 2 + 12 * count :][:4])
    for entry in range(2):  # width and height come first
        struct.pack_into("<I", data, second + 2 + 12 * entry + 8, side)
        struct.pack_into("<H", data, second + 2 + 12 * entry + 2, 4)
    return bytes(data)


KINDS = [
    *("PNG", "PPM", "TIFF", "TGA", "QOI", "GIF", "BLP", "PCX", "WEBP", "JPEG2000", "ICO", "AVIF", "HEIF"),
    "a later page",
]


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_2_to_the_28_pixels_are_refused_before_memory_is_taken(kind, monkeypatch):
    data = claimed(kind)
    for taker in ("new", "fill"):
        monkeypatch.setattr(Image.core, taker, lambda *_: pytest.fail("memory was taken"))
    line = refused(data, f"cat/3.{'tga' if kind == 'TGA' else 'png'}", frames="last")
    assert line.startswith("cat/3.")
    assert "pixels are more than 268,435,456" in line


def test_what_systems_leave_behind_is_no_file_of_the_users():
    for noise in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        assert is_noise(("cats", noise))
    assert is_noise(("__MACOSX", "cats", "a.png"))
    assert not is_noise(("cats", "a.png"))
    assert not is_noise(("_cats", ".hidden", "_a.png"))


def test_a_tiff_of_very_many_pages_is_refused_at_the_second():
    seeks = []

    class Counting:
        format, is_animated, tag_v2 = "TIFF", True, MappingProxyType({254: 0})

        def seek(self, number):
            seeks.append(number)

    with pytest.raises(PpvitError, match="several frames"):
        rasters._seek(Counting(), "error")
    assert seeks == [0, 1]


WHOLE = {
    **{kind: encoded(RGB, kind) for kind in ("TGA", "QOI", "DDS", "PCX", "SGI", "ICO", "JPEG2000", "AVIF", "DIB")},
    "BLP": encoded(Image.fromarray(RGB).quantize(9), "BLP"),
    "deep TIFF": tiff(DEEP, 16),
    "deep PNG": encoded(DEEP, "PNG"),
    "colour PNG": DEEP_FILES["png"],
    "colour TIFF": DEEP_FILES["tiff, in planes"],
    "floating TIFF": tiff_by_tifffile(COLOURS.astype(np.float32)),
    "pages": encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
    "HEIF": heic(),
}


@given(st.sampled_from(list(WHOLE)), st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6))
@example("TGA", [(2, 1)])
def test_any_damage_gives_pixels_or_a_line(kind, damage):
    data = bytearray(WHOLE[kind])
    for place, value in damage:
        data[place % len(data)] = value
    require_pixels_or_a_line(bytes(data), "a.tga", (0, 65535))
