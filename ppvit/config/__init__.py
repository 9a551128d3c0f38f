"""The parameters of a run: ``params.yaml``, checked."""

from ppvit.config.loading import default_yaml, describe, load, parameters
from ppvit.config.sections import (
    DEMO_KEY_ID,
    LOCAL_DATA,
    LOCAL_MODEL,
    AttackName,
    Audit,
    Cipher,
    Config,
    Dataset,
    Encrypt,
    Evaluate,
    Finetune,
    He,
    Pretrain,
)

__all__ = [
    "DEMO_KEY_ID",
    "LOCAL_DATA",
    "LOCAL_MODEL",
    "AttackName",
    "Audit",
    "Cipher",
    "Config",
    "Dataset",
    "Encrypt",
    "Evaluate",
    "Finetune",
    "He",
    "Pretrain",
    "default_yaml",
    "describe",
    "load",
    "parameters",
]
