"""Plain images at rest behind a key: every member of every sample sealed on its own, so that each is read by position.

AES-256-SIV (RFC 5297) under a sub-key (HKDF-SHA256) of a key of the key ring, with data set, split, place and kind as
associated data: what was altered, cut, moved, exchanged or sealed with another key does not open. It is deterministic,
so that DVC finds equal data equal: whoever sees two states of one data set sees which samples are the same in both.
Sizes of images to the byte, their formats and how many there are stay visible. Labels are written at one length and
origins at multiples of 64 bytes; class names, and what `download` found about images, are sealed with the manifest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ppvit.ciphers import keys
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import read_json, read_record
from ppvit.data.manifests import RawManifest, SealedManifest
from ppvit.data.shards import read_manifest

UNSEALED = "none"  # value of download.key_id
_ORIGIN_BYTES = 64
_SECRET = ("classes", "source", "wide", "checks")  # of the manifest


class Seal:
    """Seals and opens what belongs to one data set.

    Args:
        key: from the key ring.
        name: of the data set.
    """

    def __init__(self, key: keys.Key, name: str) -> None:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        self.key_id = key.id
        self._key, self._name = key, name
        info = f"ppvit/{keys.VERSION}/sealed".encode()
        self._subkey = HKDF(SHA256(), length=64, salt=None, info=info).derive(key.secret)

    def __reduce__(self) -> tuple[Any, ...]:
        return Seal, (self._key, self._name)  # of what is derived from the key nothing goes to other processes

    @classmethod
    def of(cls, key_id: str, name: str) -> Seal | None:
        """The seal that ``download.key_id`` names; None where it is ``none``.

        Raises:
            UsageError: no such key, or the public demo key.
        """
        if key_id == UNSEALED:
            return None
        if key_id == keys.DEMO_KEY.id:
            raise UsageError(
                "download.key_id is the public demo key, which seals nothing; make one with `ppvit keygen`"
            )
        return cls(keys.load(key_id), name)

    def seal(self, content: bytes, *place: str) -> bytes:
        """``content``, not empty, for a place: a tag of 16 bytes and as many bytes as it has."""
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        return AESSIV(self._subkey).encrypt(content, self._associated(place))

    def open(self, content: bytes, where: str, *place: str) -> bytes:
        """The inverse of :meth:`seal`.

        Raises:
            PpvitError: names ``where``.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        try:
            return AESSIV(self._subkey).decrypt(content, self._associated(place))
        except InvalidTag:
            raise PpvitError(
                f"{where} does not open with key {self.key_id}: it was altered, moved or sealed with another; restore "
                "it from your backup, or make it again: dvc repro --force download"
            ) from None

    def _associated(self, place: tuple[str, ...]) -> list[bytes]:
        return [each.encode() for each in (self._name, *place)]

    def samples(
        self, split: str, samples: Iterable[dict[str, bytes]], set_bytes: int = 0
    ) -> Iterator[dict[str, bytes]]:
        """Samples of raw shards, sealed in their order; multi-label, ``set_bytes`` is what the longest label takes."""
        for index, sample in enumerate(samples):
            yield {
                extension: self.seal(_at_one_length(extension, content, set_bytes), split, str(index), _kind(extension))
                for extension, content in sample.items()
            }

    def member(self, split: str, content: bytes, where: str, index: int, extension: str) -> bytes:
        """Open a member of a sample; of an image any extension will do.

        Raises:
            PpvitError: see :meth:`open`.
        """
        plain = self.open(content, where, split, str(index), _kind(extension))
        return plain.rstrip({"txt": b"\0", "cls": b" "}[extension]) if extension in ("txt", "cls") else plain

    def manifest(self, values: dict[str, Any]) -> dict[str, Any]:
        """``dataset.json`` with what tells of the images sealed, and all else in it bound to that."""
        kept = {name: value for name, value in values.items() if name not in _SECRET}
        secret = {name: values[name] for name in _SECRET if name in values}
        box = base64.b64encode(self.seal(_json(secret), "manifest", _json(kept).decode())).decode()
        return {**kept, "sealed": {"key_id": self.key_id, "box": box}}


def read_dataset(folder: Path) -> tuple[dict[str, Any], Seal | None]:
    """The manifest of raw shards, opened where it is sealed; and the seal, with a key of the key ring.

    Raises:
        PpvitError: missing or damaged, see :func:`ppvit.data.shards.read_manifest`; or it does not open.
        UsageError: the key is not in the key ring.
    """
    path = folder / "dataset.json"
    said = read_json(path, "download")
    if not (isinstance(said, dict) and "sealed" in said):
        return read_manifest(folder, "download", path.name), None
    kept = read_record(path, SealedManifest, "download").model_dump(by_alias=True, exclude_unset=True)
    sealed = kept.pop("sealed")
    seal = Seal(keys.load(sealed["key_id"]), kept["name"])
    secret = seal.open(base64.b64decode(sealed["box"]), str(path), "manifest", _json(kept).decode())
    whole = RawManifest.model_validate({**kept, **json.loads(secret)})
    return whole.model_dump(by_alias=True), seal


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


def _kind(extension: str) -> str:
    return extension if extension in ("cls", "txt") else "image"


def _at_one_length(extension: str, content: bytes, set_bytes: int) -> bytes:
    """A class number, class numbers or an origin at a length that does not tell which."""
    if extension == "cls":
        return content.ljust(set_bytes) if set_bytes else content.rjust(8, b"0")
    if extension == "txt":
        return content.ljust((len(content) // _ORIGIN_BYTES + 1) * _ORIGIN_BYTES, b"\0")
    return content
