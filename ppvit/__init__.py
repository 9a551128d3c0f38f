"""ppvit: fine-tune pretrained Vision Transformers on images encrypted with a secret key.

The names below are the library; ``import ppvit`` loads nothing else until one is used. Adapters of ppvit's own methods
load in plain peft after ``import ppvit.tuners``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppvit.api import adapt, encrypt_images, evaluate, finetune, import_images, predict
    from ppvit.ciphers import CIPHERS, Cipher, make_cipher
    from ppvit.ciphers.keys import Key
    from ppvit.ciphers.keys import generate as generate_key
    from ppvit.ciphers.keys import load as load_key
    from ppvit.ciphers.keys import save as save_key
    from ppvit.core.errors import PpvitError
    from ppvit.data.views import Views
    from ppvit.models import load_model
    from ppvit.tuners import TUNERS, load_finetuned

__version__ = "0.1.0"

_HOMES = {  # module, and its name there
    **{
        name: ("ppvit.api", name)
        for name in ("adapt", "encrypt_images", "evaluate", "finetune", "import_images", "predict")
    },
    **{name: ("ppvit.ciphers", name) for name in ("CIPHERS", "Cipher", "make_cipher")},
    "Key": ("ppvit.ciphers.keys", "Key"),
    "generate_key": ("ppvit.ciphers.keys", "generate"),
    "load_key": ("ppvit.ciphers.keys", "load"),
    "save_key": ("ppvit.ciphers.keys", "save"),
    "PpvitError": ("ppvit.core.errors", "PpvitError"),
    "Views": ("ppvit.data.views", "Views"),
    "load_model": ("ppvit.models", "load_model"),
    "TUNERS": ("ppvit.tuners", "TUNERS"),
    "load_finetuned": ("ppvit.tuners", "load_finetuned"),
}

__all__ = [
    "CIPHERS",
    "TUNERS",
    "Cipher",
    "Key",
    "PpvitError",
    "Views",
    "__version__",
    "adapt",
    "encrypt_images",
    "evaluate",
    "finetune",
    "generate_key",
    "import_images",
    "load_finetuned",
    "load_key",
    "load_model",
    "make_cipher",
    "predict",
    "save_key",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ppvit' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
