"""Arrays inside an npz file, read row by row: a large one does not have to fit into memory."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from ppvit.core.errors import PpvitError, brief
from ppvit.core.reading import open_regular
from ppvit.data import npy
from ppvit.data.decoding import PIXELS

_ROW_BYTES = 3 * PIXELS  # of one image


def rows(path: Path, name: str) -> Iterator[np.ndarray]:
    """Yield ``array[0]``, ``array[1]``, … of the array ``name`` in an npz file. Nothing is unpickled.

    Raises:
        PpvitError: the file is damaged or no npz, or has no such array.
    """
    with _whole(path), open_regular(path) as whole, zipfile.ZipFile(whole) as archive:
        yield from _rows(archive, name)


def _rows(archive: zipfile.ZipFile, name: str) -> Iterator[np.ndarray]:
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _header(archive, name, file)
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        for _ in range(shape[0]):
            data = file.read(row_bytes)
            if len(data) != row_bytes:
                raise EOFError(f"{name} ends early")
            yield np.frombuffer(data, dtype).reshape(shape[1:])
        file.read(1)  # reaching the end is what makes zipfile compare the CRC


def shape_and_dtype(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the array ``name``; raises as :func:`rows`."""
    with (
        _whole(path),
        open_regular(path) as whole,
        zipfile.ZipFile(whole) as archive,
        archive.open(f"{name}.npy") as file,
    ):
        return _header(archive, name, file)


def array_names(path: Path) -> set[str]:
    """The arrays that an npz file has; raises as :func:`rows`."""
    with _whole(path), open_regular(path) as whole, zipfile.ZipFile(whole) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def _header(archive: zipfile.ZipFile, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    shape, dtype = npy.read_header(file)
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # as numpy writes them
        raise ValueError(f"{name} is compressed in another way than numpy does it")
    said = info.file_size - file.tell()
    if math.prod(shape) * dtype.itemsize != said or math.prod(shape[1:]) * dtype.itemsize > _ROW_BYTES:
        raise ValueError(f"{name} has shape {shape} and type {dtype}, and {said:,} bytes")
    return shape, dtype


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise PpvitError(
            f"{path}: {error.args[0]}; expected are train_images, train_labels, test_images, test_labels"
        ) from None
    except (PpvitError, MemoryError):
        raise
    except Exception as error:  # zipfile also raises IndexError and others over damaged headers
        raise PpvitError(f"{path} is damaged or no npz file ({brief(error)}); copy or download it again") from None
