"""Random views of the training images, which the owner draws before encryption: what no trainer can do on ciphertext.

A flip, a crop or a change of colour of a ciphertext is no ciphertext of a flipped, cropped or coloured picture. So each
is drawn here and stored encrypted, with the index and label of its image; training takes another view each epoch.

**Views leak.** Where blocks and values only change places, a picture and its exact mirror tell half of the key: equal
sets of values match each block to its mirror. So a recipe that flips also cuts out a part of the picture and resamples
it. The part begins anywhere between two pixels, and not on whole ones as torchvision's RandomResizedCrop has it: of a
small picture the same part would come up twice, once flipped. It has nine tenths of the area at most, since almost the
whole of a picture, flipped, is almost its mirror.

All of a view follows from SHA-256 over a salt, the recipe, the number of the image in its raw split and the number of
the view: not from the cipher's key, the choice and order of images, shards, processes or other views. The salt is a
sub-key of a key in the owner's key ring. Whoever has it knows which views are flipped, so it never leaves.
"""

from __future__ import annotations

import hashlib
import math
import sys
import threading
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from ppvit.ciphers import CIPHERS, keys
from ppvit.config import Config
from ppvit.core.errors import UsageError
from ppvit.data import images
from ppvit.data.contrast import OWNERS

SMALLEST_PART, LARGEST_PART = 0.5, 0.9  # share of the picture's area that a view shows
MOST_OBLONG = 4 / 3  # of a part's sides, relative to the picture's
_GENERATOR = threading.Lock()  # torch has one for all threads, and torchvision draws from no other


@dataclass(frozen=True)
class Views:
    """How the views of a split are drawn.

    Attributes:
        count: k, views of each image. View 0 is the picture as it is.
        recipe: what the others are: ``none``, the picture as it is; ``flip_crop``, a part of it at the picture's size,
            half of them mirrored; ``flip_crop_colour``, that with brightness, contrast, saturation and hue changed;
            ``randaugment``, that with two of the 14 changes of Cubuk et al. 2020 (magnitude 9 of 30), as torchvision
            makes them; ``contrastive``, much smaller parts with stronger changes, of which two make a pair for
            :mod:`ppvit.training.contrastive`.
        key: from which the salt is derived; None where nothing is random.
    """

    count: int
    recipe: str
    key: keys.Key | None = None

    @classmethod
    def of(cls, config: Config, split: str) -> Views | None:
        """What ``encrypt`` says of the views of a split; None for one view, as all but training images have.

        Args:
            config: ``encrypt`` and ``cipher`` are used.
            split: its name.

        Raises:
            UsageError: the key that draws them is not in the key ring, or is the public one and the cipher's is not.
        """
        encrypt, cipher = config.encrypt, config.cipher
        if split != "train" or encrypt.views == 1:
            return None
        if encrypt.view_recipe == "none":
            return cls(encrypt.views, "none")
        return cls(encrypt.views, encrypt.view_recipe, _key(encrypt.view_key_id, cipher.name, cipher.key_id))

    def __reduce__(self) -> tuple[Any, ...]:
        # joblib takes a process for leaking that grows after its first task, as torch makes it, and starts another
        return _in_another_process, (self.count, self.recipe, self.key)

    @cached_property
    def salt(self) -> bytes:
        """32 bytes that only the owner has: the key's sub-key for views (HKDF-SHA256)."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        if self.key is None:
            return b""
        info = f"ppvit/{keys.VERSION}/views".encode()
        return HKDF(SHA256(), length=32, salt=None, info=info).derive(self.key.secret)

    @property
    def record(self) -> dict[str, Any]:
        """What a manifest says of them; nothing that would tell one view from another."""
        versions = {name: version(name) for name in ("torchvision", "pillow")}
        return {"views": self.count, "view_recipe": self.recipe, "view_versions": versions}

    def seed(self, index: int, view: int) -> int:
        """64 bits for the view of an image; torch's generator takes 32 of them."""
        parts = (b"ppvit-views-v1", self.salt, self.recipe.encode(), str(index).encode(), str(view).encode())
        return int.from_bytes(hashlib.sha256(b"|".join(parts)).digest()[:8], "big")

    def draw(self, plain: np.ndarray, index: int, view: int, size: int, resize_filter: str, crop: str) -> np.ndarray:
        """A view of one image.

        Args:
            plain: uint8, (H, W, 3), at its own size.
            index: of the image in its raw split.
            view: 0 .. count - 1.
            size, resize_filter, crop: as of :func:`ppvit.data.images.to_square`.

        Returns:
            uint8, (size, size, 3).
        """
        if view == 0 or self.recipe == "none":
            return images.to_square(plain, size, resize_filter, crop)
        import torch

        whole = _whole(plain, size, resize_filter, crop)
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed(index, view))
            numbers = torch.rand(4, dtype=torch.float64).tolist()
            smallest = OWNERS.smallest if self.recipe == "contrastive" else SMALLEST_PART
            box = _part(whole.size, smallest, *numbers)
            part = whole.resize((size, size), Image.Resampling[resize_filter.upper()], box)
            return np.asarray(_changes(self.recipe)(part))


def _in_another_process(count: int, recipe: str, key: keys.Key | None) -> Views:
    if recipe != "none":
        _changes(recipe)
    return Views(count, recipe, key)


def _key(view_key_id: str, cipher: str, key_id: str) -> keys.Key:
    if view_key_id != keys.DEMO_KEY.id:
        return keys.load(view_key_id)
    if CIPHERS[cipher].keyed and key_id != keys.DEMO_KEY.id:
        raise UsageError(
            "encrypt.view_key_id is the public demo key, so anybody could tell which views are flipped; make one with "
            "`ppvit keygen` and set it to its id"
        )
    print("warning: the public demo key draws the views, so anybody can tell how", file=sys.stderr)
    return keys.DEMO_KEY


def _whole(plain: np.ndarray, size: int, resize_filter: str, crop: str) -> Image.Image:
    """What view 0 shows of a picture, at the picture's own resolution where nothing is added to it."""
    height, width = plain.shape[:2]
    if crop == "pad":
        return Image.fromarray(images.to_square(plain, size, resize_filter, crop))
    picture = Image.fromarray(plain)
    if crop == "center" and height != width:
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    return picture


def _part(
    size: tuple[int, int], smallest: float, area: float, shape: float, across: float, down: float
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the part that four numbers in [0, 1) choose, in pixels.

    Its area is uniform, the logarithm of its width to height too, so far as it fits, and so is its place.
    """
    share = smallest + (LARGEST_PART - smallest) * area
    oblong = math.exp((2 * shape - 1) * min(math.log(MOST_OBLONG), -math.log(share)))
    corners = []
    for side, length, place in zip(size, (share * oblong, share / oblong), (across, down), strict=True):
        length = math.sqrt(length)
        start = place * (1 - length)
        # thousandths of a pixel, so that the last digits of a processor's logarithm change nothing
        corners.append((round(start * side, 3), min(round((start + length) * side, 3), float(side))))
    (left, right), (top, bottom) = corners
    return left, top, right, bottom


@cache
def _changes(recipe: str) -> Any:
    """What is done to the part that was cut out: a transform of torchvision, from Pillow image to Pillow image."""
    from torchvision.transforms import v2

    if recipe == "contrastive":
        return OWNERS.changes()
    flip = v2.RandomHorizontalFlip()
    if recipe == "flip_crop_colour":
        return v2.Compose([flip, v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)])
    if recipe == "randaugment":
        return v2.Compose([flip, v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR)])
    return flip
