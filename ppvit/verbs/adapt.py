"""Load the pretrained model, adapt it to the key, prove that nothing was lost, and write it."""

from __future__ import annotations

from typing import Any

from ppvit.adaptation.adapt import CHECKED_IMAGES, TOLERANCE_FLOAT32, adapt_model, way_of
from ppvit.adaptation.learned import add_learned_layers
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.errors import say
from ppvit.core.results import Stopwatch, write_result
from ppvit.data.plain import PlainImages
from ppvit.models import backbone_of, recorded, save_model
from ppvit.places import Places


def run(config: Config, places: Places) -> None:
    """Write ``adapted``, and the measured differences between it and the plain model.

    Args:
        config: ``model``, ``cipher`` and ``adapt`` are used, and of ``dataset`` and ``encrypt`` what says how images
            are resized.
        places: ``embedded`` is read, and of ``raw`` a few training images to measure with; ``adapted`` and the result
            are written.

    Raises:
        PpvitError: see :func:`ppvit.adaptation.adapt.adapt_model` and :func:`ppvit.models.load_backbone`; there are no
            plain images.
    """
    watch = Stopwatch()
    cipher = load_cipher(config)
    plain = PlainImages(places.raw, "train", config.dataset, config.encrypt)
    images = plain.read(0, min(CHECKED_IMAGES, len(plain)))
    backbone = backbone_of(config, places.embedded)
    say(f"adapt: {backbone.origin}")
    add_learned_layers(backbone.model, config.model, cipher)
    measured = adapt_model(backbone, cipher, config.adapt.enabled, images)
    record = {**cipher.record, "model": config.model.name, "adapted": config.adapt.enabled, **recorded(backbone)}
    save_model(places.adapted, backbone, record)
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    values: dict[str, Any] = {**measured, "adapted": config.adapt.enabled, "parameters": parameters}
    values |= {"weights": str(backbone.origin)}
    write_result(places.result("adapt"), values, watch)
    print(_figures(config, values, places))
    if config.adapt.enabled and cipher.scrambles:
        say(f"adapt: the adapted model has the order of the blocks {way_of(backbone.model)}")
    rounding = measured.get("max_logit_difference_stored", 0.0)
    if config.adapt.enabled and rounding > TOLERANCE_FLOAT32:
        say(
            f"adapt: cipher.storage {config.cipher.storage} rounds the ciphertext, which moves the logits of "
            f"{measured['checked_images']} images by up to {rounding:.2g}; cipher.storage=float32 does not"
        )


def _figures(config: Config, values: dict[str, Any], places: Places) -> str:
    """What was measured, in a line."""
    told = f"adapt: {config.model.name}, {values['parameters']:,} parameters, in {places.adapted}"
    if "max_logit_difference_float64" not in values:
        return told
    moved = values["max_logit_difference_float64"]
    return f"{told}; logits differ from those of the plain model by {moved:.1e} (float64)"
