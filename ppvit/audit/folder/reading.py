"""The pictures of a folder that somebody else filled: found, sized without decoding, and decoded within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.progress import tqdm
from ppvit.core.reading import open_regular, read_bounded
from ppvit.data import decoding
from ppvit.data.decoded import Decoded
from ppvit.data.tar_index import IMAGE_BYTES

MOST = 100  # pictures of a size that are looked at; a key that they give decrypts all of that size
SIDE = 8192  # pixels of a picture that is attacked, at most
_PIXELS = 2**25  # of all pictures looked at together; fewer large ones are taken


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size.

    Attributes:
        folder: under which they lie.
        paths: of all of them, sorted.
        width, height: in pixels.
    """

    folder: Path
    paths: list[Path]
    width: int
    height: int

    @property
    def size(self) -> str:
        """Such as ``64x64``."""
        return f"{self.width}x{self.height}"

    def looked_at(self, most: int = MOST) -> tuple[np.ndarray, int, tuple[float, float]]:
        """The first of them: uint8, (n, H, W, 3), how many of these were stored with loss, the range of deep values.

        Values above 8 bits all take the range of these pictures to 0..255.

        Args:
            most: pictures; fewer large ones are taken.

        Raises:
            PpvitError: one cannot be read.
        """
        paths = self.paths[: min(most, max(1, _PIXELS // (self.width * self.height)))]
        read = [self._decoded(path) for path in tqdm(paths, desc="audit: read", unit="image", leave=False)]
        lows, highs = zip(*([each.extremes for each, _ in read if each.extremes] or [(0, 255)]), strict=True)
        low, high = min(lows), max(highs)
        value_range = low, high if high > low else low + 1
        pictures = np.stack([decoding.to_rgb(each.values, value_range, each.inverted) for each, _ in read])
        return pictures, sum(lossy for _, lossy in read), value_range

    def each(self, value_range: tuple[float, float]) -> Iterator[tuple[Path, np.ndarray]]:
        """All of them, one by one: their path under the folder and uint8, (H, W, 3)."""
        for path in self.paths:
            found, _ = self._decoded(path)
            yield path.relative_to(self.folder), decoding.to_rgb(found.values, value_range, found.inverted)

    def _decoded(self, path: Path) -> tuple[Decoded, bool]:
        data = read_bounded(path, IMAGE_BYTES)
        # of an animation: a picture as any; what transparency would hide is ciphertext too
        found = decoding.decoded(data, str(path), "first", opaque=True)
        shape = found.values.shape[:2]
        if shape == (self.width, self.height) != (self.height, self.width):  # turned, as EXIF says, so no ciphertext
            found = replace(found, values=found.values.swapaxes(0, 1))
        elif shape != (self.height, self.width):
            raise PpvitError(f"{path} changed its size while it was read; try again when nobody writes into the folder")
        return found, decoding.is_lossy(data)


def read_folder(folder: Path) -> list[Pictures]:
    """The pictures of a folder and its folders by size, the commonest size first. No pixels are decoded.

    Raises:
        UsageError: there are none.
        PpvitError: one is damaged, or no regular file.
    """
    if not folder.is_dir():
        packed = ", unpacked" if folder.is_file() else ""
        raise UsageError(f"{folder} is no folder; name one that holds encrypted pictures{packed}")
    paths = sorted(path for path in folder.rglob("*") if _is_picture(path, path.relative_to(folder).parts))
    if not paths:
        raise UsageError(f"{folder} holds no pictures, such as .png or .jpg; name a folder that does, unpacked")
    by_size: dict[tuple[int, int], list[Path]] = {}
    for path in tqdm(paths, desc="audit: sizes", unit="image", leave=False):
        by_size.setdefault(_size(path), []).append(path)
    groups = [Pictures(folder, members, *size) for size, members in by_size.items()]
    return sorted(groups, key=lambda group: (-len(group.paths), group.width, group.height))


def _is_picture(path: Path, parts: tuple[str, ...]) -> bool:
    if decoding.is_noise(parts):
        return False
    if not decoding.has_no_ending(path.name):
        return decoding.image_extension(path.name) is not None
    if not path.is_file():  # a folder, or a pipe
        return False
    with open_regular(path) as file:
        return decoding.extension_by_start(file.read(decoding.START_BYTES)) is not None


def _size(path: Path) -> tuple[int, int]:
    """Width and height as a file says; pixels are not decoded."""
    data = read_bounded(path, IMAGE_BYTES)
    try:
        width, height = decoding.size_of(data, decoding.image_extension(path.name))
    except PpvitError as error:
        raise PpvitError(f"{path}: {error}") from None
    except Exception as error:  # readers name none of those that a damaged file ends in
        why = decoding.reason(error, data)
        raise PpvitError(f"{path}: this image cannot be decoded ({why}); replace or remove it") from None
    return width, height
