"""Owner: what homomorphic training will take, told before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppvit.config import Config
from ppvit.core.effort import estimate
from ppvit.core.progress import duration
from ppvit.core.results import Stopwatch
from ppvit.data.plain import BATCH, PlainImages
from ppvit.he.algorithms import Algorithm
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.parties.features import pooled
from ppvit.places import Places

if TYPE_CHECKING:  # torch takes seconds to load, and pixels do not need it
    from ppvit.models import Backbone

_TIMED_PIXELS = 2**17  # of images that are timed together: small ones take longer alone


def told(
    config: Config, places: Places, algorithm: Algorithm, session: SecretSession, backbone: Backbone | None
) -> str:
    """Operations of the features, key switches of the training, and how long either takes here, as a line.

    Args:
        config, places: of the run; manifests of the plain images are read.
        algorithm: that trains.
        session: the owner's, which times a key switch; a trainer also reads ciphertexts and multiplies.
        backbone: that makes the features; None for pixels.
    """
    switches = algorithm.plan.key_switches()
    training = duration(switches * session.key_switch_seconds() / algorithm.processes())
    line = f"he: {switches:,} key switches in training: at least {training} here"
    if backbone is None:
        return line
    tested = len(PlainImages(places.raw, "test", config.dataset, config.encrypt))
    images, size = algorithm.plan.images + tested, config.dataset.image_size
    return f"{line}; features of {images:,} images: {_features(backbone, images, size)}"


def _features(backbone: Backbone, images: int, size: int) -> str:
    from ppvit.models.flops import forward_flops

    timed = max(4, min(BATCH, _TIMED_PIXELS // size**2))
    zeros = np.zeros((timed, size, size, 3), np.uint8)
    pooled(zeros, backbone)  # what is done first with this many is not counted
    watch = Stopwatch()
    pooled(zeros, backbone)
    return estimate(images * forward_flops(backbone.model, (3, size, size)), None, watch.seconds() / timed * images)
