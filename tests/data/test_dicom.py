"""DICOM files as scanners write them: rescaled values, colours, palettes, frames; made here by pydicom."""

import io
import struct
import sys

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)
from test_decoding import require_pixels_or_a_line

from ppvit.core.errors import PpvitError
from ppvit.data.decoding import decode, decoded, pixels, size_of

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
RGB = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
TWELVE = RNG.integers(0, 4096, (12, 16), dtype=np.uint16)


def saved(dataset, syntax=ExplicitVRLittleEndian):
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def dataset_of(values, kind="MONOCHROME2", bits=None, frames=None, **more):
    """A data set of (H, W) or (H, W, 3), or of (n, H, W) where ``frames`` says so."""
    dataset = Dataset()
    height, width = values.shape[1:3] if frames else values.shape[:2]
    colours = 3 if values.shape[-1] == 3 and not frames else 1
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = height, width, colours
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PhotometricInterpretation = kind
    if colours == 3:
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = frames
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW"
    for name, value in more.items():
        setattr(dataset, name, value)
    return dataset


def dicom(values, *arguments, syntax=ExplicitVRLittleEndian, **more):
    return saved(dataset_of(values, *arguments, **more), syntax)


def refused(data, **options):
    with pytest.raises(PpvitError) as caught:
        decode(data, "mri/3.dcm", **options)
    line = str(caught.value)
    assert line.startswith("mri/3.dcm: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_values_are_rescaled_to_what_the_modality_means(syntax):
    data = dicom(TWELVE, bits=12, RescaleSlope=2, RescaleIntercept=-1024, syntax=syntax)
    np.testing.assert_array_equal(pixels(data, "a.dcm"), 2.0 * TWELVE - 1024)
    assert size_of(data) == (16, 12)
    signed = TWELVE.astype(np.int16) - 2000
    np.testing.assert_array_equal(pixels(dicom(signed, syntax=syntax), "a.dcm"), signed)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_without_a_preamble_and_without_a_header(syntax):
    """As those of before the file format (PS3.10) are, and those that a network node wrote as it received them."""
    whole = dicom(TWELVE, bits=12, RescaleSlope=2, RescaleIntercept=-1024, syntax=syntax)
    headed = whole[132:]
    (length,) = struct.unpack("<I", headed[8:12])
    for data in (headed, headed[12 + length :]):
        np.testing.assert_array_equal(pixels(data, "a.dcm"), 2.0 * TWELVE - 1024)
        assert size_of(data) == (16, 12)


def test_the_window_of_the_data_set_counts_and_not_that_of_each_file():
    narrow = dicom(TWELVE, bits=12, WindowCenter=50, WindowWidth=10)
    wide = dicom(TWELVE, bits=12, WindowCenter=2000, WindowWidth=4000)
    np.testing.assert_array_equal(decode(narrow, "a.dcm", (0, 4095)), decode(wide, "a.dcm", (0, 4095)))
    expected = np.clip(np.rint((TWELVE - 1000.0) * 255 / 400), 0, 255)
    np.testing.assert_array_equal(decode(narrow, "a.dcm", (1000, 1400))[..., 1], expected)


def test_monochrome1_is_inverted_after_the_window():
    """DICOM PS3.3, C.7.6.3.1.2: the minimum is white after any VOI grey scale transformations."""
    data = dicom(TWELVE, "MONOCHROME1", bits=12, RescaleSlope=1, RescaleIntercept=-1000)
    found = decoded(data, "a.dcm")
    assert found.inverted
    np.testing.assert_array_equal(found.values, TWELVE - 1000.0)
    same = dicom(TWELVE, bits=12, RescaleSlope=1, RescaleIntercept=-1000)
    for value_range in ((-1000, 3095), (0, 100)):
        np.testing.assert_array_equal(decode(data, "a", value_range), 255 - decode(same, "a", value_range))
    np.testing.assert_array_equal(decode(dicom(GREY, "MONOCHROME1"), "a")[..., 0], 255 - GREY)
    shaped = dicom(TWELVE, bits=12, PresentationLUTShape="INVERSE")
    assert decoded(shaped, "a").inverted


def test_grey_of_8_bits_or_fewer_stays_8_bits_unless_it_is_rescaled():
    for identity in ({}, {"RescaleSlope": 1, "RescaleIntercept": 0}):
        found = pixels(dicom(GREY, **identity), "a")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(pixels(dicom(GREY >> 4, bits=4), "a")[..., 0], (GREY >> 4) * 17)
    np.testing.assert_array_equal(pixels(dicom(GREY, RescaleSlope=3, RescaleIntercept=-5), "a"), 3.0 * GREY - 5)


def test_bits_that_are_not_stored_do_not_count():
    """Overlays of old scanners lie in the upper bits."""
    np.testing.assert_array_equal(pixels(dicom(TWELVE | 0xA000, bits=12), "a"), TWELVE)


def test_a_modality_table_is_applied():
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "HU"
    table.LUTData = [int(value) for value in 65535 - 7 * np.arange(256)]
    table["LUTData"].VR = table["LUTDescriptor"].VR = "US"
    data = dicom(GREY, ModalityLUTSequence=[table])
    np.testing.assert_array_equal(pixels(data, "a"), 65535 - 7.0 * GREY)


def test_colours_of_8_and_16_bits():
    np.testing.assert_array_equal(pixels(dicom(RGB, "RGB"), "a"), RGB)
    wide = RGB.astype(np.uint16) * 16 + 3  # 12 bits, in a file that says 16
    np.testing.assert_array_equal(pixels(dicom(wide, "RGB"), "a"), wide)
    np.testing.assert_array_equal(decode(dicom(wide, "RGB"), "a", (3, 4083)), RGB)
    np.testing.assert_array_equal(pixels(dicom(RGB >> 4, "RGB", bits=4), "a"), (RGB >> 4) * 17)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_in_no_range(kind):
    """DICOM PS3.3, C.7.5.1.1.2: pixels of these stored values are not of the picture, whatever the rescaling."""
    values = TWELVE.astype(np.int16) - 2000
    values[0], values[1] = -3024, -3020
    of_picture = 2.0 * values[2:] - 7
    bright = np.rint((of_picture + 4007) * (255 / 8190))
    line = {"RescaleSlope": 2, "RescaleIntercept": -7}
    ranged = dataset_of(values, kind, PixelPaddingValue=-3024, PixelPaddingRangeLimit=-3020, **line)
    values[1] = -3024
    single = dataset_of(values, kind, PixelPaddingValue=-3024, **line)
    unsigned = dataset_of(values, kind, **line)
    unsigned.add_new("PixelPaddingValue", "US", 2**16 - 3024)
    for data in map(saved, (ranged, single, unsigned)):
        assert decoded(data, "a").extremes == (of_picture.min(), of_picture.max())
        rgb = decode(data, "a", (-4007, 4183))[..., 0]
        assert not rgb[:2].any()
        np.testing.assert_array_equal(rgb[2:], 255 - bright if kind == "MONOCHROME1" else bright)
    eight = decode(dicom(GREY, kind, PixelPaddingValue=int(GREY[0, 0])), "a")[..., 0]
    expected = 255 - GREY if kind == "MONOCHROME1" else GREY
    np.testing.assert_array_equal(eight, np.where(GREY[0, 0] == GREY, 0, expected))
    assert "all of it is padding" in refused(dicom(TWELVE * 0, bits=12, PixelPaddingValue=0), value_range=(0, 1))


def test_ybr_is_brought_to_rgb():
    ybr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))  # the matrix of JFIF, which is that of YBR_FULL
    found = pixels(dicom(np.ascontiguousarray(ybr), "YBR_FULL"), "a")
    np.testing.assert_allclose(found.astype(int), np.asarray(Image.fromarray(ybr, "YCbCr").convert("RGB")), atol=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_are_looked_up(bits):
    colours = RNG.integers(0, 256, (3, 256), dtype=np.uint8)
    tables = {}
    for name, column in zip(("Red", "Green", "Blue"), colours, strict=True):
        stored = column.astype(np.uint16) * 257 if bits == 16 else column
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        tables[f"{name}PaletteColorLookupTableData"] = stored.tobytes()
    data = dicom(GREY, "PALETTE COLOR", **tables)
    np.testing.assert_array_equal(pixels(data, "a"), colours.T[GREY] * (257.0 if bits == 16 else 1))
    np.testing.assert_array_equal(decode(data, "a", (0, 65535)), colours.T[GREY])


def test_frames_are_refused_or_chosen_and_each_has_its_own_rescaling():
    stack = np.stack([TWELVE + number for number in range(4)])
    assert "holds several frames; set dataset.frames" in refused(dicom(stack, frames=4), value_range=(0, 1))
    groups = []
    for number in range(4):
        line, group = Dataset(), Dataset()
        line.RescaleSlope, line.RescaleIntercept = number + 1, -number
        group.PixelValueTransformationSequence = [line]
        groups.append(group)
    data = dicom(stack, frames=4, PerFrameFunctionalGroupsSequence=groups)
    for frames, number in (("first", 0), ("middle", 1), ("last", 3)):
        expected = (TWELVE + number) * (number + 1.0) - number
        np.testing.assert_array_equal(pixels(data, "a", frames), expected)
        np.testing.assert_array_equal(pixels(dicom(stack, frames=4), "a", frames), TWELVE + number)
    shared = dicom(stack, frames=4, SharedFunctionalGroupsSequence=[groups[2]])
    np.testing.assert_array_equal(pixels(shared, "a", "last"), (TWELVE + 3) * 3.0 - 2)


def test_compressed_pixels_are_decoded_or_refused_with_what_would():
    rle = dataset_of(TWELVE, bits=12)
    rle.file_meta = FileMetaDataset()
    rle.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    rle.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(pixels(saved(rle, RLELossless), "a"), TWELVE)

    def with_stream(values, stream, syntax, kind="MONOCHROME2"):
        dataset = dataset_of(values, kind)
        dataset.PixelData = encapsulate([stream])
        dataset["PixelData"].VR = "OB"
        return saved(dataset, syntax)

    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG2000", no_jp2=True)
    np.testing.assert_array_equal(pixels(with_stream(GREY, buffer.getvalue(), JPEG2000Lossless), "a")[..., 0], GREY)
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG", quality=95)
    expected = np.asarray(Image.open(buffer))
    found = pixels(with_stream(GREY, buffer.getvalue(), JPEGBaseline8Bit), "a")[..., 0]
    np.testing.assert_array_equal(found, expected)
    line = refused(with_stream(GREY, b"\xff\xd8\xff\xc3" + bytes(90), JPEGLosslessSV1))
    assert "JPEG Lossless" in line
    assert "pylibjpeg" in line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"Rows": 2**15, "Columns": 2**15}, "32768 x 32768 pixels are more than 268,435,456"),
        ({"Rows": 0}, "it has no pixels"),
        ({"Rows": 13}, "cannot be decoded"),
        ({"NumberOfFrames": 10**6}, "several frames; set dataset.frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "cannot be decoded"),
        ({"BitsAllocated": 12}, "cannot be decoded"),
    ],
)
def test_headers_that_promise_what_is_not_there_are_refused(change, told, monkeypatch):
    data = saved(dataset_of(TWELVE, bits=12, **change))
    assert told in refused(data, value_range=(0, 1))


def test_a_file_without_a_picture_one_cut_short_and_one_that_would_inflate():
    report = Dataset()
    report.PatientName = "A^B"
    assert "without a picture" in refused(saved(report))
    assert "cannot be decoded" in refused(dicom(TWELVE, bits=12)[:-50], value_range=(0, 1))
    bomb = dataset_of(np.zeros((2000, 2000), np.uint16))
    assert "deflated" in refused(saved(bomb, DeflatedExplicitVRLittleEndian))
    assert "not finite" in refused(dicom(TWELVE, RescaleSlope="1e308", RescaleIntercept="1e308"), value_range=(0, 1))


def test_without_pydicom_the_extra_is_named(monkeypatch):
    data = dicom(GREY)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert refused(data).endswith("it is DICOM, which needs pydicom; install it: pip install 'ppvit[dicom]'")


WHOLE = [
    dicom(TWELVE, bits=12, RescaleSlope=2, RescaleIntercept=-1),
    dicom(RGB, "RGB"),
    dicom(np.stack([TWELVE] * 3), frames=3, syntax=ImplicitVRLittleEndian),
    dicom(TWELVE, bits=12, PixelPaddingValue=5)[132:],
]


@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(132, 900), st.integers(0, 255)), max_size=6))
def test_any_damage_gives_pixels_or_a_line(whole, damage):
    data = bytearray(whole)
    for place, value in damage:
        data[place % len(data)] = value
    require_pixels_or_a_line(bytes(data), "a.dcm", (0, 4095))
