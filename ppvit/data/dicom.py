"""DICOM files by pydicom: one frame as colours, or its values after the modality's rescaling.

What the file says of windows is not used, since it differs from file to file; see ``encrypt.window``.
"""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import numpy as np

from ppvit.core.errors import PpvitError
from ppvit.data.decoded import Decoded, chosen_frame, require_finite, require_size

# what pydicom remarks of files that are not quite to the standard: what cannot be decoded is an error anyway
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").addHandler(logging.NullHandler())
PREAMBLE = 128  # bytes of anything at the beginning
_FIRST = (b"\2\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a transfer syntax that compresses the whole file


def is_dicom(data: bytes) -> bool:
    """Whether a file begins as DICOM files do, also old ones, which begin with their first element."""
    return data[PREAMBLE : PREAMBLE + 4] == b"DICM" or _is_bare(data)


def _is_bare(data: bytes) -> bool:
    # the elements of groups 2 and 8 that can be the first, each with its type, or implicitly a length below 2^16
    return data[:4] in _FIRST and (data[4:6] in (b"UL", b"CS", b"UI", b"LO") or data[6:8] == b"\0\0")


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of the picture, which is not decoded.

    Raises:
        PpvitError: pydicom is not installed.
        ValueError: it has no picture, or more than 2^28 pixels.
        Exception: whatever pydicom stumbles over.
    """
    dataset = _opened(data)
    return int(dataset.Columns), int(dataset.Rows)


def read(data: bytes, frames: str) -> Decoded:
    """Decode one frame.

    Args:
        data: the file's bytes.
        frames: see :func:`ppvit.data.decoding.pixels`.

    Returns:
        uint8 (H, W, 3), for colours, and for grey that is not rescaled, of up to 8 bits; else float32 or float64:
        colours as they are, (H, W, 3), grey as the modality means it (Hounsfield units of CT), (H, W).

    Raises:
        PpvitError: several frames and none chosen; compressed in a way that pydicom alone does not read.
        Exception: see :func:`size_of`.
    """
    dataset = _opened(data)
    frame = chosen_frame(int(dataset.get("NumberOfFrames") or 1), frames)
    stored = _stored(dataset, frame)
    kind = str(dataset.get("PhotometricInterpretation", "")).strip()
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        colours = apply_color_lut(stored, dataset)[..., :3]
        return Decoded(colours if colours.dtype == np.uint8 else _floats(colours))
    if stored.ndim == 3:  # pydicom has made RGB of YBR
        return Decoded(_eight_bits(stored, dataset) if dataset.BitsStored <= 8 else _floats(stored))
    inverted = kind == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    values, padding = _rescaled(stored, dataset, frame), _padding(stored, dataset)
    if values is stored and stored.dtype == np.uint8:
        grey = _eight_bits(stored, dataset)
        grey = np.where(padding, 0, 255 - grey if inverted else grey).astype(np.uint8)
        return Decoded(np.repeat(grey[..., None], 3, axis=-1))
    values = _floats(values)
    require_finite(values)
    if padding.all():
        raise ValueError("all of it is padding")
    values[padding] = np.inf if inverted else -np.inf
    return Decoded(values, inverted)


def _opened(data: bytes) -> Any:
    try:
        import pydicom
    except ImportError:
        raise PpvitError("it is DICOM, which needs pydicom; install it: pip install 'ppvit[dicom]'") from None
    if _DEFLATED in data:  # pydicom would inflate it whatever its size
        raise PpvitError("it is a deflated DICOM file; save it in another transfer syntax")
    dataset = pydicom.dcmread(io.BytesIO(data), force=_is_bare(data))
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        uid = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = uid
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ValueError("a DICOM file without a picture")
    require_size(int(dataset.Columns), int(dataset.Rows))
    return dataset


def _stored(dataset: Any, frame: int) -> np.ndarray:
    """The values as they are stored, (H, W) or (H, W, 3); YBR as RGB."""
    from pydicom.pixels.utils import pixel_array

    try:
        return pixel_array(dataset, index=frame)
    except (RuntimeError, NotImplementedError) as error:
        how = dataset.file_meta.TransferSyntaxUID.name
        raise PpvitError(
            f"pydicom does not decode its pixels ({how}: {' '.join(str(error).split())[:200]}); install what it names, "
            "such as pylibjpeg[all], or save it uncompressed"
        ) from None


def _rescaled(stored: np.ndarray, dataset: Any, frame: int) -> np.ndarray:
    """Values after the modality's table or line; ``stored`` itself where there is none, or it changes nothing."""
    from pydicom.pixels.processing import apply_modality_lut

    source = dataset
    # files of many frames have it in groups, of each frame or of all, where pydicom does not look
    for groups, number in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or []
        if len(items) > number and items[number].get("PixelValueTransformationSequence"):
            source = items[number].PixelValueTransformationSequence[0]
            break
    if not source.get("ModalityLUTSequence"):
        line = float(source.get("RescaleSlope", 1)), float(source.get("RescaleIntercept", 0))
        with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused
            return stored if line == (1, 0) else stored * line[0] + line[1]
    return apply_modality_lut(stored, dataset)


def _floats(values: np.ndarray) -> np.ndarray:
    """Without loss, of up to 16 bits in float32."""
    return values.astype(np.float32 if np.can_cast(values.dtype, np.float32) else np.float64)


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Which pixels are none of the picture, by their stored value (DICOM PS3.3, C.7.5.1.1.2): bool, (H, W)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    # of signed pixels it may be written as an unsigned number, and the other way round
    ends = np.array([value, value if limit is None else limit], np.int64).astype(stored.dtype)
    padding: np.ndarray = (stored >= ends.min()) & (stored <= ends.max())
    return padding


def _eight_bits(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Colours, or grey of few bits, from as many bits as the file says to 8."""
    highest = 2 ** int(dataset.BitsStored) - 1
    if highest == 255:
        return stored.astype(np.uint8)
    scaled: np.ndarray = np.rint(stored * (255 / highest)).clip(0, 255).astype(np.uint8)
    return scaled
