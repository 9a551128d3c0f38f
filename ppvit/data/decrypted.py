"""The images of encrypted shards, decrypted by their owner."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppvit.ciphers import Cipher
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.batches import EncryptedImages
from ppvit.data.manifests import DRAWN, PREPARED
from ppvit.data.plain import image_id


class DecryptedImages:
    """What :class:`ppvit.data.plain.PlainImages` gave when a split was encrypted: the same pixels in the same order.

    Args:
        folder: what `encrypt` wrote.
        split: ``train``, ``val`` or ``test``.
        cipher: with the key under which it was encrypted.

    Attributes:
        folder: of the split.
        classes: their numbers; the names are not in the shards.
        labelling, labels: as of :class:`ppvit.data.plain.PlainImages`.
        prepared: as when it was encrypted.
        images_per_shard: as when it was encrypted.
        compressed, once: as when it was encrypted: with compression, and values that repeat once.
        views, drawn: as when it was encrypted.

    Raises:
        UsageError: the cipher does not give every bit back.
        PpvitError: see :class:`ppvit.data.batches.EncryptedImages`.
    """

    def __init__(self, folder: Path, split: str, cipher: Cipher) -> None:
        if not (cipher.invertible and cipher.lossless):
            why = "loses bits" if cipher.invertible else "has no decryption"
            raise UsageError(
                f"cipher '{cipher.name}' {why}, so {folder} cannot be encrypted again without data/raw; set "
                "cipher.key_id and run dvc repro"
            )
        self._encrypted = EncryptedImages(folder, split)
        self._cipher = cipher
        self._split = split
        self.folder = self._encrypted.folder
        self.classes = [str(number) for number in range(self._encrypted.num_classes)]
        self.labelling = self._encrypted.labelling
        self.labels = self._encrypted.labels()
        self.prepared = {name: self._encrypted.manifest[name] for name in PREPARED}
        self.compressed = self._encrypted.manifest["compression"] is not None
        self.once = self._encrypted.manifest["distinct"] is not None
        self.views: int = self._encrypted.views
        self.drawn = {name: self._encrypted.manifest[name] for name in DRAWN} if self.views > 1 else {}
        sizes = [shard["samples"] for shard in self._encrypted.manifest["shards"]]
        self.images_per_shard: int = max(sizes, default=1)
        if set(sizes[:-1]) - {self.images_per_shard}:
            raise PpvitError(f"{self.folder}: shards of sizes that encrypt does not write; make them again with it")

    def __len__(self) -> int:
        return len(self.labels)

    def ids(self, start: int, stop: int, view: int = 0) -> np.ndarray:
        """See :meth:`ppvit.data.plain.PlainImages.ids`."""
        return image_id(self._split, 0, view) + np.arange(start, stop)

    def read(self, start: int, stop: int, view: int = 0) -> np.ndarray:
        """A view of images start .. stop - 1: uint8, (n, H, W, 3)."""
        ciphertext = self._encrypted.ciphertext(view * len(self) + np.arange(start, stop))
        return self._cipher.decrypt(ciphertext, self.ids(start, stop, view))
