"""What the JSON beside shards may say: ``manifest.json`` of encrypted ones, ``dataset.json`` of raw ones."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ppvit.core.reading import Line, Record
from ppvit.data.labels import MOST_LABELS, LabelSets, TaskName

SCHEMA = 2  # version of manifest.json and dataset.json
SPLITS = ("train", "val", "test")
DRAWN = ("views", "view_recipe", "view_versions")  # how views of the training images were drawn
PREPARED = ("resize_filter", "crop", "value_range")  # how pictures were brought to 8 bits and to one size
_SAMPLES = 2**31  # of a split, at most
_BYTES = {"uint8": 1, "float16": 2, "float32": 4}
_CIPHERTEXT_BYTES = 2**28  # of an image, at most; 4096 x 4096 pixels in float32 take 192 MiB
_CLASSES = 2**20

ValueRange = Annotated[list[Annotated[float, Field(ge=-1e38, le=1e38)]], Field(min_length=2, max_length=2)]
Setting = bool | int | float | Annotated[str, Field(max_length=100)]


class ShardRecord(Record):
    """One tar of a split."""

    name: str = Field(max_length=40)
    samples: int = Field(ge=1, le=_SAMPLES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Versioned(Record):
    version: int = Field(alias="schema")

    @field_validator("version")
    @classmethod
    def _known(cls, version: int) -> int:
        if version != SCHEMA:
            raise ValueError(f"version {version} is not {SCHEMA}, which this ppvit reads")
        return version


class Facts(Record):
    """What a trainer may rely on of a cipher: :attr:`ppvit.ciphers.Cipher.facts`."""

    linear: bool
    permutes: bool
    keeps_blocks: bool
    one_key: bool


class EncryptedManifest(_Versioned):
    """``manifest.json`` of one split of encrypted shards; :attr:`ppvit.ciphers.Cipher.record` is a part of it."""

    split: Literal["train", "val", "test"]
    num_classes: int = Field(ge=1, le=_CLASSES)
    task: TaskName = "multiclass"
    count: int = Field(ge=0, le=_SAMPLES)
    cipher: dict[Annotated[str, Field(max_length=100)], Setting] = Field(max_length=100)
    key_id: Annotated[str, Field(pattern=r"^pk-[0-9a-f]{16}$")] | None
    demo_key: bool
    image_size: int = Field(ge=1, le=4096)
    isometry: Literal["values", "length", "none"]
    resize_filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
    crop: Literal["center", "squash", "pad"]
    value_range: ValueRange | None
    isometry_options: dict[Annotated[str, Field(max_length=100)], Setting] = Field(max_length=100)
    facts: Facts
    shape: list[Annotated[int, Field(ge=1, le=2**24)]] = Field(min_length=2, max_length=3)
    dtype: Literal["uint8", "float16", "float32"]
    compression: Annotated[str, Field(max_length=100)] | None = None
    distinct: int | None = Field(None, ge=1, le=_CIPHERTEXT_BYTES)
    """values that are stored of an image, where those that repeat are stored once; see :mod:`ppvit.data.repeats`"""
    shards: list[ShardRecord]
    """of view 0"""
    views: int = Field(1, ge=1, le=1000)
    view_recipe: Literal["none", "flip_crop", "flip_crop_colour", "randaugment", "contrastive"] | None = None
    view_versions: dict[Annotated[str, Field(max_length=100)], Line] = Field({}, max_length=10)
    view_shards: list[list[ShardRecord]] = Field([], max_length=999)
    """of views 1 and so on"""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if not self.count and self.split != "val":
            raise ValueError(f"count 0: only val may hold no images, not {self.split}")
        if len(self.shape) == 3 and self.shape != [self.image_size, self.image_size, 3]:
            raise ValueError(f"shape {self.shape} is not that of images of {self.image_size} pixels")
        if self.distinct is not None and self.distinct > math.prod(self.shape):
            raise ValueError(f"distinct {self.distinct}: shape {self.shape} has fewer values")
        if math.prod(self.shape) * _BYTES[self.dtype] > _CIPHERTEXT_BYTES:
            raise ValueError(f"shape {self.shape}: more than {_CIPHERTEXT_BYTES:,} bytes an image")
        if self.task == LabelSets.task:
            _require_few_labels(self.num_classes)
        elif self.num_classes > self.count and self.split != "val":
            raise ValueError(f"num_classes {self.num_classes}: there are {self.count} images, at least one of each")
        _require_in_order(self.shards, "", self.count)
        if len(self.view_shards) != self.views - 1:
            raise ValueError(f"views {self.views}: it lists shards of {1 + len(self.view_shards)}")
        for view, shards in enumerate(self.view_shards, start=1):
            _require_in_order(shards, f"view{view}-", self.count)
        return self


class Counts(Record):
    """Images of each split."""

    train: int = Field(ge=1, le=_SAMPLES)
    val: int | None = Field(None, ge=1, le=_SAMPLES)
    test: int = Field(ge=1, le=_SAMPLES)


class RawShards(Record):
    """Tars of each split."""

    train: list[ShardRecord] = Field(min_length=1)
    val: list[ShardRecord] | None = Field(None, min_length=1)
    test: list[ShardRecord] = Field(min_length=1)


class Wide(Record):
    """Training images above 8 bits: how many, and the lowest and highest value in them."""

    images: int = Field(ge=1, le=_SAMPLES)
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the lowest value {self.low:g} is above the highest {self.high:g}")
        return self


Found = Annotated[int, Field(ge=0, le=_SAMPLES)]


class Checks(Record):
    """Numbers of images that `download` found something about; see :mod:`ppvit.datasets.duplicates`."""

    unreadable: Found
    """that cannot be decoded and were left out"""
    two_labels: Found
    """whose pixels occur under another label too, in any split"""
    train_repeated: Found
    """beyond the first with these pixels in the split"""
    val_repeated: Found
    test_repeated: Found
    val_known: Found
    """whose pixels are those of a training image"""
    test_known: Found
    """whose pixels are those of a training or validation image"""
    val_near: Found
    """that look like a training image, with other pixels"""
    test_near: Found
    """that look like a training or validation image, with other pixels"""
    test_dropped: Found
    """that were left out for either"""


class RawManifest(_Versioned):
    """``dataset.json``: a plain data set, which stays with the owner."""

    name: Line
    classes: list[Line] = Field(min_length=1, max_length=_CLASSES)
    task: TaskName = "multiclass"
    source: str = Field(max_length=10_000)
    wide: Wide | None = None
    checks: Checks | None = None
    counts: Counts
    shards: RawShards

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        if self.task == LabelSets.task:
            _require_few_labels(len(self.classes))
        for split in SPLITS:
            shards, count = getattr(self.shards, split), getattr(self.counts, split)
            if shards is not None or count is not None:
                _require_in_order(shards or [], f"{split}-", count or 0)
        return self


class Box(Record):
    """Names of classes and source, behind a key; see :mod:`ppvit.data.sealed`."""

    key_id: str = Field(pattern=r"^pk-[0-9a-f]{16}$")
    box: str = Field(pattern=r"^([A-Za-z0-9+/]{4})+[A-Za-z0-9+/=]{0,4}$")


class SealedManifest(_Versioned):
    """``dataset.json`` of a sealed data set: a :class:`RawManifest` once it is open."""

    name: Line
    task: TaskName = "multiclass"
    sealed: Box
    counts: Counts
    shards: RawShards


def _require_few_labels(count: int) -> None:
    if count > MOST_LABELS:
        raise ValueError(f"{count} classes are more than the {MOST_LABELS} that images with several labels may have")


def _require_in_order(shards: list[ShardRecord], prefix: str, count: int) -> None:
    for number, shard in enumerate(shards):
        if shard.name != f"{prefix}{number:06d}.tar":
            raise ValueError(f"shard {number} is not named {prefix}{number:06d}.tar")
    if (samples := sum(shard.samples for shard in shards)) != count:
        raise ValueError(f"the shards hold {samples} images, not the {count} that it says")
