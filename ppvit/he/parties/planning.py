"""Owner: how large homomorphic training is, and what computes it, before there is a key."""

from __future__ import annotations

from ppvit.config import Config
from ppvit.core.errors import UsageError
from ppvit.data.labels import LabelSets
from ppvit.data.plain import PlainImages
from ppvit.he.algorithms import ALGORITHMS, Algorithm
from ppvit.he.parties.features import backbone_of, components_of, extract
from ppvit.places import Places

AUTO_IMAGES = 1024  # that he.train_images=auto takes; a quarter of large ones, whose features take longer
SMALL_SIDE = 64


def planned(config: Config, places: Places) -> Algorithm:
    """The algorithm that ``he.algorithm`` names, laid out for the sizes of the data set.

    Raises:
        UsageError: softmax with several labels an image; beyond the bounds; no parameter set has 128 bits of security.
    """
    settings = config.he
    kind = ALGORITHMS[settings.algorithm]
    plain = PlainImages(places.raw, "train", config.dataset, config.encrypt)
    asked = settings.train_images
    if asked == "auto":
        asked = AUTO_IMAGES if config.dataset.image_size <= SMALL_SIDE else AUTO_IMAGES // 4
    images, classes = min(asked, len(plain)), len(plain.classes)
    if settings.loss == "softmax" and isinstance(plain.labelling, LabelSets):
        raise UsageError(
            "he.loss softmax is for images of one class each, and these carry several labels; set he.loss=sigmoid"
        )
    if kind.whitened:
        width = components_of(settings, images)
    else:
        one, _ = extract(config, places.raw, "train", 1, backbone_of(config, places.embedded))
        width = one.shape[1]
    return kind.planned(settings, images, width + 1, classes)
