"""Augmentations of ciphertext by name. One more is a file here with an :class:`Augmentation` under
``@AUGMENTATIONS.register()``."""

from __future__ import annotations

from ppvit.config import Augment
from ppvit.training.augmentation.augmenter import Augmenter, make_augmenter
from ppvit.training.augmentation.base import AUGMENTATIONS, FACTS, Augmentation, lacking

__all__ = ["AUGMENTATIONS", "FACTS", "Augmentation", "Augmenter", "lacking", "make_augmenter", "parameters_read"]


def parameters_read(settings: Augment) -> set[str]:
    """Names of the parameters of ``augment`` that the chosen augmentations read: no other one changes the result.

    Raises:
        UsageError: there is no such augmentation.
    """
    return {"names", *(name for chosen in settings.names for name in AUGMENTATIONS[chosen].reads)}
