"""NumPy's file format, with its header checked before anything is made of it."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
from functools import lru_cache
from typing import IO

import numpy as np

_HEADER_BYTES = 10_000  # as many as numpy itself reads by default
_SIDES = 8  # dimensions


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array of numbers in C order; the file is then at its values.

    Raises:
        ValueError: another kind of array, or no array.
    """
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\1\0", b"\2\0"):
        raise ValueError("it does not begin like an array")
    length = file.read(2 if start[6] == 1 else 4)
    if (size := int.from_bytes(length, "little")) > _HEADER_BYTES:
        raise ValueError(f"its header has {size:,} bytes")
    return _parsed(length + file.read(size), start[6])


@lru_cache(maxsize=64)  # all images of a data set have the same header
def _parsed(header: bytes, version: int) -> tuple[tuple[int, ...], np.dtype]:
    read = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of headers that Python 2 wrote, and other odd ones
            shape, fortran_order, dtype = read(io.BytesIO(header))
    except (SyntaxError, TypeError, RecursionError, MemoryError, Warning, tokenize.TokenError) as error:
        raise ValueError(f"its header cannot be read: {error}") from None
    if dtype.kind not in "biuf" or fortran_order or not shape:
        raise ValueError(
            f"arrays must be numeric and in C order, not {dtype} in {'Fortran' if fortran_order else 'C'} order"
        )
    if len(shape) > _SIDES or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError("its shape is not one of whole numbers")
    return shape, dtype


def array_of(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The array in ``data``, not to be written to.

    Raises:
        ValueError: it has another shape or dtype, or other than the bytes that these need.
    """
    file = io.BytesIO(data)
    found = read_header(file)
    if found != (shape, dtype):
        raise ValueError(f"its shape is {found[0]} and its type {found[1]}, the manifest says {shape} and {dtype}")
    if len(data) - file.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its shape {shape} takes other than the {len(data) - file.tell():,} bytes that it has")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)
