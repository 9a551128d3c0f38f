"""Load the pretrained model, adapt it to the key, prove that nothing was lost, and write it."""

from __future__ import annotations

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.results import Stopwatch, write_result
from ppvit.models import backbone_of, save_model
from ppvit.models.stems import add_adaptive_matrix
from ppvit.places import Places

HEADLINE = ("max_logit_difference_float64",)


def run(config: Config, places: Places) -> None:
    """Write ``adapted``, and the measured differences between it and the plain model.

    Args:
        config: ``model``, ``cipher``, ``adapt`` and ``dataset.image_size`` are used.
        places: ``embedded`` is read; ``adapted`` and the result are written.

    Raises:
        PpvitError: see :func:`ppvit.adaptation.adapt.adapt_model` and :func:`ppvit.models.load_backbone`.
    """
    watch = Stopwatch()
    cipher = load_cipher(config)
    backbone = backbone_of(config, places.embedded)
    if config.model.adaptive_matrix:
        add_adaptive_matrix(backbone.model, cipher.blocks)
    measured = adapt_model(backbone, cipher, config.adapt.enabled)
    record = {**cipher.record, "model": config.model.name, "adapted": config.adapt.enabled}
    save_model(places.adapted, backbone, record)
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    values = {**measured, "adapted": config.adapt.enabled, "parameters": parameters}
    write_result(places.result("adapt"), values, watch, HEADLINE)
