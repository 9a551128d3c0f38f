"""Vision Transformers and ResNets: timm's by name, checkpoints of others, models on disk."""

from ppvit.models.backbones import (
    MICRO,
    MICRO_ARCHITECTURE,
    MICRO_NAME,
    Backbone,
    backbone_of,
    is_convolutional,
    load_backbone,
    model_input,
)
from ppvit.models.folders import load_model, read_record, recorded, save_model

__all__ = [
    "MICRO",
    "MICRO_ARCHITECTURE",
    "MICRO_NAME",
    "Backbone",
    "backbone_of",
    "is_convolutional",
    "load_backbone",
    "load_model",
    "model_input",
    "read_record",
    "recorded",
    "save_model",
]
