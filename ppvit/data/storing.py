"""How ciphertext is stored in shards, and how much of the disk that takes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppvit.core.errors import UsageError
from ppvit.core.files import announce_size
from ppvit.data import images
from ppvit.data.repeats import Layout, find_layout

if TYPE_CHECKING:
    from ppvit.ciphers import Cipher
    from ppvit.data.plain import Plain

_SAMPLE = 16  # images from which the layout and the size of all are told
_TAR_BYTES = 2048  # of a sample, beside its image: two headers, the label, and what fills up


@dataclass(frozen=True)
class Storing:
    """How one image's ciphertext becomes the member of a shard.

    Attributes:
        compress: PNG, where ciphertext is one, with compression.
        layout: where values repeat, so that each is stored once; None where all are stored.
    """

    compress: bool = False
    layout: Layout | None = None

    @classmethod
    def of(cls, compress: bool, once: bool, plain: Plain, cipher: Cipher) -> Storing:
        """For images like the first of ``plain``; ``once``: whether values that repeat are stored once.

        Raises:
            UsageError: none repeats, see :func:`ppvit.data.repeats.find_layout`; ``compress`` under a cipher whose
                ciphertext is no PNG.
        """
        if compress and (cipher.dtype != np.uint8 or len(cipher.shape) != 3):
            raise UsageError(
                f"encrypt.compress is for PNG, and {cipher.name} stores values in NumPy's format; "
                "set encrypt.compress=false"
            )
        if not once:
            return cls(compress)
        sample = plain.read(0, min(_SAMPLE, len(plain)))
        return cls(compress, find_layout(cipher, sample, plain.ids(0, 1) + np.arange(_SAMPLE)))

    @property
    def record(self) -> dict[str, Any]:
        """What a manifest says of it."""
        compression = {"compression": f"zlib {zlib.ZLIB_RUNTIME_VERSION}"} if self.compress else {}
        return compression if self.layout is None else {**compression, "distinct": self.layout.distinct}

    def encoded(self, ciphertext: np.ndarray, where: str) -> tuple[str, bytes]:
        """File extension and content.

        Args:
            ciphertext: of one image.
            where: its place, for the error.

        Raises:
            PpvitError: values do not repeat as in other images.
        """
        if self.layout is None:
            return images.encode_array(ciphertext, self.compress)
        return images.encode_array(self.layout.packed(ciphertext, where))


STORED = Storing()  # every value, without compression


def announce(out: Path, splits: Mapping[str, Plain], cipher: Cipher, storing: Storing) -> None:
    """Say what will be written where, by a sample, before it is begun.

    Raises:
        PpvitError: it does not fit on the disk.
    """
    largest = max(splits.values(), key=len)
    count = min(_SAMPLE, len(largest))
    ciphertext = cipher.encrypt(largest.read(0, count), largest.ids(0, count))
    each = sum(len(storing.encoded(image, str(largest.folder))[1]) for image in ciphertext) // count
    pictures = sum(len(plain) * plain.views for plain in splits.values())
    for split, plain in splits.items():
        if plain.views > 1:
            print(f"{split}: {plain.views} views of each of {len(plain):,} images")
    announce_size(f"{pictures:,} encrypted pictures", out, pictures * (each + _TAR_BYTES))
