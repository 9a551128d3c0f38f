"""Several views of each image: drawn here of plain images, or two of those that the owner drew before encryption.

A crop or a change of colour of a ciphertext is no ciphertext of a cropped or coloured picture. So views of encrypted
images come from ``encrypt.views``: of k views of an image, the first of which is the image itself, an epoch takes any
two of the others. Published pre-training draws new ones every epoch, which no owner can store; how much k views leave
of it is a curve to be measured.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ppvit.core.errors import PpvitError
from ppvit.data.batches import EncryptedImages
from ppvit.data.contrast import CONTRASTS

LEAST_VIEWS = 3  # the image as it is, and two to make a pair
REFRESHES = 20  # times in a run that DynACL makes views weaker: every 50 of its 1000 epochs


def progress_of(epoch: int, epochs: int) -> float:
    """How far a run of DynACL counts as being: 0, 1/20 .. 19/20; ``epoch`` from 0."""
    return epoch * REFRESHES // epochs / REFRESHES


class Pairs(Dataset[tuple[Tensor, Any]]):
    """Images as views, uint8 or float (views, 3, H, W), in batches that are all of one size.

    Sample ``epoch * n + i`` is image i as an epoch sees it, so that a resumed run and reading processes need no state.
    Of images that do not fill a batch each epoch leaves out others.

    Args:
        images: of training.
        method: ``pretrain.method``; ``advcl`` takes a third view, little changed.
        batch_size: images in a step.
        epochs: of the run.
        seed: decides order and views.

    Raises:
        PpvitError: fewer images than a batch; encrypted ones of fewer than three views; tokens.
    """

    views = 1  # a sample is a set of views already

    def __init__(self, images: EncryptedImages, method: str, batch_size: int, epochs: int, seed: int) -> None:
        if len(images.manifest["shape"]) != 3:
            raise PpvitError(
                f"{images.folder} holds tokens, not pictures, which pretrain.method {method} cannot compare; choose "
                "another cipher.name"
            )
        if len(images) < batch_size:
            raise PpvitError(
                f"{images.folder} has {len(images)} images, fewer than pretrain.batch_size {batch_size}; set it lower"
            )
        self._stored = images.views >= LEAST_VIEWS
        if not self._stored and images.manifest["cipher"]["name"] != "none":
            raise PpvitError(
                f"{images.folder}: the owner must draw the views of encrypted images; set encrypt.views={LEAST_VIEWS} "
                "or more, encrypt.view_recipe=contrastive, and run dvc repro encrypt"
            )
        self.images, self._method = images, method
        self._epochs, self._seed = epochs, seed
        self._length = len(images) // batch_size * batch_size

    def __len__(self) -> int:
        return self._length

    def in_turn(self, indices: np.ndarray, epoch: int) -> np.ndarray:
        """The samples that an epoch takes in these places."""
        samples: np.ndarray = epoch * len(self.images) + _order(len(self.images), self._seed, epoch)[indices]
        return samples

    def __getitem__(self, sample: int) -> tuple[Tensor, Any]:
        """Views of an image, see the class, and its number in place of a label."""
        epoch, index = divmod(int(sample), len(self.images))
        views = self._stored_views(epoch, index) if self._stored else self._drawn_views(epoch, index)
        return torch.stack(views), index

    def _stored_views(self, epoch: int, index: int) -> list[Tensor]:
        draws = np.random.default_rng((self._seed, epoch, index))
        chosen = 1 + draws.choice(self.images.views - 1, 2, replace=False)
        third = [0] if self._method == "advcl" else []
        return [self.images[int(view) * len(self.images) + index][0] for view in (*chosen, *third)]

    def _drawn_views(self, epoch: int, index: int) -> list[Tensor]:
        picture = Image.fromarray(self.images[index][0].permute(1, 2, 0).numpy())
        contrast = CONTRASTS[self._method]
        if self._method == "dynacl":
            contrast = contrast.at(1 - progress_of(epoch, self._epochs))
        seed = int(np.random.default_rng((self._seed, epoch, index)).integers(2**63))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            drawn = [contrast.draw(picture, view) for view in (0, 1)]
            drawn += [_flipped_and_shifted(picture)] if self._method == "advcl" else []
        return [torch.from_numpy(np.array(view)).permute(2, 0, 1) for view in drawn]


@lru_cache(maxsize=2)
def _order(images: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(images)


def _flipped_and_shifted(picture: Image.Image) -> Image.Image:
    """The usual augmentation of small images: shifted by up to an eighth, with zeros around, half of them mirrored."""
    from torchvision.transforms import v2

    margin = picture.height // 8
    chain = v2.Compose([v2.RandomCrop(picture.height, padding=margin), v2.RandomHorizontalFlip()])
    drawn: Image.Image = chain(picture)
    return drawn
