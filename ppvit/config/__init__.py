"""The parameters of a run: ``params.yaml``, checked."""

from ppvit.config.adversarial import Adversarial
from ppvit.config.augment import Augment
from ppvit.config.dataset import NO_DATA, Dataset
from ppvit.config.finetune import Finetune
from ppvit.config.he import He
from ppvit.config.limits import parameters
from ppvit.config.loading import checked, default_yaml, load
from ppvit.config.pretrain import Pretrain
from ppvit.config.reasons import describe
from ppvit.config.robustness import Robustness, Threats
from ppvit.config.sections import (
    DEMO_KEY_ID,
    NO_MODEL,
    Audit,
    Cipher,
    Config,
    Encrypt,
    Evaluate,
)

__all__ = [
    "DEMO_KEY_ID",
    "NO_DATA",
    "NO_MODEL",
    "Adversarial",
    "Audit",
    "Augment",
    "Cipher",
    "Config",
    "Dataset",
    "Encrypt",
    "Evaluate",
    "Finetune",
    "He",
    "Pretrain",
    "Robustness",
    "Threats",
    "checked",
    "default_yaml",
    "describe",
    "load",
    "parameters",
]
