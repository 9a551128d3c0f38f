"""The augmentations of a training run, drawn for every optimiser step anew, the same in any number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ppvit.config import Augment
from ppvit.core.errors import PpvitError, UsageError
from ppvit.training.augmentation.base import AUGMENTATIONS, FACTS, Augmentation, lacking


class Augmenter:
    """Applies the augmentations of ``augment.names`` in their order.

    What an image meets depends on (seed, epoch, step) and on its place in the effective batch. Neighbours there are
    partners, 0 with 1 and 2 with 3 of every forward pass; a process that has one has the other, see
    :func:`ppvit.data.batches.shared_out`. So neither the number of processes nor a resume changes anything, and an even
    batch size may be divided by accumulation.

    Args:
        augmentations: see :func:`make_augmenter`; none changes nothing.
        num_classes: C.
        seed: of all that is drawn.

    Attributes:
        together: how many neighbours in a batch must be in the same process.
    """

    def __init__(self, augmentations: list[Augmentation] | None = None, num_classes: int = 1, seed: int = 0) -> None:
        self._augmentations = augmentations or []
        self._mixing = [each.name for each in self._augmentations if each.pairs]
        self._classes, self._seed = num_classes, seed
        self.together = 2 if self._mixing else 1
        self._drawn: dict[str, np.ndarray] = {}
        self._chosen = np.zeros(0, np.intp)

    def attach(self, model: nn.Module) -> None:
        """Prepare a timm model, before it is extended by a method.

        Raises:
            UsageError: an augmentation that the model is not made for.
        """
        for each in self._augmentations:
            each.attach(model)

    def detach(self) -> None:
        """Put the model back as it was."""
        for each in self._augmentations:
            each.detach()

    def begin_step(self, epoch: int, step: int, images: int) -> None:
        """Draw for an effective batch of so many images, of which the last of an epoch may be the first part."""
        # by the name, so that another augmentation beside it changes nothing
        for each in self._augmentations:
            self._drawn[each.name] = each.draw(self._random(epoch, step, each.name), images)
        self._chosen = self._random(epoch, step, "which of several").integers(max(1, len(self._mixing)), size=images)

    def _random(self, epoch: int, step: int, name: str) -> np.random.Generator:
        return np.random.default_rng((self._seed, epoch, step, int.from_bytes(name.encode(), "little")))

    def __call__(self, inputs: Tensor, labels: Tensor, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Augment a part of the effective batch.

        Args:
            inputs: as the model takes them, (n, ...).
            labels: int64 (n,), or multi-label, float (n, C).
            places: of these images in the effective batch, (n,).

        Returns:
            Inputs, and targets for :meth:`ppvit.models.tasks.Task.loss`: the labels, or where images are mixed,
            probabilities, float (n, C).
        """
        targets = labels
        if self._mixing and not labels.is_floating_point():
            targets = functional.one_hot(labels, self._classes).to(inputs.dtype)
        first = places[np.arange(len(places)) // 2 * 2]  # of each pair
        for each in self._augmentations:
            drawn = torch.from_numpy(self._drawn[each.name][first if each.pairs else places]).to(inputs.device)
            changed = each.apply(inputs, targets, drawn)
            if each.pairs and len(self._mixing) > 1:
                takes = torch.from_numpy(self._chosen[first] == self._mixing.index(each.name)).to(inputs.device)
                changed = _where(takes, changed[0], inputs), _where(takes, changed[1], targets)
            inputs, targets = changed
        return inputs, targets


def _where(takes: Tensor, changed: Tensor, before: Tensor) -> Tensor:
    return changed.where(takes.view(-1, *(1,) * (before.ndim - 1)), before)


def make_augmenter(settings: Augment, manifest: Mapping[str, Any], seed: int, attacked: bool = False) -> Augmenter:
    """The augmentations of a run, where they commute with the cipher of its shards.

    Args:
        settings: the section ``augment``.
        manifest: of the training images.
        seed: ``finetune.seed``.
        attacked: whether training is against an attack.

    Raises:
        UsageError: an unknown name, one that does not commute with the cipher, or, against an attack, one that leaves
            the range of pixels.
        PpvitError: the manifest does not say into which blocks its images are cut.
    """
    if not settings.names:
        return Augmenter()
    made = [AUGMENTATIONS[name](settings, _blocks(manifest)) for name in settings.names]
    _require_commuting(made, manifest)
    for each in made:
        if attacked and not each.keeps_range:
            raise UsageError(
                f"augment.names: '{each.name}' moves pixels beyond black and white, where adversarial.epsilon means "
                "nothing; leave it out, or set finetune.adversarial=none"
            )
    return Augmenter(made, manifest["num_classes"], seed)


def _blocks(manifest: Mapping[str, Any]) -> int:
    image, block = manifest["image_size"], manifest["cipher"].get("block_size")
    if type(block) is not int or block < 1 or image % block:
        raise PpvitError(
            f"the manifest of the training images says cipher.block_size {block!r} for images of {image} pixels; make "
            "it again: dvc repro --force encrypt"
        )
    return int(image // block) ** 2


def _require_commuting(made: list[Augmentation], manifest: Mapping[str, Any]) -> None:
    facts, cipher = manifest["facts"], manifest["cipher"]["name"]
    for each in made:
        if missing := lacking(type(each), facts):
            others = [name for name, kind in AUGMENTATIONS.items() if not lacking(kind, facts)]
            raise UsageError(
                f"augment.names: '{each.name}' does not commute with cipher '{cipher}', because {FACTS[missing[0]]}; "
                f"leave it out (with this cipher there are {', '.join(others)}), or choose a cipher of which "
                "docs/augmentation.md says that it does"
            )
