"""ppvit: fine-tune pretrained Vision Transformers on images encrypted with a secret key."""

__version__ = "0.1.0"
