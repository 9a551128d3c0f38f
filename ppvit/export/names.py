"""Names of the files that an export may hold."""

from __future__ import annotations

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MODEL, MODEL_CONFIG = "model.safetensors", "config.json"
HEAD = "head.safetensors"
FILES = (ADAPTER, ADAPTER_CONFIG, MODEL, MODEL_CONFIG, HEAD)
RECORD, CARD = "ppvit.json", "README.md"
