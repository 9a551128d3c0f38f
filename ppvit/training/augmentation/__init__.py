"""Augmentations of ciphertext by name. One more is a file here with an :class:`Augmentation` under
``@AUGMENTATIONS.register()``."""

from __future__ import annotations

from ppvit.training.augmentation.augmenter import Augmenter, make_augmenter
from ppvit.training.augmentation.base import AUGMENTATIONS, FACTS, Augmentation, lacking

__all__ = ["AUGMENTATIONS", "FACTS", "Augmentation", "Augmenter", "lacking", "make_augmenter"]
